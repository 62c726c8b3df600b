//! The runtime of every command but `kms server`.

use super::failure::Failure;

/// Runs a future to its end, on this thread.
pub fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|error| Failure::new(format!("cannot start: {error}")))?.block_on(future))
}
