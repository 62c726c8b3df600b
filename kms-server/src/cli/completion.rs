//! Completion of commands and flags by bash and zsh, which call the program for it (`complete -C`).

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Command;

use super::failure::Failure;
use super::name::Call;
use crate::host::files;

/// Prints the candidates for completion if a shell asks for them, and returns whether it does.
///
/// A shell puts the line into `COMP_LINE`, and passes the command and two words as arguments. No other call has both.
pub fn answer(definition: &Command) -> bool {
    let Some(line) = std::env::var_os("COMP_LINE").and_then(|line| line.into_string().ok()) else {
        return false;
    };
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let is_of_shell = match arguments.as_slice() {
        [] => true,
        [command, _, _] => line.split_whitespace().next().is_some_and(|first| command == first),
        _ => false,
    };
    if !is_of_shell {
        return false;
    }
    let point = std::env::var("COMP_POINT").ok().and_then(|point| point.parse().ok());
    let line = line.get(..point.unwrap_or(line.len())).unwrap_or(&line);
    let mut stdout = io::stdout().lock();
    for candidate in candidates(definition, line) {
        // An error means that the shell is gone, and it needs no answer then.
        let _ = writeln!(stdout, "{candidate}");
    }
    true
}

/// Returns the candidates for the last word of a line: flags if it begins with `-`, and commands otherwise.
fn candidates(definition: &Command, line: &str) -> Vec<String> {
    let mut words: Vec<_> = line.split_whitespace().collect();
    let begun = if line.ends_with(char::is_whitespace) { "" } else { words.pop().unwrap_or_default() };
    let mut command = definition;
    for word in words.iter().skip(1) {
        command = command.find_subcommand(word).unwrap_or(command);
    }
    let all: Vec<String> = if begun.starts_with('-') {
        let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
        shown.filter_map(|argument| argument.get_long()).map(|flag| format!("--{flag}")).collect()
    } else {
        let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
        shown.map(|command| command.get_name().to_owned()).collect()
    };
    all.into_iter().filter(|candidate| candidate.starts_with(begun)).collect()
}

/// Adds a line to the start-up file of the user's shell, by which the shell calls this program for completion.
pub fn install(call: Call<'_>) -> Result<(), Failure> {
    let Some(shell) = call.environment.first_of(&["SHELL"]) else {
        return Err(Failure::new("failed to detect shell. The env variable $SHELL is not defined"));
    };
    let (file, before) = match Path::new(shell).file_name().and_then(|name| name.to_str()) {
        Some("bash") => (".bashrc", None),
        Some("zsh") => (".zshrc", Some("autoload -U +X bashcompinit && bashcompinit")),
        _ => return Err(Failure::new(format!("auto-completion for '{shell}' is not available"))),
    };
    let home = call.environment.first_of(&["HOME"]);
    let file =
        PathBuf::from(home.ok_or_else(|| Failure::new("the env variable $HOME is not defined"))?).join(file);
    let failed = |error| Failure::new(files::failed(&file, &error));

    let program =
        std::env::current_exe().map_err(|error| Failure::new(format!("cannot find itself: {error}")))?;
    let program = program.display().to_string();
    let quoted = if program.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c)) {
        program
    } else {
        format!("'{}'", program.replace('\'', r"'\''"))
    };
    let lines: Vec<_> = before
        .map(str::to_owned)
        .into_iter()
        .chain([format!("complete -o default -C {quoted} {}", call.name.as_str())])
        .collect();

    let output = call.output(false);
    let present = match std::fs::read_to_string(&file) {
        // A new user has none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        present => present.map_err(failed)?,
    };
    if lines.iter().all(|line| present.lines().any(|there| there == line)) {
        return output.line("Completion is already installed.");
    }
    let mut added =
        if present.is_empty() || present.ends_with('\n') { String::new() } else { "\n".to_owned() };
    for line in &lines {
        added.push_str(line);
        added.push('\n');
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(&file)
        .and_then(|mut file| file.write_all(added.as_bytes()))
        .map_err(failed)?;
    let file = file.display();
    output.line(format_args!("Added completion to '{file}'"))?;
    output.line("")?;
    output.line(format_args!("To uninstall completion remove the following lines from '{file}':"))?;
    output.lines(lines.iter().map(|line| format!("   {line}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_flags_are_proposed_where_they_may_stand() {
        let definition = crate::cli::definition::definition();
        for (line, expected) in [
            ("kes id", &["identity"] as &[&str]),
            ("kes key d", &["discard", "dek", "decrypt"]),
            ("kes key create --insec", &["--insecure"]),
            ("kes key create my-key", &[]),
            ("kes too", &[]),
        ] {
            assert_eq!(candidates(&definition, line), expected, "{line}");
        }
        assert!(candidates(&definition, "kes ").contains(&"server".to_owned()));
        assert!(candidates(&definition, "kes key ls -").contains(&"--json".to_owned()));
    }
}
