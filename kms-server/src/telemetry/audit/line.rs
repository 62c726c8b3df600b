//! The lines of the audit log, which are those of KES and some members more.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use kms_core::Identity;

use crate::json;
use crate::text::mask::mask;
use crate::text::terminal;

/// The most bytes of a path in a line: more than the path of any key has.
const MAX_PATH: usize = 512;

/// The most bytes of a line beside its path.
const MAX_REST: usize = 512;

/// One answered request.
pub struct AuditEvent<'a> {
    /// When it came.
    pub time: Timestamp,
    /// Where it came from.
    pub ip: IpAddr,
    /// Its path, percent-decoded.
    pub path: &'a str,
    /// Who asked.
    pub identity: &'a Identity,
    /// Whether that identity may do anything at all.
    pub is_known: bool,
    /// What was answered.
    pub status: StatusCode,
    /// How long it took.
    pub took: Duration,
    /// Whether there was anybody left to be answered.
    pub sent: bool,
}

/// Requests that have no line, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// They came from identities without a policy, and there were many.
    pub strangers: u64,
    /// The log could not be written.
    pub lost: u64,
    /// They were refused, since they could not be recorded.
    pub refused: u64,
}

impl LeftOut {
    /// Tells whether there are none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Returns the most bytes that a line for `path` has.
pub fn max_len(path: &str) -> usize {
    // JSON makes at most six bytes of one.
    MAX_REST + 6 * path.len().min(MAX_PATH)
}

/// Appends the line of an event.
pub fn push(out: &mut Vec<u8>, event: &AuditEvent<'_>) {
    let AuditEvent { time, ip, identity, status, took, .. } = event;
    let end = (0..=MAX_PATH.min(event.path.len())).rev().find(|&at| event.path.is_char_boundary(at));
    let path = event.path.get(..end.unwrap_or_default()).unwrap_or_default();
    let cut = event.path.len() - path.len();
    // Only what is no path of a key has one of these.
    let is_odd = path.bytes().any(|byte| matches!(byte, b':' | b'%'));
    let path = if is_odd { mask(path) } else { Cow::Borrowed(path) };
    let _ = write!(out, "{{\"time\":\"{time}\",\"request\":{{\"ip\":\"{ip}\",\"path\":");
    if path.chars().any(terminal::is_obeyed) {
        let mut text = Vec::new();
        json::push_string(&mut text, &path);
        out.extend_from_slice(terminal::escape_json(&String::from_utf8_lossy(&text)).as_bytes());
    } else {
        json::push_string(out, &path);
    }
    if cut != 0 {
        let _ = write!(out, ",\"path_bytes_cut\":{cut}");
    }
    let (code, nanos) = (status.as_u16(), took.as_nanos());
    let sent = if event.sent { "" } else { ",\"sent\":false" };
    let _ = writeln!(
        out,
        ",\"identity\":\"{identity}\"}},\"response\":{{\"code\":{code},\"time\":{nanos}{sent}}}}}"
    );
}

/// Returns a line that tells how many requests have none. It has KES's members too, for readers that want them.
pub fn of_left_out(left_out: &LeftOut, time: Timestamp) -> Vec<u8> {
    let LeftOut { strangers, lost, refused } = left_out;
    let line = format!(
        "{{\"time\":\"{time}\",\"request\":{{\"ip\":\"0.0.0.0\",\"path\":\"\",\"identity\":\"\"}},\
         \"response\":{{\"code\":0,\"time\":0}},\
         \"left_out\":{{\"strangers\":{strangers},\"lost\":{lost},\"refused\":{refused}}}}}\n"
    );
    line.into_bytes()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn line(path: &str) -> String {
        let mut out = Vec::new();
        let event = AuditEvent {
            time: "2026-01-02T03:04:05.000006Z".parse().unwrap(),
            ip: "2001:db8:1111:2222:3333:4444:5555:6666".parse::<Ipv6Addr>().unwrap().into(),
            path,
            identity: &Identity::of_public_key(b"x"),
            is_known: true,
            status: StatusCode::OK,
            took: Duration::MAX,
            sent: false,
        };
        push(&mut out, &event);
        assert!(out.len() <= max_len(path), "{} bytes", out.len());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_long_path_is_cut_and_says_so() {
        assert!(!line(&"/".repeat(MAX_PATH)).contains("cut"));
        for long in ["&".repeat(16_000), "ü".repeat(8_000), format!("a{}", "ü".repeat(8_000))] {
            let event: serde_json::Value = serde_json::from_str(&line(&long)).unwrap();
            let path = event["request"]["path"].as_str().unwrap();
            assert!(long.starts_with(path) && path.len() > MAX_PATH - 2, "{} bytes", path.len());
            assert_eq!(event["request"]["path_bytes_cut"], long.len() - path.len());
        }
    }

    #[test]
    fn a_terminal_that_shows_the_file_obeys_nothing() {
        let path = "/v1/key/describe/a\u{9b}2Jb\u{202e}c\u{7f}ü\u{1b}";
        let line = line(path);
        assert!(!line.trim_end().chars().any(terminal::is_obeyed) && line.contains('ü'), "{line}");
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["request"]["path"], path);
    }

    #[test]
    fn an_api_key_in_a_path_is_not_written() {
        let key = "kes:v1:ADkAxgQNrJ2BzE6vmmXJGhJgVVR7Rl1IELiCxkDXBh8g";
        let line = line(&format!("/v1/identity/describe/{key}"));
        assert!(line.contains("/v1/identity/describe/") && !line.contains("ADkAxgQ"), "{line}");
    }

    #[test]
    fn what_is_left_out_is_told_in_a_line_like_the_others() {
        let left_out = LeftOut { strangers: 3, lost: 2, refused: 1 };
        let line = of_left_out(&left_out, Timestamp::UNIX_EPOCH);
        let event: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(event["left_out"], serde_json::json!({"strangers": 3, "lost": 2, "refused": 1}));
        assert_eq!((&event["response"]["code"], &event["request"]["path"]), (&0.into(), &"".into()));
        assert_eq!(line.last(), Some(&b'\n'));
    }
}
