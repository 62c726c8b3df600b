//! `kms config`: shows what a config means, and converts one of KES.

mod convert;
mod effective;
mod show;
mod stores;
mod values;

use clap::Subcommand;

use crate::cli::failure::Failure;
use crate::cli::name::Call;

/// The commands of `kms config`.
#[derive(Subcommand)]
pub enum Command {
    /// Show the settings that are in force, and where each of them comes from.
    Show(show::Args),
    /// Convert a config of KES, of any release, into our form.
    Convert(convert::Args),
}

/// Runs one of the commands.
pub fn run(command: &Command, call: Call<'_>) -> Result<(), Failure> {
    match command {
        Command::Show(args) => show::run(args, call),
        Command::Convert(args) => convert::run(args, call),
    }
}
