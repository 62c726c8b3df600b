//! The one place where commands print: text for people, or JSON.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use super::Failure;

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

    /// Prints a text with a line end, and flushes.
    pub fn text(self, text: impl fmt::Display) -> Result<(), Failure> {
        Ok(Self::print(text)?)
    }

    /// Prints a text with a line end, and flushes; fails as the system says.
    pub fn print(text: impl fmt::Display) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")?;
        stdout.flush()
    }

    /// Prints a value as one line of JSON, and flushes.
    pub fn json(self, value: &impl Serialize) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        serde_json::to_writer(&mut stdout, value).map_err(io::Error::from)?;
        writeln!(stdout)?;
        Ok(stdout.flush()?)
    }

    /// Makes a text green where colours are welcome.
    pub fn green(self, text: &str) -> String {
        if self.terminal && std::env::var_os("NO_COLOR").is_none() {
            format!("\x1b[32m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Prints a line for people to stderr, where it does not get into the result.
pub fn note(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
