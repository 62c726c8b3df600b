//! The audit log: who asked for what and what came of it, a JSON object a line.
//!
//! Lines go into one buffer that is written every 20 ms, since a write each would cost more than most requests.
//! There is no body, no context and no key in a line.

use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use hyper::body::Bytes;
use jiff::Timestamp;
use kms_core::Identity;
use tokio::sync::Notify;

use crate::api::json;
use crate::config::settings::{AuditFailure, LogSettings};
use crate::metrics::Metrics;
use crate::stream::Hub;

/// How long a line waits for others before all are written.
const GATHER: Duration = Duration::from_millis(20);

/// How long to wait before a log that could not be written is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// The most bytes that wait to be written; beyond it events are lost, or requests refused.
const MAX_WAITING: usize = 8 << 20;

/// From so many on requests are refused, where they are: those that have begun need room for their lines.
const FULL: usize = MAX_WAITING / 2;

/// How long the log may take for what waits before that is told.
const OVERDUE: Duration = Duration::from_secs(5);

/// The audit log of a server.
pub struct Audit {
    target: Target,
    on_failure: AuditFailure,
    waiting: Mutex<Waiting>,
    wake: Notify,
    hub: Hub,
    is_failing: AtomicBool,
    /// So much waits that requests have to be refused, where they are.
    is_full: AtomicBool,
    /// Events that are being written.
    in_hand: AtomicU64,
    reopen: AtomicBool,
    written: AtomicU64,
    dropped: AtomicU64,
}

/// What is to be written.
#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    events: u64,
    /// Bytes that are kept free for the lines of what has begun and not ended.
    reserved: usize,
}

/// Room for one line, kept free until this is dropped, where requests are refused that could not be recorded.
pub struct LineRoom {
    audit: Arc<Audit>,
    len: usize,
}

impl Drop for LineRoom {
    fn drop(&mut self) {
        self.audit.waiting().reserved -= self.len;
    }
}

/// What is being written.
struct Taken {
    lines: Vec<u8>,
    events: u64,
}

/// A request cannot be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// Where lines go beside the readers of the stream.
enum Target {
    Nowhere,
    Stdout,
    File { path: PathBuf, file: Mutex<File> },
}

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
    /// What was answered.
    pub status: StatusCode,
    /// How long it took.
    pub took: Duration,
    /// Whether there was anybody left to be answered.
    pub sent: bool,
}

impl Audit {
    /// Opens the log that `settings` name. Fails when its file cannot be opened.
    pub fn open(settings: &LogSettings) -> Result<Arc<Self>, (PathBuf, io::Error)> {
        let target = match &settings.audit_file {
            Some(path) => {
                let file = open(path).map_err(|error| (path.clone(), error))?;
                Target::File { path: path.clone(), file: Mutex::new(file) }
            }
            None if settings.audit => Target::Stdout,
            None => Target::Nowhere,
        };
        Ok(Arc::new(Self {
            target,
            on_failure: settings.audit_failure,
            waiting: Mutex::default(),
            wake: Notify::new(),
            hub: Hub::new(),
            is_failing: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            in_hand: AtomicU64::new(0),
            reopen: AtomicBool::new(false),
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }))
    }

    /// Lends the stream of events.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Tells whether anybody wants events.
    pub fn is_on(&self) -> bool {
        !matches!(self.target, Target::Nowhere) || self.hub.has_readers()
    }

    /// Tells whether requests have to be refused since they could not be recorded.
    pub fn refuses(&self) -> bool {
        (self.is_failing.load(Ordering::Relaxed) || self.is_full.load(Ordering::Relaxed))
            && self.on_failure == AuditFailure::Refuse
    }

    /// Takes the room that the line of a request for `path` may need, before the request has an effect.
    ///
    /// Fails where the request has to be refused since it could not be recorded. Where lines may be dropped there is
    /// nothing to take.
    pub fn reserve(self: &Arc<Self>, path: &str) -> Result<Option<LineRoom>, NoRoom> {
        if self.on_failure != AuditFailure::Refuse || matches!(self.target, Target::Nowhere) {
            return Ok(None);
        }
        // Beside the path a line has some 200 bytes; JSON makes at most six of one.
        let len = 512 + 6 * path.len();
        let mut waiting = self.waiting();
        if self.refuses() || waiting.lines.len() + waiting.reserved + len > MAX_WAITING {
            return Err(NoRoom);
        }
        waiting.reserved += len;
        Ok(Some(LineRoom { audit: Arc::clone(self), len }))
    }

