//! Answers that take the place of a command: the version, a help, and the reason why arguments are wrong.

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};

use super::definition::definition;
use super::exit;
use super::failure::Failure;
use super::flags::find_flag;
use super::name::Name;
use super::output::Output;
use crate::host::platform::platform;
use crate::text::mask::mask;
use crate::text::terminal::EscapedText;

/// Prints what clap has in place of parsed arguments, and returns the exit code.
pub fn answer(error: &Error, name: Name) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayVersion => exit::code(print_version()),
        _ if name == Name::Kes && is_mistake(error) => {
            let arguments: Vec<_> = std::env::args_os().collect();
            exit::code(Err(mistake(error, &definition(), &arguments)))
        }
        _ => {
            print(error);
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

/// Prints the help to stderr, as there is no command to run.
pub fn answer_no_command(name: Name) -> ExitCode {
    let _ = write!(io::stderr(), "{}", definition().bin_name(name.as_str()).render_help());
    ExitCode::from(2)
}

/// Returns whether the arguments are wrong. A request for help is no mistake, nor is a call without any arguments.
fn is_mistake(error: &Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            | ErrorKind::DisplayVersion
    )
}

/// Prints the first line of KES's version. Scripts look for `Version` and take the second word.
fn print_version() -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    Output::new(false).line(format_args!("Version    {version:<22} {}", platform()))
}

/// Prints clap's text, which is a help or a mistake. Secrets among the arguments are hidden.
fn print(error: &Error) {
    let text = error.to_string();
    match mask(&text) {
        Cow::Borrowed(_) => drop(error.print()),
        Cow::Owned(masked) => drop(write!(io::stderr(), "{}", EscapedText(masked))),
    }
}

/// Puts a mistake of the arguments into KES's words: one line, which names the help.
fn mistake(error: &Error, definition: &Command, arguments: &[OsString]) -> Failure {
    let text = error.to_string();
    let command = command_of(definition, arguments);
    let first = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.first().cloned().unwrap_or_default(),
        _ => String::new(),
    };
    let argument = first(ContextKind::InvalidArg);
    let flag = argument.split([' ', '=']).next().unwrap_or_default();
    let what = match error.kind() {
        ErrorKind::UnknownArgument if flag.starts_with("--") => format!("unknown flag: {flag}"),
        ErrorKind::UnknownArgument if flag.starts_with('-') => {
            format!("unknown shorthand flag: '{}' in {flag}", flag.trim_start_matches('-'))
        }
        ErrorKind::TooManyValues if flag.starts_with('-') => {
            let value = first(ContextKind::InvalidValue);
            format!("invalid argument \"{value}\" for \"{flag}\" flag: expected true or false")
        }
        ErrorKind::UnknownArgument | ErrorKind::TooManyValues => "too many arguments".to_owned(),
        // `log` took one word in 2020, so clap calls another one an invalid value.
        ErrorKind::InvalidValue if argument == "[FORMER]" => "too many arguments".to_owned(),
        // The first word may be a command or an argument, so clap calls a second one a conflict.
        ErrorKind::ArgumentConflict if command == "kes identity" => "too many arguments".to_owned(),
        ErrorKind::InvalidSubcommand => {
            let last = command.rsplit(' ').next().unwrap_or_default();
            format!("\"{}\" is not a {last} command", first(ContextKind::InvalidSubcommand))
        }
        ErrorKind::MissingRequiredArgument => format!("no {} specified", missing(&command, flag)),
        ErrorKind::InvalidValue if first(ContextKind::InvalidValue).is_empty() => {
            format!("flag needs an argument: {flag}")
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation if flag.starts_with('-') => {
            let value = first(ContextKind::InvalidValue);
            let reason = first_line(&text).rsplit_once(": ").map_or("", |(_, reason)| reason);
            let reason =
                if error.kind() == ErrorKind::InvalidValue { "invalid color option" } else { reason };
            format!("invalid argument \"{value}\" for \"{flag}\" flag: {reason}")
        }
        _ => first_line(&text).to_owned(),
    };
    Failure::new(format!("{what}. See '{command} --help'"))
}

/// Returns KES's name of a missing argument.
fn missing<'a>(command: &str, argument: &'a str) -> &'a str {
    match argument.trim_matches(['<', '>', '[', ']', '.']) {
        "NAME" if command.contains(" policy") => "policy name",
        "NAME" => "key name",
        "KEY" => "crypto key",
        "MESSAGE" => "message",
        "CIPHERTEXT" => "ciphertext",
        "API-KEY|CERTIFICATE" => "API key or certificate",
        _ => argument,
    }
}

/// Returns the names of the command that the arguments call. The first word that is no command ends the search.
fn command_of(definition: &Command, arguments: &[OsString]) -> String {
    let (mut command, mut names) = (definition, vec!["kes"]);
    let mut words = arguments.iter().skip(1).filter_map(|argument| argument.to_str());
    while let Some(word) = words.next() {
        let flag = find_flag(command, word);
        if flag.is_some_and(|flag| flag.get_action().takes_values()) {
            words.next();
        }
        if word.starts_with('-') {
            continue;
        }
        let Some(found) = command.find_subcommand(word) else { break };
        names.push(found.get_name());
        command = found;
    }
    names.join(" ")
}

fn first_line(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line)
}
