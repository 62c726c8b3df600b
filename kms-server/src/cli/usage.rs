//! Arguments as `kes` takes them, and what it says of wrong ones: one line, and the exit code 1.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Command, Error};

use super::Failure;

/// Writes flags without a value as clap knows them: KES takes `--json=true` and `--json=false`, too.
///
/// What comes after `--` is no flag. An option's value that looks like one, such as `--cert --json=true`, is left to clap.
pub fn plain_flags(definition: &Command, arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut flags = Vec::new();
    collect_flags(definition, &mut flags);
    let (mut plain, mut is_over) = (Vec::new(), false);
    for argument in arguments {
        is_over |= argument == "--";
        let written = argument.to_str().filter(|_| !is_over).and_then(|text| text.split_once('='));
        match written.and_then(|(flag, value)| Some((flag, as_bool(value)?))) {
            Some((flag, value)) if flags.iter().any(|known| known == flag) => {
                if value {
                    plain.push(flag.into());
                }
            }
            _ => plain.push(argument),
        }
    }
    plain
}

/// Adds the flags of a command, and of the commands under it, that have no value.
fn collect_flags(command: &Command, flags: &mut Vec<String>) {
    for argument in command.get_arguments() {
        if matches!(argument.get_action(), ArgAction::SetTrue | ArgAction::Version) {
            let long = argument.get_long_and_visible_aliases().unwrap_or_default();
            flags.extend(long.iter().map(|name| format!("--{name}")));
            let short = argument.get_short_and_visible_aliases().unwrap_or_default();
            flags.extend(short.iter().map(|name| format!("-{name}")));
        }
    }
    command.get_subcommands().for_each(|command| collect_flags(command, flags));
}

/// Reads a value of a flag as Go does.
fn as_bool(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Says what is wrong with the arguments, in one line that names the help.
pub fn failure(error: &Error, definition: &Command, arguments: &[OsString]) -> Failure {
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
        // A second word behind what might have been a command.
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

/// Names an argument that is missing as KES does.
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

/// Names the command that the arguments are of.
fn command_of(definition: &Command, arguments: &[OsString]) -> String {
    let (mut command, mut names) = (definition, vec!["kes"]);
    for word in arguments.iter().skip(1).filter_map(|argument| argument.to_str()) {
        if let Some(found) = command.find_subcommand(word) {
            names.push(found.get_name());
            command = found;
        }
    }
    names.join(" ")
}

fn first_line(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line)
}
