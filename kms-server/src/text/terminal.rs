//! Escapes the characters that a terminal would obey instead of showing them.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io;

use serde_json::ser::Formatter;

use crate::json;

/// Escapes a text so that a terminal shows all of it in one line. Controls become `\u{1b}`, line ends become `\n`.
///
/// All other characters stay as they are, in every language.
pub fn escape(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_obeyed) { Cow::Owned(Escaped(text).to_string()) } else { Cow::Borrowed(text) }
}

/// A value whose `Display` text is [escaped](escape).
pub struct Escaped<T>(pub T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping { to: f, keeps_lines: false }, "{}", self.0)
    }
}

/// A value whose `Display` text is escaped, except for its line ends.
pub struct EscapedText<T>(pub T);

impl<T: fmt::Display> fmt::Display for EscapedText<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping { to: f, keeps_lines: true }, "{}", self.0)
    }
}

/// A writer that escapes.
struct Escaping<W> {
    to: W,
    keeps_lines: bool,
}

impl<W: fmt::Write> fmt::Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let is_escaped = |c: char| is_obeyed(c) && !(self.keeps_lines && c == '\n');
        let mut rest = text;
        while let Some((at, found)) = rest.char_indices().find(|(_, c)| is_escaped(*c)) {
            let (before, after) = rest.split_at(at);
            self.to.write_str(before)?;
            write!(self.to, "{}", found.escape_default())?;
            rest = after.get(found.len_utf8()..).unwrap_or_default();
        }
        self.to.write_str(rest)
    }
}

/// Returns whether a terminal obeys a character instead of showing it.
///
/// These are the controls of C0 and C1, DEL, the ends of lines and paragraphs, and the changes of text direction.
pub fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}')
}

/// Escapes in JSON what a terminal would obey, as `\u001b`. serde_json itself escapes less.
pub struct ShownJson;

impl Formatter for ShownJson {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        json::write_escaped(writer, fragment, is_obeyed)
    }
}

/// Escapes the strings of JSON from elsewhere. Its order and its numbers stay as they are.
///
/// A text that is not JSON becomes another text that is not JSON, and that a terminal shows.
pub fn escape_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    let (mut in_text, mut after_backslash) = (false, false);
    for c in json.chars() {
        match c {
            '\n' if !in_text => shown.push('\n'),
            '\r' | '\t' if !in_text => shown.push(' '),
            c if is_obeyed(c) => drop(write!(shown, "{}", JsonEscape(c))),
            c => shown.push(c),
        }
        in_text ^= c == '"' && !after_backslash;
        after_backslash = in_text && c == '\\' && !after_backslash;
    }
    shown
}

struct JsonEscape(char);

impl fmt::Display for JsonEscape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(f, "\\u{unit:04x}"))
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize as _;

    use super::*;

    /// Characters that a terminal obeys, with their escapes in text and in JSON.
    const OBEYED: [(char, &str, &str); 17] = [
        ('\0', r"\u{0}", r"\u0000"),
        ('\x07', r"\u{7}", r"\u0007"),
        ('\x1b', r"\u{1b}", r"\u001b"),
        ('\n', r"\n", r"\n"),
        ('\r', r"\r", r"\r"),
        ('\t', r"\t", r"\t"),
        ('\x7f', r"\u{7f}", r"\u007f"),
        ('\u{85}', r"\u{85}", r"\u0085"),
        ('\u{9b}', r"\u{9b}", r"\u009b"),
        ('\u{200e}', r"\u{200e}", r"\u200e"),
        ('\u{2028}', r"\u{2028}", r"\u2028"),
        ('\u{2029}', r"\u{2029}", r"\u2029"),
        ('\u{202a}', r"\u{202a}", r"\u202a"),
        ('\u{202e}', r"\u{202e}", r"\u202e"),
        ('\u{2066}', r"\u{2066}", r"\u2066"),
        ('\u{2069}', r"\u{2069}", r"\u2069"),
        ('\u{61c}', r"\u{61c}", r"\u061c"),
    ];

    #[test]
    fn what_a_terminal_obeys_is_shown_and_everything_else_stays() {
        for text in ["", "my-key", "Schlüssel für München", "鍵 🔑 ключ مفتاح", r"C:\temp\new", "a\u{200d}b"]
        {
            assert!(matches!(escape(text), Cow::Borrowed(same) if same == text), "{text}");
            assert_eq!(escape_json(text), text);
        }
        for (c, shown, _) in OBEYED {
            assert_eq!(escape(&format!("ä{c}ö{c}")), format!("ä{shown}ö{shown}"));
            assert_eq!(Escaped(format_args!("{c}{}", "x")).to_string(), format!("{shown}x"));
            let kept = if c == '\n' { "\n" } else { shown };
            assert_eq!(EscapedText(format_args!("a{c}\n{}", "x")).to_string(), format!("a{kept}\nx"));
        }
    }

    #[test]
    fn json_stays_the_same_json() {
        for (c, _, shown) in OBEYED {
            let text = format!("ä{c}\"\\{c}\\");
            let mut written = Vec::new();
            text.serialize(&mut serde_json::Serializer::with_formatter(&mut written, ShownJson)).unwrap();
            let written = String::from_utf8(written).unwrap();
            assert_eq!(written, format!(r#""ä{shown}\"\\{shown}\\""#));
            assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);

            let received = serde_json::json!({ "b\\": text, "a": [1.50, "\\\"", text] }).to_string() + "\n";
            let shown = escape_json(&received);
            assert_eq!(
                serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
                serde_json::from_str::<serde_json::Value>(&received).unwrap()
            );
            assert!(!shown.trim_end().chars().any(is_obeyed), "{shown:?}");
        }
        let received = "{\"a\": 1.50,\n\t\"b\":\"\x1b[2J\n\r\"}\r\n";
        assert_eq!(escape_json(received), "{\"a\": 1.50,\n \"b\":\"\\u001b[2J\\u000a\\u000d\"} \n");
    }
}
