//! The runtime of commands that do little at once.

use super::failure::Failure;

/// Runs a future of a command that does little at once.
pub fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|error| Failure::new(format!("cannot start: {error}")))?.block_on(future))
}
