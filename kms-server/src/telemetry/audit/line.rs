//! The lines of the audit log: those of KES, with some more members.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use std::{fmt, io};

use http::StatusCode;
use jiff::Timestamp;
use kms_core::Identity;
use serde::Serialize;
use serde_json::ser::Formatter;

use crate::json::{self, Displayed};
use crate::text::mask::mask;
use crate::text::terminal;

/// The most bytes of a path in a line. The path of every key is shorter.
const MAX_PATH: usize = 512;

/// The most bytes of a line without its path. A new member has to fit: room for a line is reserved by this.
const MAX_REST: usize = 512;

/// One answered request. `api::account` fills it in.
pub struct AuditEvent<'a> {
    /// When the request came.
    pub time: Timestamp,
    /// The address of the client.
    pub ip: IpAddr,
    /// The path, percent-decoded.
    pub path: &'a str,
    /// The identity of the client.
    pub identity: &'a Identity,
    /// Whether this identity may do anything at all.
    pub is_known: bool,
    /// The status of the answer.
    pub status: StatusCode,
    /// The duration of the request.
    pub took: Duration,
    /// Whether the client was still there to receive the answer.
    pub sent: bool,
    /// What was backed up, if the request was for that.
    pub backed_up: Option<BackedUp>,
}

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BackedUp {
    /// The number of keys.
    pub keys: u64,
    /// The number of those who can open it.
    pub recipients: usize,
}

/// The numbers of requests without a line, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Requests of identities without a policy, of which there were too many.
    pub strangers: u64,
    /// Requests that could not be written.
    pub lost: u64,
    /// Requests that were refused because they could not be recorded.
    pub refused: u64,
}

impl LeftOut {
    /// Returns whether there are none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Returns the most bytes that the line for `path` can have.
pub fn max_len(path: &str) -> usize {
    // JSON writes at most six bytes for one.
    MAX_REST + 6 * path.len().min(MAX_PATH)
}

/// Appends the line of an event.
pub fn push(out: &mut Vec<u8>, event: &AuditEvent<'_>) {
    let end = (0..=MAX_PATH.min(event.path.len())).rev().find(|&at| event.path.is_char_boundary(at));
    let path = event.path.get(..end.unwrap_or_default()).unwrap_or_default();
    let path_bytes_cut = event.path.len() - path.len();
    // The path of a key has none of these characters.
    let is_odd = path.bytes().any(|byte| matches!(byte, b':' | b'%'));
    let path = if is_odd { mask(path) } else { Cow::Borrowed(path) };
    let request = Request { ip: event.ip, path: &path, path_bytes_cut, identity: Displayed(event.identity) };
    let is_unsent = (!event.sent).then_some(false);
    let response = Response { code: event.status.as_u16(), time: event.took.as_nanos(), sent: is_unsent };
    let backup = event.backed_up;
    let line = Line { time: Displayed(event.time), request, response, backup, left_out: None };
    json::push_with(out, AuditJson, &line);
    out.push(b'\n');
}

/// Returns a line with the numbers of requests that have none.
///
/// It also has KES's members, for readers that need them.
pub fn of_left_out(left_out: LeftOut, time: Timestamp) -> Vec<u8> {
    let request =
        Request { ip: Ipv4Addr::UNSPECIFIED.into(), path: "", path_bytes_cut: 0, identity: Displayed(&"") };
    let response = Response { code: 0, time: 0, sent: None };
    json::line(&Line { time: Displayed(time), request, response, backup: None, left_out: Some(left_out) })
}

/// A line of the log. A member that KES does not have is omitted if it has nothing to say.
#[derive(Serialize)]
struct Line<'a> {
    time: Displayed<Timestamp>,
    request: Request<'a>,
    response: Response,
    #[serde(skip_serializing_if = "Option::is_none")]
    backup: Option<BackedUp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<LeftOut>,
}

#[derive(Serialize)]
struct Request<'a> {
    ip: IpAddr,
    path: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    path_bytes_cut: usize,
    identity: Displayed<&'a dyn fmt::Display>,
}

#[derive(Serialize)]
struct Response {
    code: u16,
    /// In nanoseconds.
    time: u128,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<bool>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Go's escapes, and those for a terminal, because operators view the file with `tail`.
struct AuditJson;

impl Formatter for AuditJson {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        json::write_escaped(writer, fragment, |c| json::is_escaped_by_go(c) || terminal::is_obeyed(c))
    }
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
            backed_up: Some(BackedUp { keys: u64::MAX, recipients: usize::MAX }),
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
        let line = of_left_out(left_out, Timestamp::UNIX_EPOCH);
        let event: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(event["left_out"], serde_json::json!({"strangers": 3, "lost": 2, "refused": 1}));
        assert_eq!((&event["response"]["code"], &event["request"]["path"]), (&0.into(), &"".into()));
        assert_eq!(line.last(), Some(&b'\n'));
    }
}
