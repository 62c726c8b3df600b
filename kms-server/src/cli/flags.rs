//! Flags as KES takes them, rewritten for clap.

use std::any::TypeId;
use std::ffi::OsString;
use std::time::Duration;

use clap::{Arg, ArgAction, Command};

/// Rewrites flags in KES's forms into flags that clap understands.
///
/// KES takes `--json=true` and `--json=false` for a flag that has no value. An option whose value is empty counts as absent:
/// `--api-key "$KEY"` where the variable is not set.
///
/// Words after `--` are no flags. Clap judges an option's value that looks like a flag, such as `--cert --json=true`.
pub fn plain_flags(definition: &Command, arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut command = definition;
    let mut plain = Vec::new();
    let mut are_flags_over = false;
    let mut arguments = arguments.into_iter().peekable();
    while let Some(argument) = arguments.next() {
        are_flags_over |= argument == "--";
        let Some(text) = argument.to_str().filter(|_| !are_flags_over) else {
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

/// Finds a flag of a command by one of its names. Of several short flags in one word (`-ka`) this is the last.
pub fn find_flag<'a>(command: &'a Command, flag: &str) -> Option<&'a Arg> {
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
    // The letters behind an option are its value.
    let are_plain =
        names.all(|name| command.get_arguments().any(|known| short(known, name) && is_plain(known)));
    known.find(|known| are_plain && short(known, last))
}

/// Returns a word of short flags without its last flag, or `None` if no other flag is in the word.
fn flags_before(flag: &str) -> Option<OsString> {
    let end = flag.char_indices().next_back().map_or(0, |(start, _)| start);
    let before = flag.get(..end).filter(|before| !flag.starts_with("--") && before.len() > 1);
    before.map(OsString::from)
}

/// Returns whether a flag takes no value.
fn is_plain(flag: &Arg) -> bool {
    matches!(flag.get_action(), ArgAction::SetTrue | ArgAction::Version)
}

/// Returns whether an empty value of an option means that the option is absent.
///
/// As with KES, an empty duration is a mistake.
fn may_be_empty(flag: &Arg) -> bool {
    matches!(flag.get_action(), ArgAction::Set | ArgAction::Append)
        && flag.get_num_args().is_none_or(|values| values.min_values() > 0)
        && flag.get_value_parser().type_id() != TypeId::of::<Duration>()
}

/// Reads the value of a flag as Go does.
fn as_bool(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
