//! `kes tool identity`, the commands of 2020.

use std::path::Path;

use clap::Subcommand;

use super::new::{self, Files, NewArgs};
use super::of;
use crate::cli::failure::Failure;
use crate::cli::name::Call;

/// The commands of `kes tool identity`.
#[derive(Subcommand)]
pub enum ToolCommand {
    /// Create a certificate and its private key.
    New(NewArgs),
    /// Print the identity of a certificate.
    Of(ToolOfArgs),
}

#[derive(clap::Args)]
pub struct ToolOfArgs {
    /// The file of a certificate, or an API key; '-' reads either from stdin.
    #[arg(value_name = "API-KEY|CERTIFICATE", default_value = "-")]
    of: String,
    /// The hash function of the identity. Servers know SHA-256 alone.
    #[arg(long, hide = true, ignore_case = true, value_parser = ["SHA256", "SHA-256"])]
    hash: Option<String>,
    /// Print the identity as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs one of the commands.
pub fn run_tool(command: ToolCommand, call: Call<'_>) -> Result<(), Failure> {
    match command {
        // In 2020 there were no API keys, so files are always written. These were their names.
        ToolCommand::New(args) => {
            let files = Files { key: Path::new("private.key"), cert: Path::new("public.crt") };
            new::run(args, Some(files), call)
        }
        ToolCommand::Of(args) => of::print_identity(&args.of, args.json, call),
    }
}
