//! `kms identity`: creates API keys and certificates, and prints their identities.

mod info;
mod new;
mod of;
mod source;
mod tool;

use clap::Subcommand;

use self::info::InfoArgs;
use self::new::NewArgs;
use self::of::OfArgs;
pub use self::source::identity_of;
pub use self::tool::{ToolCommand, run_tool};
use crate::cli::failure::Failure;
use crate::cli::listing::{self, Kind, ListArgs};
use crate::cli::name::Call;

/// The arguments of `kms identity`: a command, or an API key or a file.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print the identity of an API key or of the certificate in a file, or the API key of the private key in a file; '-' reads
    /// from stdin. Without this argument, create an API key.
    #[arg(value_name = "API-KEY|FILE")]
    of: Option<String>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// The commands of `kms identity`.
#[derive(Subcommand)]
pub enum Command {
    /// Create an API key, and with --key and --cert a certificate and its private key.
    New(NewArgs),
    /// Print the identity of an API key or of a certificate.
    Of(OfArgs),
    /// Show what an identity may do on a server.
    Info(InfoArgs),
    /// List the identities that a server knows.
    #[command(alias = "list")]
    Ls(ListArgs),
}

/// Runs one of the commands.
pub fn run(args: Args, call: Call<'_>) -> Result<(), Failure> {
    match args.command {
        None => match &args.of {
            None => new::run_without_arguments(args.json, call),
            Some(of) => of::run_for_any(of, args.json, call),
        },
        Some(Command::New(args)) => new::run(args, None, call),
        Some(Command::Of(args)) => of::run(&args, call),
        Some(Command::Info(args)) => info::run(&args, call),
        Some(Command::Ls(args)) => listing::print(Kind::Identities, &args, call),
    }
}
