//! `kms escrow`: checks escrow files, and brings keys back from them.

mod files;
mod restore;
mod verify;

use clap::Subcommand;

use crate::cli::failure::Failure;
use crate::cli::warnings;
use crate::config::Environment;

/// The commands of `kms escrow`.
#[derive(Subcommand)]
pub enum Command {
    /// Check escrow files, and name the keys in them; no secret is needed.
    Verify(verify::Args),
    /// Bring the keys in escrow files back into a key store.
    Restore(restore::Args),
}

/// Runs one of the commands.
pub fn run(command: &Command, environment: &Environment) -> Result<(), Failure> {
    // What opens a key store warns through the log.
    warnings::show();
    match command {
        Command::Verify(args) => verify::run(args, environment),
        Command::Restore(args) => restore::run(args, environment),
    }
}
