//! The binary `kms`.

use std::process::ExitCode;

fn main() -> ExitCode {
    kms_server::cli::run()
}
