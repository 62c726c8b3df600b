//! The thread that writes the audit log. A log that stalls delays nothing but this thread.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use jiff::Timestamp;

use super::line::{self, LeftOut};
use super::output::{Failed, Output};
use super::queue::{FULL, Shared};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::{error_log, lines};

/// How long a line waits for others to be written with, if no answer waits for it.
const GATHER: Duration = Duration::from_millis(20);

/// The pause before a failed write is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// The time between two reports of left-out lines of strangers.
const TELL_STRANGERS: Duration = Duration::from_secs(10);

/// The most bytes of one write. Answers whose lines are in it need not wait for all others.
const MAX_WRITE: usize = 256 << 10;

/// The largest buffer that is kept while nothing waits.
const MAX_SPARE: usize = 1 << 20;

/// Writes the lines of a log.
pub struct Writer {
    shared: Arc<Shared>,
    output: Output,
    /// The lines that could not be written and are not given up.
    kept: Vec<u8>,
    kept_events: u64,
    told_strangers: Instant,
    /// The time between two reports of left-out lines of strangers.
    pub tell_strangers: Duration,
}

/// The result of a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    pub written: u64,
    pub lost: u64,
}

impl Writer {
    /// Creates the writer to `output`.
    pub fn new(shared: Arc<Shared>, output: Output) -> Self {
        let (kept, told_strangers) = (Vec::new(), Instant::now());
        Self { shared, output, kept, kept_events: 0, told_strangers, tell_strangers: TELL_STRANGERS }
    }

    /// Writes events as they come, until the log ends.
    pub fn run(mut self, metrics: &Metrics) {
        loop {
            let ends = self.wait();
            let Turn { written, lost } = self.turn(ends);
            metrics.audited(written, lost);
            if ends {
                self.shared.waiting().has_ended = true;
                self.shared.progress.notify_waiters();
                return;
            }
        }
    }

    /// Waits until there is something to do. Returns true for the last time.
    fn wait(&self) -> bool {
        let mut waiting = self.shared.waiting();
        let is_failing = self.shared.is_failing.load(Ordering::Relaxed);
        let began = Instant::now();
        loop {
            if waiting.end {
                return true;
            }
            let pause = if is_failing {
                RETRY.saturating_sub(began.elapsed())
            } else if !waiting.lines.is_empty() || waiting.reopen || self.has_to_tell(&waiting.left_out) {
                Duration::ZERO
            } else if waiting.left_out.strangers != 0 {
                self.tell_strangers.saturating_sub(self.told_strangers.elapsed())
            } else {
                Duration::MAX
            };
            if pause.is_zero() {
                break;
            }
            waiting = if pause == Duration::MAX {
                self.shared.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.shared.wake.wait_timeout(waiting, pause).unwrap_or_else(PoisonError::into_inner).0
            };
        }
        drop(waiting);
        if !self.shared.must_write() {
            std::thread::sleep(GATHER);
        }
        false
    }

    /// Returns whether a report of left-out lines is due. More strangers may always come, so theirs are reported rarely.
    fn has_to_tell(&self, left_out: &LeftOut) -> bool {
        left_out.lost != 0
            || left_out.refused != 0
            || (left_out.strangers != 0 && self.told_strangers.elapsed() >= self.tell_strangers)
    }

    /// Writes the waiting lines, and passes them to the readers of the log.
    ///
    /// A line that cannot be written is lost. If requests are refused meanwhile, it is kept instead.
    pub fn turn(&mut self, is_last: bool) -> Turn {
        let left_out = self.take(is_last);
        let note = (!left_out.is_none()).then(|| line::of_left_out(left_out, Timestamp::now()));
        let (mut turn, failure) = self.write(note.as_deref());
        self.tell(failure.as_ref());
        let mut waiting = self.shared.waiting();
        waiting.in_hand = self.kept.len();
        waiting.in_hand_events = self.kept_events;
        waiting.since = (!waiting.lines.is_empty()).then(Instant::now);
        waiting.left_out.lost += turn.lost;
        turn.lost += std::mem::take(&mut waiting.dropped);
        if failure.is_some() {
            // The report was not written.
            waiting.left_out.strangers += left_out.strangers;
            waiting.left_out.lost += left_out.lost;
            waiting.left_out.refused += left_out.refused;
        }
        let is_full = waiting.lines.len() + waiting.in_hand >= FULL;
        self.shared.is_full.store(is_full, Ordering::Relaxed);
        drop(waiting);
        self.shared.progress.notify_waiters();
        if failure.is_none()
            && let Some(note) = note
        {
            self.send(&note);
        }
        turn
    }

