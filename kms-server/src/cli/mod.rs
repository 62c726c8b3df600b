//! The command line `kms`, which understands what KES's does and may be called `kes`.

mod completion;
mod connection;
mod discard;
mod duration;
mod failure;
mod identity;
mod key;
mod listing;
mod log;
mod metric;
mod name;
mod output;
mod password;
mod policy;
mod root_key;
mod server;
mod signals;
mod status;
mod usage;

use std::borrow::Cow;
use std::ffi::OsString;
use std::future::Future;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub use self::failure::Failure;
use self::name::{Call, Name};
use self::output::Colour;
pub use self::output::Output;
use crate::check;
use crate::config::Environment;
use crate::mask::mask;
use crate::process;
use crate::terminal::EscapedText;

/// Runs the command line of this process and returns its exit code: 1 for an error, 2 for wrong usage. As `kes`, wrong usage
/// is 1, too.
pub fn run() -> ExitCode {
    if completion::answer(&definition()) {
        return ExitCode::SUCCESS;
    }
    let name = Name::of_this_process();
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) if error.kind() == ErrorKind::DisplayVersion => return exit_code(print_version()),
        Err(error) if name == Name::Kes && is_mistake(&error) => {
            let arguments: Vec<_> = std::env::args_os().collect();
            return exit_code(Err(usage::failure(&error, &definition(), &arguments)));
        }
        Err(error) => {
            print_usage(&error);
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let environment = match Environment::of_this_process() {
        Ok(environment) => environment,
        Err(problem) => return exit_code(Err(problem.into())),
    };
    let call = Call { environment: &environment, name, colour: cli.color };
    exit_code(match cli {
        Cli { auto_completion: true, .. } => completion::install(call),
        Cli { command: Some(command), .. } => dispatch(command, call),
        Cli { command: None, .. } => {
            let _ = write!(io::stderr(), "{}", definition().bin_name(name.as_str()).render_help());
            return ExitCode::from(2);
        }
    })
}

/// Returns the definition of the command line. A flag may be there twice, as scripts have it that add one to an alias.
fn definition() -> clap::Command {
    Cli::command().args_override_self(true)
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut definition = definition();
    definition.build();
    let arguments = usage::plain_flags(&definition, arguments);
    Cli::from_arg_matches(&definition.try_get_matches_from(arguments)?)
}

/// Tells whether the arguments are wrong: no help was asked for, and not all of them are missing.
fn is_mistake(error: &clap::Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            | ErrorKind::DisplayVersion
    )
}

fn exit_code(done: Result<(), Failure>) -> ExitCode {
    // What was printed comes before the reason for which no more is.
    let written = Output::flush().map_err(Failure::from);
    match done.and(written) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.is_unread() {
                process::die_of_broken_pipe();
            }
            failure.print();
            ExitCode::FAILURE
        }
    }
}

/// Prints the first line of what KES prints: scripts look for `Version`, and take the second word.
fn print_version() -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    Output::new(false).line(format_args!("Version    {version:<22} {}", crate::api::platform()))
}

/// Prints what is wrong with the arguments, or the help. Secrets among the arguments are hidden.
fn print_usage(error: &clap::Error) {
    let text = error.to_string();
    match mask(&text) {
        Cow::Borrowed(_) => drop(error.print()),
        Cow::Owned(masked) => drop(write!(io::stderr(), "{}", EscapedText(masked))),
    }
}

/// A key server for MinIO and everything that speaks the KES protocol, and its command line.
#[derive(Parser)]
#[command(name = "kms", version, disable_version_flag = true, arg_required_else_help = true)]
struct Cli {
    /// Print the version.
    #[arg(short = 'v', short_alias = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// When to print in colours; auto is on a terminal that has them, and where NO_COLOR is not set.
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t)]
    color: Colour,
    /// Have this shell (bash or zsh) complete commands and flags from now on.
    #[arg(long)]
    auto_completion: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
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
enum ToolCommand {
    /// Make certificates, and tell whose they are.
    #[command(subcommand)]
    Identity(identity::ToolCommand),
    /// Move keys from one key store to another.
    Migrate(MigrateArgs),
}

/// Whatever KES's command may be given.
#[derive(clap::Args)]
struct UpdateArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _arguments: Vec<String>,
}

#[derive(clap::Args)]
struct InitArgs {
    #[command(flatten)]
    plan: crate::init::Plan,
    /// Print what was made as JSON.
    #[arg(long)]
    json: bool,
}

/// The arguments of KES's command.
#[derive(clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
struct MigrateArgs {
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
struct CheckArgs {
    /// The config file.
    #[arg(long, value_name = "FILE")]
    config: std::path::PathBuf,
    /// Read and decode every key, on backends where that takes a call for each.
    #[arg(long)]
    all: bool,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

fn dispatch(command: Command, call: Call<'_>) -> Result<(), Failure> {
    let environment = call.environment;
    match command {
        Command::Server(args) => server::run(args, environment),
        Command::Init(args) => init(&args),
        Command::Check(args) => run_check(&args, environment),
        Command::RootKey(command) => root_key::run(command, environment),
        Command::Key(command) => key::run(command, call),
        Command::Identity(args) => identity::run(args, call),
        Command::Tool(ToolCommand::Identity(command)) => identity::run_tool(command, call),
        Command::Policy(command) => policy::run(command, call),
        Command::Ls(args) => listing::run(&args, call.with_forced_colours()),
        Command::Log(args) => log::run(&args, call.with_forced_colours()),
        Command::Metric(args) => metric::run(&args, call.with_forced_colours()),
        Command::Migrate(_) | Command::Tool(ToolCommand::Migrate(_)) => Err(Failure::new(
            "migrate is not supported yet in this version; docs/from-kes.md says how to move keys without it",
        )),
        Command::Status(args) => status::run(&args, call),
        Command::Update(_) => {
            Err(Failure::new("update is not supported: install the new version as you did this one"))
        }
    }
}

fn init(args: &InitArgs) -> Result<(), Failure> {
    let made = crate::init::init(&args.plan)?;
    let output = Output::new(args.json);
    if output.is_json() { output.json(&made.to_json()) } else { output.text(made) }
}

fn run_check(args: &CheckArgs, environment: &Environment) -> Result<(), Failure> {
    let report = block_on(check::check(&args.config, environment, args.all))?;
    let output = Output::new(args.json);
    if output.is_json() {
        output.json(&report)?;
    } else {
        output.text(&report)?;
    }
    match report.errors() {
        0 => Ok(()),
        1 => Err(Failure::new(format!("{}: 1 problem", args.config.display()))),
        count => Err(Failure::new(format!("{}: {count} problems", args.config.display()))),
    }
}

/// Runs a future of a command that does little at once.
fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|error| Failure::new(format!("cannot start: {error}")))?.block_on(future))
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
