//! `kes update`, which is not supported.

use crate::cli::failure::Failure;

/// The arguments of KES's command, whatever they are.
#[derive(clap::Args)]
pub struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _arguments: Vec<String>,
}

/// Fails, and says how to get a new version.
pub fn run(_: &Args) -> Result<(), Failure> {
    Err(Failure::new("update is not supported: install the new version as you did this one"))
}
