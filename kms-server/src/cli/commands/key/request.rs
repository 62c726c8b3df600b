//! Requests about a key.

use crate::cli::client::{ClientError, path_of};
use crate::cli::failure::Failure;

/// Returns the path of an operation on a key.
pub fn key_path(operation: &str, name: &str) -> String {
    path_of(&format!("key/{operation}"), name)
}

/// Converts an error, and puts a context before its message.
pub fn failed(doing: &str, error: ClientError) -> Failure {
    Failure::from(error).context(doing)
}
