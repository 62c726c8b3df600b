//! `kms backup`: makes, checks, restores and tries out archives of all keys.

mod archive;
mod create;
mod drill;
mod restore;
mod verify;

use clap::Subcommand;

use crate::cli::failure::Failure;
use crate::cli::name::Call;
use crate::cli::warnings;

/// The commands of `kms backup`.
#[derive(Subcommand)]
pub enum Command {
    /// Back up all keys of a running server, or those of a stopped store with --config.
    Create(create::Args),
    /// Check every byte of a backup and open every key in it; restore nothing.
    Verify(verify::Args),
    /// Restore the keys of a backup to the key store of a config; overwrite nothing.
    Restore(restore::Args),
    /// Restore a backup into memory, open what each key sealed, and write down what came of it.
    Drill(drill::Args),
}

/// Runs one of the commands.
pub fn run(command: Command, call: Call<'_>) -> Result<(), Failure> {
    // What opens a key store warns through the log.
    warnings::show();
    match command {
        Command::Create(args) => create::run(&args, call),
        Command::Verify(args) => verify::run(&args),
        Command::Restore(args) => restore::run(&args, call.environment),
        Command::Drill(args) => drill::run(&args),
    }
}
