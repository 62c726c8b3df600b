//! The definition of the command line: its commands and the flags of all of them.

use std::ffi::OsString;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use super::colour::Colour;
use super::commands::{
    backup, check, completion, config, escrow, identity, init, key, log, ls, man, metric, migrate, policy,
    postgres, root, root_key, server, status, top, update,
};
use super::flags;

/// Returns the definition of the command line.
///
/// A flag may be given twice: some scripts add a flag to an alias that has it already.
pub fn definition() -> clap::Command {
    Cli::command().args_override_self(true)
}

/// Parses the arguments of a process, of which the first is the program.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut definition = definition();
    definition.build();
    let arguments = flags::plain_flags(&definition, arguments);
    Cli::from_arg_matches(&definition.try_get_matches_from(arguments)?)
}

// The rustdoc of everything below is help text.

/// A key server for MinIO and everything that speaks the KES protocol, and its command line.
#[derive(Parser)]
#[command(name = "kms", version, disable_version_flag = true, arg_required_else_help = true)]
pub struct Cli {
    /// Print the version.
    #[arg(short = 'v', short_alias = 'V', long, action = clap::ArgAction::Version)]
    pub version: Option<bool>,
    /// Choose when to print in colours; 'auto' does on a terminal that supports them, unless NO_COLOR is set.
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t)]
    pub color: Colour,
    /// Install completion of commands and flags in this shell (bash or zsh).
    #[arg(long)]
    pub auto_completion: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run a server.
    Server(server::Args),
    /// Create everything that a single server needs: certificate, root key, admin and config.
    Init(init::Args),
    /// Check a config, and the files, key store and keys that it names.
    Check(check::Args),
    /// Show what a config means, and convert one of KES.
    #[command(subcommand)]
    Config(config::Command),
    /// Manage the roots of a key store, each of which opens it.
    #[command(subcommand)]
    Root(root::Command),
    /// Print the SQL of a key store in PostgreSQL.
    #[command(subcommand)]
    Postgres(postgres::Command),
    /// Back up all keys, and check, restore and try out backups.
    #[command(subcommand)]
    Backup(backup::Command),
    /// Manage the root key of a local store.
    #[command(subcommand)]
    RootKey(root_key::Command),
    /// Check the files of sealed keys, and bring keys back from them.
    #[command(subcommand)]
    Escrow(escrow::Command),
    /// Manage and use keys.
    #[command(subcommand)]
    Key(key::Command),
    /// Create API keys and certificates, and print their identities.
    Identity(identity::Args),
    /// Show the policies of a server, and test whether a policy allows a request.
    #[command(subcommand)]
    Policy(policy::Command),
    /// List keys, identities or policies.
    Ls(ls::Args),
    /// Show the errors or the requests of a server as they happen.
    Log(log::Args),
    /// Show the metrics of a server.
    Metric(metric::Args),
    /// Move keys from one key store to another.
    Migrate(migrate::Args),
    /// Show the status of a server.
    Status(status::Args),
    /// Print the script by which a shell completes commands and flags.
    Completion(completion::Args),
    /// Write the man pages of all commands.
    #[command(hide = true)]
    Man(man::Args),
    /// Watch servers: load, latency, cache, key store, policies, and what is wrong now.
    Top(top::Args),
    /// Not supported: packages and images bring new versions.
    #[command(hide = true)]
    Update(update::Args),
    /// The commands of 2020.
    #[command(subcommand, hide = true)]
    Tool(ToolCommand),
}

#[derive(Subcommand)]
pub enum ToolCommand {
    /// Create certificates, and print their identities.
    #[command(subcommand)]
    Identity(identity::ToolCommand),
    /// Move keys from one key store to another.
    Migrate(migrate::Args),
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
