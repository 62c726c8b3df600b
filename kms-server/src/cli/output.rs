//! The one place where commands print: text for people, or JSON.
//!
//! Characters that a terminal would obey are escaped, wherever they came from; see [`terminal`].

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use zeroize::Zeroize as _;

use super::colour::{Colour, Style};
use super::failure::Failure;
use crate::text::terminal::{self, Escaped, EscapedText, ShownJson};

/// Output for a pipe or a file, which waits for the end of the command.
///
/// A reader such as `grep -q` goes away after the first write that has a match. A second write would fail.
static UNWRITTEN: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Whether output is written at once, for commands that print as things happen.
static IS_LIVE: AtomicBool = AtomicBool::new(false);

/// Output is written before the end of the command when more bytes than this wait.
const MOST_UNWRITTEN: usize = 64 * 1024;

/// The output of a command, on stdout.
#[derive(Clone, Copy)]
pub struct Output {
    json: bool,
    terminal: bool,
    colours: bool,
}

impl Output {
    /// Creates an output that prints JSON if `json`.
    pub fn new(json: bool) -> Self {
        Self::coloured(json, Colour::Auto)
    }

    /// Creates an output that prints JSON if `json`, and in colours when `colour` says so.
    pub fn coloured(json: bool, colour: Colour) -> Self {
        let terminal = io::stdout().is_terminal();
        Self { json, terminal, colours: colour.are_wanted(terminal) }
    }

    /// Returns whether the user asked for JSON.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Returns whether stdout is a terminal.
    pub fn is_terminal(self) -> bool {
        self.terminal
    }

    /// Has all later output written at once.
    pub fn write_at_once() {
        IS_LIVE.store(true, Ordering::Relaxed);
    }

    /// Writes the output that waits.
    pub fn flush() -> io::Result<()> {
        let mut unwritten = UNWRITTEN.lock().unwrap_or_else(PoisonError::into_inner);
        // With nothing to write, stdout is left alone: a server whose stdout is broken does not fail at its end.
        if unwritten.is_empty() { Ok(()) } else { write_out(&mut unwritten) }
    }

    fn put(self, print: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> Result<(), Failure> {
        let mut unwritten = UNWRITTEN.lock().unwrap_or_else(PoisonError::into_inner);
        // A vector that grows leaves a copy behind, which nobody wipes.
        if unwritten.capacity() == 0 {
            unwritten.reserve(2 * MOST_UNWRITTEN);
        }
        print(&mut unwritten)?;
        if self.terminal || IS_LIVE.load(Ordering::Relaxed) || unwritten.len() > MOST_UNWRITTEN {
            write_out(&mut unwritten)?;
        }
        Ok(())
    }

    /// Prints one line. Line ends in it are escaped.
    pub fn line(self, line: impl fmt::Display) -> Result<(), Failure> {
        self.lines([line])
    }

    /// Prints lines. Line ends in them are escaped.
    pub fn lines(self, lines: impl IntoIterator<Item = impl fmt::Display>) -> Result<(), Failure> {
        self.put(|out| lines.into_iter().try_for_each(|line| writeln!(out, "{}", Escaped(line))))
    }

    /// Prints a text of our own, and a line end.
    ///
    /// Text from elsewhere goes through [`line`](Self::line), where it cannot add lines.
    pub fn text(self, text: impl fmt::Display) -> Result<(), Failure> {
        self.put(|out| writeln!(out, "{}", EscapedText(text)))
    }

    /// Prints a script or a file of our own as it is, and a line end. A terminal would obey what is in it.
    pub fn script(self, text: &str) -> Result<(), Failure> {
        self.put(|out| writeln!(out, "{text}"))
    }

    /// Prints a text and a line end at once, and returns the error of the system.
    pub fn print(text: impl fmt::Display) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", EscapedText(text))?;
        stdout.flush()
    }

