//! What requests and the thread that writes the audit log share: the lines that wait, and how the log is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::line::LeftOut;
use crate::settings::AuditFailure;
use crate::telemetry::hub::Hub;
use crate::telemetry::log_limit::LogLimit;

/// The most bytes that wait to be written; beyond it events are lost, or requests refused.
pub const MAX_WAITING: usize = 8 << 20;

/// From so many on requests are refused, where they are: those that have begun need room for their lines.
pub const FULL: usize = MAX_WAITING / 2;

/// How long the log may take for what waits before that is told, and requests refused where they are.
const OVERDUE: Duration = Duration::from_secs(2);

/// How many requests of strangers get a line, and in what time.
const STRANGERS: (Duration, u32) = (Duration::from_secs(10), 256);

/// What requests and the thread that writes share.
pub struct Shared {
    pub is_somewhere: bool,
    pub on_failure: AuditFailure,
    pub waiting: Mutex<Waiting>,
    pub wake: Condvar,
    pub hub: Hub,
    pub strangers: LogLimit,
    /// Events that were handed to `write()`, of those that were put in line.
    pub handed: AtomicU64,
    /// Told after each write.
    pub progress: Notify,
    pub is_failing: AtomicBool,
    pub is_overdue: AtomicBool,
    /// So much waits that requests have to be refused, where they are.
    pub is_full: AtomicBool,
}

/// What is to be written.
#[derive(Default)]
pub struct Waiting {
    pub lines: Vec<u8>,
    pub events: u64,
    /// Events that were ever put in line.
    pub put: u64,
    /// Bytes and events that the thread has taken and not written, and since when it tries.
    pub in_hand: usize,
    pub in_hand_events: u64,
    pub since: Option<Instant>,
    /// Bytes that are kept free for the lines of what has begun and not ended.
    pub reserved: usize,
    pub left_out: LeftOut,
    /// Events without room that no metric tells yet.
    pub dropped: u64,
    pub reopen: bool,
    pub end: bool,
    pub has_ended: bool,
}

impl Waiting {
    pub fn bytes(&self) -> usize {
        self.lines.len() + self.in_hand + self.reserved
    }
}

/// Room for one line, kept free until this is dropped, where requests are refused that could not be recorded.
pub struct LineRoom {
    pub(super) shared: Arc<Shared>,
    pub(super) len: usize,
}

impl Drop for LineRoom {
    fn drop(&mut self) {
        self.shared.waiting().reserved -= self.len;
    }
}

impl Shared {
    pub fn new(is_somewhere: bool, on_failure: AuditFailure) -> Self {
        Self {
            is_somewhere,
            on_failure,
            waiting: Mutex::default(),
            wake: Condvar::new(),
            hub: Hub::new(),
            strangers: LogLimit::new(STRANGERS.0, STRANGERS.1),
            handed: AtomicU64::new(0),
            progress: Notify::new(),
            is_failing: AtomicBool::new(false),
            is_overdue: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
        }
    }

    pub fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether an answer waits for its line.
    pub fn must_write(&self) -> bool {
        self.on_failure == AuditFailure::Refuse && self.is_somewhere
    }

    pub fn look(&self) {
        let is_overdue = self.waiting().since.is_some_and(|since| since.elapsed() >= OVERDUE);
        let was_overdue = self.is_overdue.swap(is_overdue, Ordering::AcqRel);
        // A log that fails has told why.
        if is_overdue && !was_overdue && !self.is_failing.load(Ordering::Relaxed) {
            let consequence = self.on_failure.consequence();
            tracing::error!("the audit log has taken nothing for {OVERDUE:?}: {consequence}");
        } else if was_overdue && !is_overdue {
            tracing::warn!("the audit log takes lines again");
        }
        if is_overdue {
            self.progress.notify_waiters();
        }
    }
}
