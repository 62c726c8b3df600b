//! The one place where commands print: text for people, or JSON.
//!
//! What a terminal would obey is never printed as it is, wherever it came from; see [`terminal`].

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use zeroize::Zeroize as _;

use super::colour::{Colour, Style};
use super::failure::Failure;
use crate::text::terminal::{self, Escaped, EscapedText, ShownJson};

/// What was printed into a pipe or a file and waits for the end of the command: a reader such as `grep -q` goes after the first
/// write in which it finds what it looks for, and a second one would fail.
static UNWRITTEN: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Set for commands that print as things happen.
static IS_LIVE: AtomicBool = AtomicBool::new(false);

/// When that much waits it is written all the same.
const MOST_UNWRITTEN: usize = 64 * 1024;

/// Where a command's result goes.
#[derive(Clone, Copy)]
pub struct Output {
    json: bool,
    terminal: bool,
    colours: bool,
}

impl Output {
    /// Prints to stdout, as JSON if `json`.
    pub fn new(json: bool) -> Self {
        Self::coloured(json, Colour::Auto)
    }

    /// Prints to stdout, as JSON if `json`, in colours when they are wanted.
    pub fn coloured(json: bool, colour: Colour) -> Self {
        let terminal = io::stdout().is_terminal();
        Self { json, terminal, colours: colour.are_wanted(terminal) }
    }

    /// Tells whether JSON was asked for.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Tells whether somebody reads this on a terminal.
    pub fn is_terminal(self) -> bool {
        self.terminal
    }

    /// Has what is printed from now on written at once.
    pub fn live(self) {
        IS_LIVE.store(true, Ordering::Relaxed);
    }

    /// Writes what waits.
    pub fn flush() -> io::Result<()> {
        let mut unwritten = UNWRITTEN.lock().unwrap_or_else(PoisonError::into_inner);
        // What a server could not tell at its start is no failure at its end.
        if unwritten.is_empty() { Ok(()) } else { write_out(&mut unwritten) }
    }

    fn put(self, print: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> Result<(), Failure> {
        let mut unwritten = UNWRITTEN.lock().unwrap_or_else(PoisonError::into_inner);
        // What grows leaves a copy behind that nobody wipes.
        if unwritten.capacity() == 0 {
            unwritten.reserve(2 * MOST_UNWRITTEN);
        }
        print(&mut unwritten)?;
        if self.terminal || IS_LIVE.load(Ordering::Relaxed) || unwritten.len() > MOST_UNWRITTEN {
            write_out(&mut unwritten)?;
        }
        Ok(())
    }

    /// Prints one line, whatever is in it.
    pub fn line(self, line: impl fmt::Display) -> Result<(), Failure> {
        self.lines([line])
    }

    /// Prints lines, each of which stays one.
    pub fn lines(self, lines: impl IntoIterator<Item = impl fmt::Display>) -> Result<(), Failure> {
        self.put(|out| lines.into_iter().try_for_each(|line| writeln!(out, "{}", Escaped(line))))
    }

    /// Prints a text of our own with a line end. Text from elsewhere goes by [`line`](Self::line), where it can
    /// make no further line.
    pub fn text(self, text: impl fmt::Display) -> Result<(), Failure> {
        self.put(|out| writeln!(out, "{}", EscapedText(text)))
    }

    /// Prints a text with a line end, at once; fails as the system says.
    pub fn print(text: impl fmt::Display) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", EscapedText(text))?;
        stdout.flush()
    }

    /// Prints one line of texts, each in its style.
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

    /// Prints values behind their labels, a line for each value that is not empty.
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

    /// Prints JSON as a server sent it.
    pub fn received_json(self, json: &[u8]) -> Result<(), Failure> {
        let json = terminal::escape_json(&String::from_utf8_lossy(json));
        self.put(|out| writeln!(out, "{}", json.trim_end()))
    }

    /// Prints JSON as a server sent it, on a terminal with a line for each value.
    pub fn shown_json(self, json: &[u8]) -> Result<(), Failure> {
        if !self.terminal {
            return self.received_json(json);
        }
        self.received_json(indented(&String::from_utf8_lossy(json)).as_bytes())
    }
}

/// What was printed may be a key.
fn write_out(unwritten: &mut Vec<u8>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(unwritten).and_then(|()| stdout.flush());
    unwritten.zeroize();
    written
}

/// Writes JSON with a line for each value, and leaves its order and its numbers as they are.
fn indented(json: &str) -> String {
    let mut shown = String::with_capacity(2 * json.len());
    let (mut depth, mut in_text, mut after_backslash) = (0_usize, false, false);
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

/// Prints a line for people to stderr, where it does not get into the result.
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
