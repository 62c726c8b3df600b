//! Bodies of requests, and what is written into answers and audit lines.

use serde::de::IgnoredAny;
use serde_json::Value;

use crate::json;

const NAMES: [&str; 2] = ["plaintext", "context"];
/// The most objects of an array that is read.
const LIMIT: usize = 8;

/// The body of a request: what is taken is JSON, and its members are those that serde_json finds.
pub fn request_json(input: &[u8]) {
    if let Ok(members) = json::members(input, NAMES) {
        assert!(is_json(input));
        // It fails for some of what is passed over unread, as numbers beyond a float.
        let value: Value = serde_json::from_slice(input).unwrap_or_default();
        for (name, member) in NAMES.iter().zip(&members) {
            let mut of_name =
                value.as_object().into_iter().flatten().filter(|(key, _)| key.eq_ignore_ascii_case(name));
            if let Some((_, Value::String(found))) = of_name.next() {
                assert_eq!(member.as_str(), found);
            }
            if let Ok(decoded) = member.decode() {
                assert!(decoded.len() <= input.len());
                reads_back(&decoded);
            }
        }
    }
    if let Ok(objects) = json::array_of_members(input, NAMES, LIMIT) {
        assert!(objects.len() <= LIMIT);
        assert!(is_json(input));
    }
}

fn is_json(input: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(input).is_ok()
}

/// What is written as base64 is read as the same bytes.
fn reads_back(bytes: &[u8]) {
    let mut encoded = Vec::new();
    json::push_base64(&mut encoded, bytes);
    assert_eq!(encoded.len(), json::base64_len(bytes.len()) + 2);
    let body = [b"{\"a\":", &*encoded, b"}"].concat();
    let Ok([text]) = json::members(&body, ["a"]) else { panic!("what is written is JSON") };
    assert!(text.decode().is_ok_and(|again| *again == bytes));
}

/// A text in an answer or an audit line: one line, which reads as the same text.
pub fn audit_escape(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut written = Vec::new();
    json::push(&mut written, &text);
    assert!(written.iter().all(|&byte| byte >= b' '), "a control character");
    assert!(!written.iter().any(|&byte| matches!(byte, b'<' | b'>' | b'&')));
    assert!(written.len() <= 2 + 6 * text.len());
    let read: String = serde_json::from_slice(&written).expect("it is JSON");
    assert_eq!(read, text);
}
