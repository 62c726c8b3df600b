//! The end of a command, which prints the waiting output and chooses the exit code.

use std::process::ExitCode;

use super::failure::Failure;
use super::output::Output;
use crate::host::process;

/// Prints the waiting output, and the reason for a failure, and returns the exit code of the process.
pub fn code(done: Result<(), Failure>) -> ExitCode {
    // The output of a command comes before the reason why it ends there.
    let written = Output::flush().map_err(Failure::from);
    match done.and(written) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.is_unread() {
                process::die_of_broken_pipe();
            }
            failure.print();
            ExitCode::FAILURE
        }
    }
}