    /// Records an event, if anybody wants it; never dropped where there is `room` for it.
    pub fn record(&self, event: &AuditEvent<'_>, room: Option<&LineRoom>) {
        if !self.is_on() {
            return;
        }
        let mut waiting = self.waiting();
        if room.is_none() && waiting.lines.len() + waiting.reserved >= MAX_WAITING {
            drop(waiting);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let is_first = waiting.lines.is_empty();
        push_line(&mut waiting.lines, event);
        waiting.events += 1;
        if waiting.lines.len() >= FULL {
            self.is_full.store(true, Ordering::Relaxed);
        }
        drop(waiting);
        if is_first {
            self.wake.notify_one();
        }
    }

    /// Opens the file again before the next line, as after it was renamed.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Writes events as they come, until it is dropped.
    pub async fn run(self: Arc<Self>, metrics: Arc<Metrics>) {
        loop {
            self.wake.notified().await;
            tokio::time::sleep(GATHER).await;
            let audit = Arc::clone(&self);
            let mut flush = tokio::task::spawn_blocking(move || audit.flush());
            if tokio::time::timeout(OVERDUE, &mut flush).await.is_err() {
                let consequence = self.on_failure.consequence();
                tracing::error!("the audit log has taken nothing for {OVERDUE:?}: {consequence}");
                let _ = flush.await;
                tracing::warn!("the audit log takes lines again");
            }
            metrics.audited(self.written.swap(0, Ordering::Relaxed), self.dropped.swap(0, Ordering::Relaxed));
            if self.is_failing.load(Ordering::Relaxed) {
                tokio::time::sleep(RETRY).await;
                self.wake.notify_one();
            }
        }
    }

    /// Writes what waits, and hands it to the readers of the stream.
    ///
    /// What cannot be written is lost, or stays until it can be where requests are refused meanwhile.
    pub fn flush(&self) {
        let taken = {
            let mut waiting = self.waiting();
            self.is_full.store(false, Ordering::Relaxed);
            self.in_hand.fetch_add(waiting.events, Ordering::Relaxed);
            Taken { lines: std::mem::take(&mut waiting.lines), events: std::mem::take(&mut waiting.events) }
        };
        let outcome = self.write(&taken.lines);
        self.in_hand.fetch_sub(taken.events, Ordering::Relaxed);
        let was_failing = self.is_failing.swap(outcome.is_err(), Ordering::Relaxed);
        let kept = match (outcome, self.on_failure) {
            (Ok(()), _) => {
                if was_failing {
                    tracing::warn!("the audit log can be written again");
                }
                self.written.fetch_add(taken.events, Ordering::Relaxed);
                None
            }
            (Err(error), on_failure) => {
                if !was_failing {
                    tracing::error!(%error, "the audit log cannot be written: {}", on_failure.consequence());
                }
                (on_failure == AuditFailure::Refuse).then_some(())
            }
        };
        if kept.is_none() {
            if self.is_failing.load(Ordering::Relaxed) {
                self.dropped.fetch_add(taken.events, Ordering::Relaxed);
            }
            if !taken.lines.is_empty() {
                self.hub.send(&Bytes::from(taken.lines));
            }
            return;
        }
        let mut waiting = self.waiting();
        let later = std::mem::replace(&mut waiting.lines, taken.lines);
        waiting.lines.extend_from_slice(&later);
        waiting.events += taken.events;
        if waiting.lines.len() >= FULL {
            self.is_full.store(true, Ordering::Relaxed);
        }
    }

    /// Writes what waits, for the last time and for as long as `patience`; tells how many events were not written.
    pub async fn end(self: &Arc<Self>, patience: Duration) -> u64 {
        let audit = Arc::clone(self);
        let flush = tokio::task::spawn_blocking(move || audit.flush());
        let _ = tokio::time::timeout(patience, flush).await;
        self.in_hand.load(Ordering::Relaxed) + self.waiting().events
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, lines: &[u8]) -> io::Result<()> {
        match &self.target {
            Target::Nowhere => Ok(()),
            Target::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(lines)?;
                stdout.flush()
            }
            Target::File { path, file } => {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                if self.reopen.swap(false, Ordering::Relaxed) || self.is_failing.load(Ordering::Relaxed) {
                    *file = open(path)?;
                }
                write_whole(&mut file, lines)
            }
        }
    }
}

/// Writes all lines or none, so that a full disk leaves no half of a line.
fn write_whole(file: &mut File, lines: &[u8]) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let before = file.metadata()?.len();
    file.write_all(lines).inspect_err(|_| {
        let _ = file.set_len(before);
    })
}