    /// Prints texts in one line, each in its style.
    pub fn row(self, parts: &[(Style, &str)]) -> Result<(), Failure> {
        self.put(|out| {
            for (style, text) in parts {
                let parameters = style.parameters();
                if self.colours && !parameters.is_empty() {
                    write!(out, "\x1b[{parameters}m{}\x1b[0m", Escaped(text))?;
                } else {
                    write!(out, "{}", Escaped(text))?;
                }
            }
            writeln!(out)
        })
    }

    /// Prints labels and values, one pair a line. Empty values are left out.
    pub fn details(self, values: &[(&str, &str)]) -> Result<(), Failure> {
        for (label, value) in values.iter().filter(|(_, value)| !value.is_empty()) {
            self.row(&[(Style::Label, &format!("{label:<11}")), (Style::Plain, " "), (Style::Plain, value)])?;
        }
        Ok(())
    }

    /// Clears the last `lines` lines of the terminal.
    pub fn clear(self, lines: usize) -> Result<(), Failure> {
        self.put(|out| write!(out, "\x1b[{lines}F\x1b[J"))
    }

    /// Prints a value as one line of JSON.
    pub fn json(self, value: &impl Serialize) -> Result<(), Failure> {
        self.put(|out| {
            let mut serializer = serde_json::Serializer::with_formatter(&mut *out, ShownJson);
            value.serialize(&mut serializer).map_err(io::Error::from)?;
            writeln!(out)
        })
    }

    /// Prints JSON as a server sent it, and a line end.
    pub fn received_json(self, json: &[u8]) -> Result<(), Failure> {
        let json = terminal::escape_json(&String::from_utf8_lossy(json));
        self.put(|out| writeln!(out, "{}", json.trim_end()))
    }

    /// Prints JSON as a server sent it. On a terminal it is indented.
    pub fn shown_json(self, json: &[u8]) -> Result<(), Failure> {
        if !self.terminal {
            return self.received_json(json);
        }
        self.received_json(indented(&String::from_utf8_lossy(json)).as_bytes())
    }
}

/// Writes the output that waits, and wipes it, as it may hold a key.
fn write_out(unwritten: &mut Vec<u8>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(unwritten).and_then(|()| stdout.flush());
    unwritten.zeroize();
    written
}

/// Indents JSON, with one value a line. Its order and its numbers stay as they are.
fn indented(json: &str) -> String {
    let mut shown = String::with_capacity(2 * json.len());
    let mut depth = 0_usize;
    let mut in_text = false;
    let mut after_backslash = false;
    let mut rest = json.chars().peekable();
    while let Some(c) = rest.next() {
        if in_text {
            shown.push(c);
            in_text = c != '"' || after_backslash;
            after_backslash = c == '\\' && !after_backslash;
            continue;
        }
        while rest.next_if(char::is_ascii_whitespace).is_some() {}
        let is_empty = matches!((c, rest.peek()), ('{', Some('}')) | ('[', Some(']')));
        match c {
            '{' | '[' if is_empty => {
                shown.push(c);
                shown.extend(rest.next());
                continue;
            }
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            c if c.is_ascii_whitespace() => continue,
            _ => {}
        }
        let line_end = |shown: &mut String| {
            shown.push('\n');
            shown.extend(std::iter::repeat_n("  ", depth));
        };
        match c {
            '{' | '[' | ',' => {
                shown.push(c);
                line_end(&mut shown);
            }
            '}' | ']' => {
                line_end(&mut shown);
                shown.push(c);
            }
            ':' => shown.push_str(": "),
            c => shown.push(c),
        }
        in_text = c == '"';
        after_backslash = false;
    }
    shown
}

/// Prints a line to stderr, where it is not part of the result.
pub fn note(line: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{}", Escaped(line));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indented_json_is_the_same_json() {
        let json = r#" {"a": 1.50,"b":{},"c":[ ],"d":[1,{"e":"{\\\",: \\"}], "f":null}
"#;
        let shown = indented(json);
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&shown), value(json));
        assert_eq!(
            shown,
            "{\n  \"a\": 1.50,\n  \"b\": {},\n  \"c\": [],\n  \"d\": [\n    1,\n    {\n      \
             \"e\": \"{\\\\\\\",: \\\\\"\n    }\n  ],\n  \"f\": null\n}"
        );
    }
}
