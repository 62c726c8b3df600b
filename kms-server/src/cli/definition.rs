//! The definition of the command line: its commands and flags.

use std::ffi::OsString;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use super::colour::Colour;
use super::commands::{identity, init, key, log, metric, policy, root_key, server, status};
use super::{listing, usage};

/// Returns the definition of the command line. A flag may be there twice, as scripts have it that add one to an alias.
pub fn definition() -> clap::Command {
    Cli::command().args_override_self(true)
}

pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut definition = definition();
    definition.build();
    let arguments = usage::plain_flags(&definition, arguments);
    Cli::from_arg_matches(&definition.try_get_matches_from(arguments)?)
}

/// A key server for MinIO and everything that speaks the KES protocol, and its command line.
#[derive(Parser)]
#[command(name = "kms", version, disable_version_flag = true, arg_required_else_help = true)]
pub struct Cli {
    /// Print the version.
    #[arg(short = 'v', short_alias = 'V', long, action = clap::ArgAction::Version)]
    pub version: Option<bool>,
    /// When to print in colours; auto is on a terminal that has them, and where NO_COLOR is not set.
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t)]
    pub color: Colour,
    /// Have this shell (bash or zsh) complete commands and flags from now on.
    #[arg(long)]
    pub auto_completion: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run a server.
    Server(server::Args),
    /// Make all that a single server needs: certificate, root key, admin, config.
    Init(InitArgs),
    /// Tell what is wrong with a configuration before production does.
    Check(CheckArgs),
    /// Manage the root key of a local store.
    #[command(subcommand)]
    RootKey(root_key::Command),
    /// Manage and use keys.
    #[command(subcommand)]
    Key(key::Command),
    /// Make API keys and certificates, and tell whose they are.
    Identity(identity::Args),
    /// Tell what policies of a server allow, and why a request would pass or not.
    #[command(subcommand)]
    Policy(policy::Command),
    /// List keys, identities or policies.
    Ls(listing::Args),
    /// Show errors or requests of a server as they happen.
    Log(log::Args),
    /// Show the metrics of a server.
    Metric(metric::Args),
    /// Move keys from one key store to another.
    Migrate(MigrateArgs),
    /// Tell how a server is.
    Status(status::Args),
    /// Not supported: packages and images bring new versions.
    #[command(hide = true)]
    Update(UpdateArgs),
    /// The commands of 2020.
    #[command(subcommand, hide = true)]
    Tool(ToolCommand),
}

#[derive(Subcommand)]
pub enum ToolCommand {
    /// Make certificates, and tell whose they are.
    #[command(subcommand)]
    Identity(identity::ToolCommand),
    /// Move keys from one key store to another.
    Migrate(MigrateArgs),
}

/// Whatever KES's command may be given.
#[derive(clap::Args)]
pub struct UpdateArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _arguments: Vec<String>,
}

#[derive(clap::Args)]
pub struct InitArgs {
    #[command(flatten)]
    pub plan: init::Plan,
    /// Print what was made as JSON.
    #[arg(long)]
    pub json: bool,
}

/// The arguments of KES's command.
#[derive(clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct MigrateArgs {
    /// The config file of the key store to read.
    #[arg(long, value_name = "FILE")]
    from: Option<std::path::PathBuf>,
    /// The config file of the key store to write.
    #[arg(long, value_name = "FILE")]
    to: Option<std::path::PathBuf>,
    /// Overwrite keys.
    #[arg(short, long)]
    force: bool,
    /// Pass over keys that are there.
    #[arg(long)]
    merge: bool,
    /// What the names of the keys begin with.
    pattern: Option<String>,
    /// The server of another product, to which KES moves keys.
    #[arg(short, long, hide = true)]
    server: Option<String>,
    /// Its enclave.
    #[arg(short, long, hide = true)]
    enclave: Option<String>,
    /// Its API key.
    #[arg(short, long, hide = true)]
    api_key: Option<String>,
    /// Whether its certificate is verified.
    #[arg(short = 'k', long, hide = true)]
    insecure: bool,
    /// Print no progress.
    #[arg(short, long, hide = true)]
    quiet: bool,
}

#[derive(clap::Args)]
pub struct CheckArgs {
    /// The config file.
    #[arg(long, value_name = "FILE")]
    pub config: std::path::PathBuf,
    /// Read and decode every key, on backends where that takes a call for each.
    #[arg(long)]
    pub all: bool,
    /// Print the findings as JSON.
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn flags_may_follow_arguments_as_with_kes() {
        for line in [
            "kms key create --insecure my-key",
            "kms key create my-key other -k",
            "kms key dek my-key -k --json",
            "kes identity new --ip 127.0.0.1 localhost --dns kes --key=F --cert=F --expiry 87660h",
            "kes tool identity new --force --key F --cert F localhost",
            "kes tool identity of F",
            "kes key delete my-key -k",
            "kes key derive my-key Y29udGV4dA==",
            "kms server --dev --addr 127.0.0.1:0",
            "kms status -s",
        ] {
            let parsed = parse(line.split(' ').map(OsString::from));
            assert!(parsed.is_ok(), "{line}");
        }
    }
}