fn open(path: &std::path::Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options().create(true).append(true).mode(0o640).open(path)
}

fn push_line(out: &mut Vec<u8>, event: &AuditEvent<'_>) {
    let AuditEvent { time, ip, identity, status, took, .. } = event;
    let _ = write!(out, "{{\"time\":\"{time}\",\"request\":{{\"ip\":\"{ip}\",\"path\":");
    json::push_string(out, event.path);
    let (code, nanos) = (status.as_u16(), took.as_nanos());
    let sent = if event.sent { "" } else { ",\"sent\":false" };
    let _ = writeln!(
        out,
        ",\"identity\":\"{identity}\"}},\"response\":{{\"code\":{code},\"time\":{nanos}{sent}}}}}"
    );
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn settings(file: &std::path::Path, audit_failure: AuditFailure) -> LogSettings {
        LogSettings { audit_file: Some(file.to_owned()), audit_failure, ..LogSettings::default() }
    }

    fn record_in(audit: &Audit, path: &str, room: Option<&LineRoom>) {
        let event = AuditEvent {
            time: "2026-01-02T03:04:05.000006Z".parse().unwrap(),
            ip: Ipv4Addr::LOCALHOST.into(),
            path,
            identity: &Identity::of_public_key(b"x"),
            status: StatusCode::OK,
            took: Duration::from_nanos(1500),
            sent: true,
        };
        audit.record(&event, room);
    }

    fn record(audit: &Audit, path: &str) {
        record_in(audit, path, None);
    }

    #[test]
    fn a_request_is_a_line_as_in_kes() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("audit.log");
        let audit = Audit::open(&settings(&file, AuditFailure::Drop)).unwrap();
        let mut reader = audit.hub().subscribe(|| true).unwrap();
        record(&audit, "/v1/key/create/a\"b");
        audit.flush();
        let identity = Identity::of_public_key(b"x");
        let line = format!(
            "{{\"time\":\"2026-01-02T03:04:05.000006Z\",\"request\":{{\"ip\":\"127.0.0.1\",\"path\":\"/v1/key/create/a\\\"b\",\
             \"identity\":\"{identity}\"}},\"response\":{{\"code\":200,\"time\":1500}}}}\n"
        );
        assert_eq!(std::fs::read_to_string(&file).unwrap(), line);
        assert_eq!(reader.try_recv().unwrap(), line);
        std::fs::rename(&file, directory.path().join("audit.log.1")).unwrap();
        audit.reopen();
        record(&audit, "/b");
        audit.flush();
        assert!(std::fs::read_to_string(&file).unwrap().contains("\"/b\""));
    }

    #[test]
    fn what_cannot_be_written_is_counted_or_kept_while_requests_are_refused() {
        let full = std::path::Path::new("/dev/full");
        let dropping = Audit::open(&settings(full, AuditFailure::Drop)).unwrap();
        record(&dropping, "/a");
        dropping.flush();
        assert_eq!(dropping.dropped.load(Ordering::Relaxed), 1);
        assert!(!dropping.refuses());

        let refusing = Audit::open(&settings(full, AuditFailure::Refuse)).unwrap();
        record(&refusing, "/a");
        refusing.flush();
        assert!(refusing.refuses());
        assert_eq!(refusing.dropped.load(Ordering::Relaxed), 0);
        assert_eq!(refusing.waiting.lock().unwrap().events, 1, "nothing is lost");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        assert_eq!(runtime.block_on(refusing.end(Duration::from_secs(5))), 1, "what is left is told");
    }

    #[test]
    fn an_effect_has_room_for_its_line_or_does_not_begin() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("audit.log");
        let refusing = Audit::open(&settings(&file, AuditFailure::Refuse)).unwrap();
        let path = "a".repeat(1 << 20);
        let room = refusing.reserve(&path).unwrap();
        assert!(room.is_some() && refusing.reserve(&path).is_err(), "two lines may not fit");
        while refusing.dropped.load(Ordering::Relaxed) == 0 {
            record(&refusing, &path);
        }
        record_in(&refusing, &path, room.as_ref());
        drop(room);
        assert_eq!(refusing.dropped.load(Ordering::Relaxed), 1, "the line with room is there");
        let before = refusing.waiting().events;
        refusing.flush();
        assert_eq!(refusing.written.load(Ordering::Relaxed), before);
        assert!(refusing.reserve(&path).is_ok(), "there is room again");
        let dropping = Audit::open(&settings(&file, AuditFailure::Drop)).unwrap();
        assert!(dropping.reserve(&path).unwrap().is_none());
    }
}
