//! JSON as Go's `encoding/json` writes it, for KES's answers and audit log.
//!
//! Values are written through serde. Secrets are not, because serde_json would leave their base64 in buffers that nobody
//! wipes. [`push_base64`] writes them directly into the buffer of the answer.

use std::fmt;
use std::io;

use base64::Engine as _;
use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;

use super::read::BASE64;

/// Go's escapes, which make JSON safe inside HTML. serde_json itself escapes only quotes, backslashes and controls.
pub struct GoJson;

impl Formatter for GoJson {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        write_escaped(writer, fragment, is_escaped_by_go)
    }
}

/// Returns whether Go escapes `c` inside a string and serde_json does not.
pub fn is_escaped_by_go(c: char) -> bool {
    matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}')
}

/// Writes a part of a JSON string. Each character that `is_escaped` becomes `\u` and four hex digits.
pub fn write_escaped<W: ?Sized + io::Write>(
    writer: &mut W,
    text: &str,
    is_escaped: impl Fn(char) -> bool,
) -> io::Result<()> {
    let mut rest = text;
    while let Some((at, found)) = rest.char_indices().find(|(_, c)| is_escaped(*c)) {
        let (before, after) = rest.split_at(at);
        writer.write_all(before.as_bytes())?;
        for unit in found.encode_utf16(&mut [0; 2]) {
            write!(writer, "\\u{unit:04x}")?;
        }
        rest = after.get(found.len_utf8()..).unwrap_or_default();
    }
    writer.write_all(rest.as_bytes())
}

/// Returns `value` as one line of JSON.
pub fn line(value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    push(&mut out, value);
    out.push(b'\n');
    out
}

/// Appends `value` as JSON.
pub fn push(out: &mut Vec<u8>, value: &impl Serialize) {
    push_with(out, GoJson, value);
}

/// Appends `value` as JSON with the escapes of `formatter`.
pub fn push_with(out: &mut Vec<u8>, formatter: impl Formatter, value: &impl Serialize) {
    // Writing to memory does not fail, and neither do our own values. If one did, the text would not be whole JSON.
    let _ = value.serialize(&mut serde_json::Serializer::with_formatter(out, formatter));
}

/// A value that is written to JSON as its `Display` text.
pub struct Displayed<T>(pub T);

impl<T: fmt::Display> Serialize for Displayed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Appends `bytes` as a JSON string of base64.
pub fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + base64_len(bytes.len()), 0);
    // The buffer has the exact size, so this cannot fail. If it did, the answer would not be whole JSON.
    let written = BASE64.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
    out.push(b'"');
}

/// Returns the length of the base64 of `len` bytes.
pub const fn base64_len(len: usize) -> usize {
    len.div_ceil(3) * 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_by_go() {
        let mut out = Vec::new();
        push(&mut out, &"ü<>&\"\\\n\r\t\u{8}\u{c}\u{1}\u{2028}\u{7f}");
        assert_eq!(out, "\"ü\\u003c\\u003e\\u0026\\\"\\\\\\n\\r\\t\\b\\f\\u0001\\u2028\u{7f}\"".as_bytes());
    }

    #[test]
    fn names_of_members_and_displayed_values_are_escaped_too() {
        let value = std::collections::BTreeMap::from([("<", Displayed('&'))]);
        assert_eq!(line(&value), b"{\"\\u003c\":\"\\u0026\"}\n");
    }

    #[test]
    fn base64_is_padded() {
        for (bytes, text) in
            [(&b""[..], "\"\""), (b"h", "\"aA==\""), (b"hi", "\"aGk=\""), (b"hi!", "\"aGkh\"")]
        {
            let mut out = Vec::new();
            push_base64(&mut out, bytes);
            assert_eq!(out, text.as_bytes());
        }
    }
}
