//! The one place where commands print: text for people, or JSON.
//!
//! What a terminal would obey is never printed as it is, wherever it came from; see [`terminal`].

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use super::Failure;
use crate::terminal::{self, Escaped, EscapedText, ShownJson};

/// Where a command's result goes.
#[derive(Clone, Copy)]
pub struct Output {
    json: bool,
    terminal: bool,
}

impl Output {
    /// Prints to stdout, as JSON if `json`.
    pub fn new(json: bool) -> Self {
        Self { json, terminal: io::stdout().is_terminal() }
    }

    /// Tells whether JSON was asked for.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Tells whether somebody reads this on a terminal.
    pub fn is_terminal(self) -> bool {
        self.terminal
    }

    /// Prints one line, whatever is in it, and flushes.
    pub fn line(self, line: impl fmt::Display) -> Result<(), Failure> {
        self.lines([line])
    }

    /// Prints lines, each of which stays one, and flushes.
    pub fn lines(self, lines: impl IntoIterator<Item = impl fmt::Display>) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        for line in lines {
            writeln!(stdout, "{}", Escaped(line))?;
        }
        Ok(stdout.flush()?)
    }

    /// Prints a text of our own with a line end, and flushes. Text from elsewhere goes by [`line`](Self::line), where it can
    /// make no further line.
    pub fn text(self, text: impl fmt::Display) -> Result<(), Failure> {
        Ok(Self::print(text)?)
    }

    /// Prints a text with a line end, and flushes; fails as the system says.
    pub fn print(text: impl fmt::Display) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", EscapedText(text))?;
        stdout.flush()
    }

    /// Prints a line behind a mark that is green where colours are welcome, and flushes.
    pub fn good(self, line: impl fmt::Display) -> Result<(), Failure> {
        let is_coloured = self.terminal && std::env::var_os("NO_COLOR").is_none();
        let mark = if is_coloured { "\x1b[32m●\x1b[0m" } else { "●" };
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{mark} {}", Escaped(line))?;
        Ok(stdout.flush()?)
    }

    /// Prints a value as one line of JSON, and flushes.
    pub fn json(self, value: &impl Serialize) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        let mut serializer = serde_json::Serializer::with_formatter(&mut stdout, ShownJson);
        value.serialize(&mut serializer).map_err(io::Error::from)?;
        writeln!(stdout)?;
        Ok(stdout.flush()?)
    }

    /// Prints JSON as a server sent it, and flushes.
    pub fn received_json(self, json: &[u8]) -> Result<(), Failure> {
        let json = terminal::escape_json(&String::from_utf8_lossy(json));
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", json.trim_end())?;
        Ok(stdout.flush()?)
    }
}

/// Prints a line for people to stderr, where it does not get into the result.
pub fn note(line: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{}", Escaped(line));
}