    /// Takes the waiting lines. Returns the numbers of requests without a line that are to be reported.
    fn take(&mut self, is_last: bool) -> LeftOut {
        let mut waiting = self.shared.waiting();
        let reopens = std::mem::take(&mut waiting.reopen);
        let before = self.kept.len();
        if before == 0 {
            // Both buffers are reused, unless they have become large.
            self.kept.shrink_to(MAX_SPARE);
            std::mem::swap(&mut waiting.lines, &mut self.kept);
        } else {
            let lines = std::mem::take(&mut waiting.lines);
            self.kept.extend_from_slice(&lines);
        }
        self.kept_events += std::mem::take(&mut waiting.events);
        waiting.in_hand = self.kept.len();
        waiting.in_hand_events = self.kept_events;
        waiting.since = Some(Instant::now());
        let left_out = if is_last || self.has_to_tell(&waiting.left_out) {
            self.told_strangers = Instant::now();
            std::mem::take(&mut waiting.left_out)
        } else {
            LeftOut::default()
        };
        drop(waiting);
        if reopens && let Err(error) = self.output.reopen() {
            tracing::error!(%error, "the audit log cannot be opened again, the old file stays in use");
        }
        if self.shared.hub.has_readers() {
            self.send(self.kept.get(before..).unwrap_or_default());
        }
        left_out
    }

    /// Writes the kept lines, then the note.
    fn write(&mut self, note: Option<&[u8]>) -> (Turn, Option<io::Error>) {
        let mut turn = Turn::default();
        let mut done = 0;
        let failure = loop {
            let rest = self.kept.get(done..).unwrap_or_default();
            if rest.is_empty() {
                break None;
            }
            let (some, _) = lines::split(rest, MAX_WRITE);
            let (written, error) = match self.output.write(some) {
                Ok(()) => (some.len(), None),
                Err(Failed { written, error }) => (written, Some(error)),
            };
            let events = lines::count(some.get(..written).unwrap_or(some));
            done += written;
            turn.written += events;
            self.shared.handed.fetch_add(events, Ordering::AcqRel);
            self.shared.progress.notify_waiters();
            if error.is_some() {
                break error;
            }
            // A log that takes a part is slow, but not stalled.
            self.shared.waiting().since = Some(Instant::now());
        };
        self.kept.drain(..done);
        self.kept_events -= turn.written;
        if failure.is_some() {
            if !self.shared.must_write() {
                turn.lost = std::mem::take(&mut self.kept_events);
                self.kept.clear();
            }
            return (turn, failure);
        }
        let outcome = note.map_or(Ok(()), |note| self.output.write(note));
        (turn, outcome.err().map(|Failed { error, .. }| error))
    }

    /// Logs when the audit log begins and stops to fail.
    fn tell(&self, failure: Option<&io::Error>) {
        let was_failing = self.shared.is_failing.swap(failure.is_some(), Ordering::AcqRel);
        match failure {
            Some(error) if !was_failing => {
                let consequence = self.shared.on_failure.consequence();
                tracing::error!(%error, "the audit log cannot be written: {consequence}");
            }
            None if was_failing => tracing::warn!("the audit log can be written again"),
            _ => {}
        }
    }

    fn send(&self, lines: &[u8]) {
        for identity in self.shared.hub.send(&Bytes::copy_from_slice(lines)) {
            tracing::warn!("{}", error_log::told_cut_off("audit", identity));
        }
    }
}
