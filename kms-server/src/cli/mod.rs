//! The command line `kms`. It understands what KES's command line understands, and may be called `kes`.

mod client;
mod colour;
mod commands;
mod completion;
mod connection;
mod definition;
mod exit;
mod failure;
mod flags;
mod format;
mod listing;
mod name;
mod output;
mod password;
mod reachable;
mod runtime;
mod samples;
mod usage;
mod warnings;

use std::process::ExitCode;

use self::commands::{
    backup, check, config, escrow, identity, init, key, log, ls, man, metric, migrate, policy, postgres,
    root, root_key, server, status, top, update,
};
use self::definition::{Cli, Command, ToolCommand, definition, parse};
use self::failure::Failure;
use self::name::{Call, Name};
use crate::config::Environment;
use crate::host::process;

/// Runs the command line of this process and returns its exit code.
///
/// The code is 0 for success, 1 for a failure and 2 for wrong usage. As `kes`, wrong usage is 1, too.
pub fn run() -> ExitCode {
    if completion::answer(&definition()) {
        return ExitCode::SUCCESS;
    }
    let name = Name::of_this_process();
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return usage::answer(&error, name),
    };
    let environment = match Environment::of_this_process() {
        Ok(environment) => environment,
        Err(problem) => return exit::code(Err(problem.into())),
    };
    let call = Call { environment: &environment, name, colour: cli.color };
    match cli {
        Cli { auto_completion: true, .. } => exit::code(completion::install(call)),
        Cli { command: Some(command), .. } => exit::code(dispatch(command, call)),
        Cli { command: None, .. } => usage::answer_no_command(name),
    }
}

/// Returns whether a command has master keys or root keys in its memory. What the server does is its own.
fn reads_keys(command: &Command) -> bool {
    matches!(
        command,
        Command::Backup(_)
            | Command::Escrow(_)
            | Command::Migrate(_)
            | Command::Tool(ToolCommand::Migrate(_))
            | Command::Root(_)
            | Command::RootKey(_)
            | Command::Init(_)
    )
}

fn dispatch(command: Command, call: Call<'_>) -> Result<(), Failure> {
    let environment = call.environment;
    if reads_keys(&command) {
        process::protect_memory();
    }
    match command {
        Command::Server(args) => server::run(args, call),
        Command::Init(args) => init::run(&args),
        Command::Check(args) => check::run(&args, environment),
        Command::Config(command) => config::run(&command, call),
        Command::Root(command) => root::run(&command, call),
        Command::Postgres(command) => postgres::run(command, environment),
        Command::Backup(command) => backup::run(command, call),
        Command::RootKey(command) => root_key::run(command, environment),
        Command::Escrow(command) => escrow::run(&command, environment),
        Command::Key(command) => key::run(command, call),
        Command::Identity(args) => identity::run(args, call),
        Command::Policy(command) => policy::run(command, call),
        Command::Ls(args) => ls::run(&args, call.with_forced_colours()),
        Command::Log(args) => log::run(&args, call.with_forced_colours()),
        Command::Metric(args) => metric::run(&args, call.with_forced_colours()),
        Command::Status(args) => status::run(&args, call),
        Command::Top(args) => top::run(&args, call),
        Command::Migrate(args) | Command::Tool(ToolCommand::Migrate(args)) => migrate::run(&args, call),
        Command::Completion(args) => commands::completion::run(&args, &definition(), call),
        Command::Man(args) => man::run(&args, definition()),
        Command::Update(args) => update::run(&args),
        Command::Tool(ToolCommand::Identity(command)) => identity::run_tool(command, call),
    }
}
