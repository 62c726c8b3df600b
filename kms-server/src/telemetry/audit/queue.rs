//! The state of the audit log that requests share with the writing thread: the waiting lines, and how the log is doing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::line::LeftOut;
use crate::settings::AuditFailure;
use crate::telemetry::hub::Hub;
use crate::telemetry::log_limit::LogLimit;

/// The most bytes that wait. Beyond it events are lost, or requests refused.
pub const MAX_WAITING: usize = 8 << 20;

/// The waiting bytes from which on requests are refused. Requests under way still need room for their lines.
pub const FULL: usize = MAX_WAITING / 2;

/// How long the log may take for waiting lines. Then this is logged, and requests are refused if the settings say so.
const OVERDUE: Duration = Duration::from_secs(2);

/// The most lines of strangers, and the interval for them.
const STRANGERS: (Duration, u32) = (Duration::from_secs(10), 256);

/// The shared state.
pub struct Shared {
    pub is_somewhere: bool,
    pub on_failure: AuditFailure,
    pub waiting: Mutex<Waiting>,
    pub wake: Condvar,
    pub hub: Hub,
    pub strangers: LogLimit,
    /// The number of events passed to `write()`, of those put in line.
    pub handed: AtomicU64,
    /// Notified after each write.
    pub progress: Notify,
    pub is_failing: AtomicBool,
    pub is_overdue: AtomicBool,
    /// Whether so much waits that requests have to be refused, if the settings say so.
    pub is_full: AtomicBool,
}

/// The lines to be written.
#[derive(Default)]
pub struct Waiting {
    pub lines: Vec<u8>,
    pub events: u64,
    /// The number of events that were ever put in line.
    pub put: u64,
    /// The bytes and the events that the thread has taken and not written, and since when it has tried.
    pub in_hand: usize,
    pub in_hand_events: u64,
    pub since: Option<Instant>,
    /// The bytes reserved for the lines of effects under way.
    pub reserved: usize,
    pub left_out: LeftOut,
    /// The events without room that no metric counts yet.
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

/// The reserved room for one line, until this is dropped. It exists only if unrecorded requests are refused.
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

    /// Returns whether each answer waits for its line.
    pub fn must_write(&self) -> bool {
        self.on_failure == AuditFailure::Refuse && self.is_somewhere
    }

    pub fn look(&self) {
        let is_overdue = self.waiting().since.is_some_and(|since| since.elapsed() >= OVERDUE);
        let was_overdue = self.is_overdue.swap(is_overdue, Ordering::AcqRel);
        // A failing log has already reported why.
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
