//! The command line `kms`, which understands what KES's does and may be called `kes`.

pub mod client;
mod colour;
mod commands;
mod completion;
mod connection;
mod definition;
mod duration;
mod failure;
mod listing;
mod name;
mod output;
mod password;
mod runtime;
mod usage;

use std::borrow::Cow;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::error::ErrorKind;

use self::commands::{check, identity, init, key, log, metric, policy, root_key, server, status};
use self::definition::{CheckArgs, Cli, Command, InitArgs, ToolCommand, definition, parse};
use self::failure::Failure;
use self::name::{Call, Name};
use self::output::Output;
use self::runtime::block_on;
use crate::config::Environment;
use crate::host::platform::platform;
use crate::host::process;
use crate::text::mask::mask;
use crate::text::terminal::EscapedText;

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
    Output::new(false).line(format_args!("Version    {version:<22} {}", platform()))
}

/// Prints what is wrong with the arguments, or the help. Secrets among the arguments are hidden.
fn print_usage(error: &clap::Error) {
    let text = error.to_string();
    match mask(&text) {
        Cow::Borrowed(_) => drop(error.print()),
        Cow::Owned(masked) => drop(write!(io::stderr(), "{}", EscapedText(masked))),
    }
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
    let made = init::init(&args.plan)?;
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
