//! The denied requests of an audit log.

use std::collections::BTreeMap;
use std::io::BufRead as _;

use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::cli::failure::Failure;
use crate::cli::runtime::block_on;

/// Equal requests that were denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Their number.
    pub count: u64,
    /// When the first one came.
    pub first: Timestamp,
    /// When the last one came.
    pub last: Timestamp,
    /// Whether the log has only the beginning of the path.
    pub is_cut: bool,
}

/// The denied requests of an identity by their paths.
pub type ByPath = BTreeMap<String, Denied>;

/// What was read of a log.
#[derive(Debug, Default)]
pub struct Log {
    /// The identity whose requests count, if not all do.
    pub wanted: Option<String>,
    /// What was denied, by identity.
    pub denied: BTreeMap<String, ByPath>,
    /// The number of events.
    pub events: u64,
    /// The number of requests of identities without a policy that have no line of their own.
    pub strangers: u64,
    /// The number of lines that are no events.
    pub unreadable: u64,
}

impl Log {
    /// Creates a log of which nothing was read, for the requests of `wanted` or of all.
    pub fn of(wanted: Option<String>) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// Reads stdin to its end, or until Ctrl-C ends a log that goes on.
    pub fn read_stdin(&mut self) -> Result<(), Failure> {
        let (send, mut lines) = mpsc::channel(64);
        // The thread may wait for a line when the command is over. Nobody waits for the thread.
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().split(b'\n') {
                let is_end = line.is_err();
                if send.blocking_send(line).is_err() || is_end {
                    return;
                }
            }
        });
        block_on(async {
            loop {
                let line = tokio::select! {
                    line = lines.recv() => line,
                    _ = tokio::signal::ctrl_c() => None,
                };
                match line {
                    Some(line) => {
                        let line =
                            line.map_err(|error| Failure::new(format!("cannot read stdin: {error}")))?;
                        self.take(&line);
                    }
                    None => return Ok(()),
                }
            }
        })?
    }

    /// Takes a line. An empty one means nothing.
    pub fn take(&mut self, line: &[u8]) {
        if line.trim_ascii().is_empty() {
            return;
        }
        let Some((event, time)) = Event::parse(line) else {
            self.unreadable += 1;
            return;
        };
        self.events += 1;
        self.strangers += event.left_out.map_or(0, |left_out| left_out.strangers);
        let Request { path, identity, path_bytes_cut } = event.request;
        let is_other = self.wanted.as_ref().is_some_and(|wanted| *wanted != identity);
        if event.response.code != FORBIDDEN || is_other {
            return;
        }
        let new = Denied { count: 0, first: time, last: time, is_cut: path_bytes_cut != 0 };
        let denied = self.denied.entry(identity).or_default().entry(path).or_insert(new);
        denied.count += 1;
        denied.first = denied.first.min(time);
        denied.last = denied.last.max(time);
    }
}

/// The status of a request that no policy allows.
const FORBIDDEN: u16 = 403;

/// A line of the audit log. Members that are not needed are passed over.
#[derive(Deserialize)]
struct Event {
    time: String,
    request: Request,
    response: Response,
    left_out: Option<LeftOut>,
}

#[derive(Deserialize)]
struct Request {
    path: String,
    #[serde(default)]
    identity: String,
    #[serde(default)]
    path_bytes_cut: u64,
}

#[derive(Deserialize)]
struct Response {
    code: u16,
}

#[derive(Deserialize)]
struct LeftOut {
    #[serde(default)]
    strangers: u64,
}

impl Event {
    fn parse(line: &[u8]) -> Option<(Self, Timestamp)> {
        let event: Self = serde_json::from_slice(line).ok()?;
        let time = event.time.parse().ok()?;
        Some((event, time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"time":"2026-01-02T03:04:05.5Z","request":{"ip":"127.0.0.1","path":"/v1/key/decrypt/a","identity":"i"},"response":{"code":403,"time":1500000}}"#;

    #[test]
    fn equal_requests_are_counted_from_the_first_to_the_last() {
        let mut log = Log::of(None);
        log.take(LINE.as_bytes());
        log.take(LINE.replace(":05.5Z", ":01Z").as_bytes());
        log.take(LINE.replace("403", "200").as_bytes());
        log.take(b"");
        log.take(b"03:04:05    200    i");
        let denied = &log.denied["i"]["/v1/key/decrypt/a"];
        assert_eq!((denied.count, denied.is_cut), (2, false));
        assert_eq!(denied.first, "2026-01-02T03:04:01Z".parse().unwrap());
        assert_eq!(denied.last, "2026-01-02T03:04:05.5Z".parse().unwrap());
        assert_eq!((log.events, log.unreadable), (3, 1));
    }

    #[test]
    fn others_are_passed_over_and_what_is_left_out_is_counted() {
        let mut log = Log::of(Some("j".to_owned()));
        log.take(LINE.as_bytes());
        let left_out = r#"{"time":"2026-01-02T03:04:05Z","request":{"path":"","identity":""},"response":{"code":0},"left_out":{"strangers":3,"lost":0,"refused":1}}"#;
        log.take(left_out.as_bytes());
        assert!(log.denied.is_empty());
        assert_eq!((log.events, log.strangers), (2, 3));
    }
}
