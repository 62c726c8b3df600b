//! Arguments as `kes` takes them, and what it says of wrong ones: one line, and the exit code 1.

use std::any::TypeId;
use std::ffi::OsString;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, Error};

use super::failure::Failure;

/// Writes flags as clap knows them. Of one without a value KES takes `--json=true` and `--json=false`, too, and an option
/// whose value is empty is not given: `--api-key "$KEY"` with no such variable.
///
/// What comes after `--` is no flag. An option's value that looks like one, such as `--cert --json=true`, is left to clap.
pub fn plain_flags(definition: &Command, arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let (mut command, mut plain, mut is_over) = (definition, Vec::new(), false);
    let mut arguments = arguments.into_iter().peekable();
    while let Some(argument) = arguments.next() {
        is_over |= argument == "--";
        let Some(text) = argument.to_str().filter(|_| !is_over) else {
            plain.push(argument);
            continue;
        };
        command = command.find_subcommand(text).unwrap_or(command);
        let (flag, value) = text.split_once('=').map_or((text, None), |(flag, value)| (flag, Some(value)));
        match (find_flag(command, flag), value) {
            (Some(found), Some(value)) if is_plain(found) && as_bool(value).is_some() => {
                if as_bool(value) == Some(true) {
                    plain.push(flag.into());
                }
            }
            (Some(found), Some("")) if flag.starts_with("--") && may_be_empty(found) => {}
            (Some(found), None)
                if may_be_empty(found) && arguments.next_if(|next| next.is_empty()).is_some() =>
            {
                plain.extend(flags_before(flag));
            }
            _ => plain.push(argument),
        }
    }
    plain
}

/// Finds a flag of a command by one of its names; of several in one word (`-ka`) the last.
fn find_flag<'a>(command: &'a Command, flag: &str) -> Option<&'a Arg> {
    let mut known = command.get_arguments();
    if let Some(name) = flag.strip_prefix("--") {
        return known.find(|known| {
            known.get_long() == Some(name) || known.get_all_aliases().unwrap_or_default().contains(&name)
        });
    }
    let short = |known: &Arg, name| {
        known.get_short() == Some(name) || known.get_all_short_aliases().unwrap_or_default().contains(&name)
    };
    let mut names = flag.strip_prefix('-')?.chars();
    let last = names.next_back()?;
    // What follows an option in its word is its value.
    let are_plain =
        names.all(|name| command.get_arguments().any(|known| short(known, name) && is_plain(known)));
    known.find(|known| are_plain && short(known, last))
}

/// Returns the flags that stand in one word with a last one, which is left out.
fn flags_before(flag: &str) -> Option<OsString> {
    let end = flag.char_indices().next_back().map_or(0, |(start, _)| start);
    let before = flag.get(..end).filter(|before| !flag.starts_with("--") && before.len() > 1);
    before.map(OsString::from)
}

/// Tells whether a flag has no value.
fn is_plain(flag: &Arg) -> bool {
    matches!(flag.get_action(), ArgAction::SetTrue | ArgAction::Version)
}

/// Tells whether a flag wants a value, and takes none for not being given; as with KES, a duration is none when it is empty.
fn may_be_empty(flag: &Arg) -> bool {
    matches!(flag.get_action(), ArgAction::Set | ArgAction::Append)
        && flag.get_num_args().is_none_or(|values| values.min_values() > 0)
        && flag.get_value_parser().type_id() != TypeId::of::<Duration>()
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
        // A word behind `log`, of which there was one in 2020.
        ErrorKind::InvalidValue if argument == "[FORMER]" => "too many arguments".to_owned(),
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

/// Names the command that the arguments are of: behind a word that is none, there are no more.
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
