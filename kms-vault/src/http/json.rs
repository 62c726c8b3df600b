//! The fields of answers, and secret texts in them.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::error::Failure;

/// The fields of a JSON object. Their values are not copied.
///
/// They are read as KES reads them: the case of a name does not matter, and the last of two fields with one
/// name counts.
pub struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// Returns the value of a field. Fails if it is missing.
    pub fn needed(&self, name: &str) -> Result<&'a RawValue, Failure> {
        self.find(name)
            .ok_or_else(|| Failure::NotVault(format!("the field '{name}' is missing in its answer")))
    }

    /// Returns the fields of an object in a field. Fails if it is missing.
    pub fn object(&self, name: &str) -> Result<Self, Failure> {
        read(name, self.needed(name)?)
    }

    /// Reads a field that may be missing or null.
    pub fn optional<T: Deserialize<'a>>(&self, name: &str) -> Result<Option<T>, Failure> {
        self.find(name).map_or(Ok(None), |value| read(name, value))
    }

    fn find(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }
}

/// Reads the value of a field. The error does not quote it.
fn read<'a, T: Deserialize<'a>>(name: &str, value: &'a RawValue) -> Result<T, Failure> {
    serde_json::from_str(value.get())
        .map_err(|_| Failure::NotVault(format!("the field '{name}' in its answer has another type")))
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Reads a JSON text into a buffer that is wiped. Returns `None` if it is no text, or not Unicode.
///
/// serde_json would join a text with escapes in a buffer of its own, which nobody wipes.
pub fn secret_text(value: &RawValue) -> Option<Zeroizing<String>> {
    let mut rest = value.get().strip_prefix('"')?.strip_suffix('"')?;
    // No escape is shorter than the character that it stands for.
    let mut text = Zeroizing::new(String::with_capacity(rest.len()));
    while let Some((plain, escape)) = rest.split_once('\\') {
        text.push_str(plain);
        let (character, after) = unescape(escape)?;
        text.push(character);
        rest = after;
    }
    text.push_str(rest);
    Some(text)
}

/// Reads the character after a backslash (RFC 8259, section 7). Also returns the rest of the text.
fn unescape(escape: &str) -> Option<(char, &str)> {
    let mut characters = escape.chars();
    let character = match characters.next()? {
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => return unescape_unit(characters.as_str()),
        character @ ('"' | '\\' | '/') => character,
        _ => return None,
    };
    Some((character, characters.as_str()))
}

/// Reads the four digits of a UTF-16 unit, or of two units that are one character.
fn unescape_unit(digits: &str) -> Option<(char, &str)> {
    let (first, rest) = unit(digits)?;
    match first {
        0xd800..0xdc00 => {
            let (second, rest) = unit(rest.strip_prefix("\\u")?)?;
            let character = char::decode_utf16([first, second]).next()?.ok()?;
            Some((character, rest))
        }
        _ => Some((char::from_u32(first.into())?, rest)),
    }
}

fn unit(digits: &str) -> Option<(u16, &str)> {
    let (digits, rest) = digits.split_at_checked(4)?;
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(())?;
    Some((u16::from_str_radix(digits, 16).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn texts_are_read_as_serde_reads_them() {
        let all: String = (0..0x3000).chain(0x1f000..0x1f100).filter_map(char::from_u32).collect();
        let escaped: Vec<_> = all.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        for json in [
            "\"\"".to_owned(),
            r#""{\"bytes\":\"a\\/+=\"}""#.to_owned(),
            r#"" \/ \b\f\n\r\t \u003c\u003E ""#.to_owned(),
            serde_json::to_string(&all).unwrap(),
            format!("\"{}\"", escaped.concat()),
        ] {
            let expected: String = serde_json::from_str(&json).unwrap();
            let text = secret_text(&raw(&json)).unwrap();
            assert!(*text == expected, "{json}");
            assert!(text.capacity() <= json.len(), "it grew, and left its old bytes behind");
        }
    }

    #[test]
    fn what_is_no_text_is_none() {
        for json in ["1", "null", "[\"a\"]", "{}", r#""\ud800""#, r#""\ud800\u0041""#, r#""\udc00""#] {
            assert!(secret_text(&raw(json)).is_none(), "{json}");
        }
    }
}
