//! The text of an event: one line of bounded length, whatever was received.

use std::error::Error;
use std::fmt::{self, Debug, Write};
use std::net::SocketAddr;

use tracing::Event;
use tracing::field::{Field, Visit};

use super::parts::Parts;
use crate::text::chain::links;
use crate::text::mask::mask;
use crate::text::terminal;

/// The fields that name a client.
const CLIENTS: [&str; 4] = ["identity", "ip", "proxy", "remote"];

/// The most bytes of a field. The path of every key is shorter.
const MAX_FIELD: usize = 512;

/// The most bytes of a message, and of an error with its sources.
const MAX_MESSAGE: usize = 4096;

/// The error that ends the message of an event. As text it follows the message like any other words.
const CAUSE: &str = "cause";

/// An error beside the message of an event.
const ERROR: &str = "error";

/// An event as one line: its message, then its fields.
#[derive(Debug, Default)]
pub struct Text {
    message: String,
    /// The error that ends the message, with its sources.
    cause: String,
    fields: Vec<Named>,
    /// An error, and its sources one by one.
    chain: Vec<String>,
    /// The fields by which lines are compared. A client is its address without the port.
    key: String,
    is_of_client: bool,
}

/// A field.
#[derive(Debug)]
struct Named {
    name: &'static str,
    /// As a line shows it.
    shown: String,
    /// The text without the quotes around it, if it is one that a line shows in quotes.
    unquoted: Option<String>,
}

impl Text {
    /// Reads the text of an event.
    pub fn of(event: &Event<'_>) -> Self {
        let mut text = Self::default();
        event.record(&mut text);
        text
    }

    /// Returns the line.
    pub fn line(&self) -> String {
        let mut line = self.told();
        for Named { name, shown, .. } in &self.fields {
            let _ = write!(line, " {name}={shown}");
        }
        line
    }

    /// Returns the parts of the line. `target` is the module that logged it.
    pub fn into_parts(self, target: &str) -> Parts {
        let message = if self.message.is_empty() { self.cause } else { self.message };
        let is_chain = |name: &str| name == ERROR && !self.chain.is_empty();
        let told = self.fields.into_iter().filter(|field| !is_chain(field.name));
        let fields = told.map(|field| (field.name, field.unquoted.unwrap_or(field.shown))).collect();
        Parts::new(target, message, self.chain, fields)
    }

    /// Returns whether it is about a client, which may cause any number of lines.
    pub fn is_of_client(&self) -> bool {
        self.is_of_client
    }

    /// Returns the text by which lines of one client are compared.
    pub fn key(&self) -> String {
        format!("{}{}", self.told(), self.key)
    }

    /// Returns the message with its cause.
    fn told(&self) -> String {
        let between = if self.message.is_empty() || self.cause.is_empty() { "" } else { ": " };
        format!("{}{between}{}", self.message, self.cause)
    }

    fn field(&mut self, name: &'static str, value: fmt::Arguments<'_>, key: fmt::Arguments<'_>) {
        self.is_of_client |= CLIENTS.contains(&name);
        let most = if name == ERROR { MAX_MESSAGE } else { MAX_FIELD };
        let value = bounded(value, most);
        if name == ERROR && self.chain.is_empty() {
            self.chain = vec![value.clone()];
        }
        self.fields.push(Named { name, shown: value, unquoted: None });
        let _ = write!(self.key, " {name}=");
        push_bounded(&mut self.key, key, most);
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => push_bounded(&mut self.message, format_args!("{value:?}"), MAX_MESSAGE),
            "remote" => {
                let remote = format!("{value:?}");
                match remote.parse::<SocketAddr>() {
                    Ok(address) => {
                        self.field("remote", format_args!("{address}"), format_args!("{}", address.ip()));
                    }
                    Err(_) => self.field("remote", format_args!("{remote}"), format_args!("{remote}")),
                }
            }
            name => self.field(name, format_args!("{value:?}"), format_args!("{value:?}")),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &value);
        if let Some(field) = self.fields.last_mut().filter(|last| last.name == field.name()) {
            field.unquoted = Some(bounded(format_args!("{value}"), MAX_FIELD));
        }
    }

    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        let chain = links(error);
        let whole = chain.join(": ");
        self.chain = chain.iter().map(|link| bounded(format_args!("{link}"), MAX_MESSAGE)).collect();
        if field.name() == CAUSE {
            push_bounded(&mut self.cause, format_args!("{whole}"), MAX_MESSAGE);
        } else {
            self.field(field.name(), format_args!("{whole}"), format_args!("{whole}"));
        }
    }
}

fn bounded(text: fmt::Arguments<'_>, most: usize) -> String {
    let mut bounded = String::new();
    push_bounded(&mut bounded, text, most);
    bounded
}

/// Appends a received text: escaped, without API keys, and cut after `most` bytes.
fn push_bounded(out: &mut String, text: fmt::Arguments<'_>, most: usize) {
    let mut bounded = Bounded { out, left: most, cut: 0 };
    // Each text is masked alone, so that a mask never extends into the next text. Writing to a string does not fail.
    let _ = bounded.write_str(&mask(&text.to_string()));
    if bounded.cut != 0 {
        let cut = bounded.cut;
        let _ = write!(out, "… ({cut} bytes more)");
    }
}

struct Bounded<'a> {
    out: &'a mut String,
    left: usize,
    cut: usize,
}

impl Write for Bounded<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let len = character.len_utf8();
            if self.cut != 0 || len > self.left {
                self.cut += len;
                continue;
            }
            self.left -= len;
            if terminal::is_obeyed(character) {
                write!(self.out, "{}", character.escape_default())?;
            } else {
                self.out.push(character);
            }
        }
        Ok(())
    }
}
