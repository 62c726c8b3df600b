//! Secret texts in JSON.

use serde_json::value::RawValue;
use zeroize::Zeroizing;

/// Reads a JSON text into a buffer that is wiped; `None` if it is no text, or not one of Unicode.
///
/// serde_json would put a text with escapes together in a buffer of its own, which nobody wipes.
pub fn secret_text(value: &RawValue) -> Option<Zeroizing<String>> {
    let mut rest = value.get().strip_prefix('"')?.strip_suffix('"')?;
    // No escape is shorter than what it stands for.
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

/// Reads what follows a backslash (RFC 8259, section 7), and returns what follows it.
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

/// Reads the four digits of a UTF-16 unit, or two such units that are one character.
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
