//! The audit log: who requested what, with which result. Each line is a JSON object without body, context or key.
//!
//! Requests put their lines into one buffer, which a thread of its own writes. It writes every 20 ms, because a write for
//! each line would cost more than most requests. If requests that cannot be recorded are refused, it writes at once, and
//! each answer waits until its line was passed to `write()`.

mod line;
mod output;
mod queue;
mod writer;

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use self::line::{AuditEvent, BackedUp, LeftOut};
use self::output::Output;
pub use self::queue::LineRoom;
use self::queue::{FULL, MAX_WAITING, Shared};
use self::writer::Writer;
use super::hub::Hub;
use super::metrics::Metrics;
use crate::settings::{AuditFailure, LogSettings};

/// The time between two checks whether the log takes lines.
const LOOK: Duration = Duration::from_millis(250);

/// The audit log of a server.
pub struct Audit {
    shared: Arc<Shared>,
    /// The writer, until its thread starts.
    writer: Mutex<Option<Writer>>,
}

/// The error of a request that cannot be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// The result of recording an event.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// Nobody has to wait for the line.
    Done,
    /// The answer has to wait for the line with this number.
    InLine(u64),
    /// There is no room for the line, and so there must be no answer.
    Lost,
}

impl Audit {
    /// Opens the log that `settings` describe. Fails if its file cannot be opened.
    pub fn open(settings: &LogSettings) -> Result<Arc<Self>, (PathBuf, io::Error)> {
        let output = match &settings.audit_file {
            Some(path) => Output::file(path).map_err(|error| (path.clone(), error))?,
            None if settings.audit => Output::stdout().map_err(|error| (PathBuf::from("stdout"), error))?,
            None => Output::nowhere(),
        };
        let shared = Arc::new(Shared::new(output.is_somewhere(), settings.audit_failure));
        let writer = Mutex::new(Some(Writer::new(Arc::clone(&shared), output)));
        Ok(Arc::new(Self { shared, writer }))
    }

    /// Starts the writing thread.
    pub fn start(&self, metrics: Arc<Metrics>) -> io::Result<()> {
        let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run(&metrics)).map(drop)
    }

    /// Returns the hub for readers of the log.
    pub fn hub(&self) -> &Hub {
        &self.shared.hub
    }

    /// Returns whether events are written or read anywhere.
    pub fn is_on(&self) -> bool {
        self.shared.is_somewhere || self.shared.hub.has_readers()
    }

    /// Returns whether requests have to be refused, because they could not be recorded.
    pub fn refuses(&self) -> bool {
        let Shared { is_failing, is_overdue, is_full, .. } = &*self.shared;
        self.shared.on_failure == AuditFailure::Refuse
            && [is_failing, is_overdue, is_full].iter().any(|state| state.load(Ordering::Relaxed))
    }

    /// Counts a refused request. It gets no line, because otherwise refusals would fill the log.
    pub fn refused(&self) {
        self.shared.waiting().left_out.refused += 1;
        self.shared.wake.notify_one();
    }

    /// Reserves room for the line of a request for `path`, before the request has an effect.
    ///
    /// Fails if the request has to be refused. If lines may be dropped, nothing is reserved.
    pub fn reserve(&self, path: &str) -> Result<Option<LineRoom>, NoRoom> {
        if !self.shared.must_write() {
            return Ok(None);
        }
        let len = line::max_len(path);
        let mut waiting = self.shared.waiting();
        if self.refuses() || waiting.bytes() + len > MAX_WAITING {
            return Err(NoRoom);
        }
        waiting.reserved += len;
        Ok(Some(LineRoom { shared: Arc::clone(&self.shared), len }))
    }

    /// Records an event, if anybody wants it. An event with `room` is never dropped.
    pub fn record(&self, event: &AuditEvent<'_>, room: Option<&LineRoom>) -> Recorded {
        if !self.is_on() {
            return Recorded::Done;
        }
        let shared = &*self.shared;
        if !event.is_known && shared.strangers.allow().is_none() {
            let mut waiting = shared.waiting();
            waiting.left_out.strangers += 1;
            let is_first = waiting.left_out.strangers == 1;
            drop(waiting);
            if is_first {
                // The thread reports the number after a while.
                shared.wake.notify_one();
            }
            return Recorded::Done;
        }
        let mut waiting = shared.waiting();
        if room.is_none() && waiting.bytes() + line::max_len(event.path) > MAX_WAITING {
            if shared.must_write() {
                waiting.left_out.refused += 1;
                return Recorded::Lost;
            }
            waiting.left_out.lost += 1;
            waiting.dropped += 1;
            return Recorded::Done;
        }
        let is_first = waiting.lines.is_empty();
        line::push(&mut waiting.lines, event);
        waiting.events += 1;
        waiting.put += 1;
        let number = waiting.put;
        waiting.since.get_or_insert_with(Instant::now);
        if waiting.lines.len() + waiting.in_hand >= FULL {
            shared.is_full.store(true, Ordering::Relaxed);
        }
        drop(waiting);
        if is_first {
            shared.wake.notify_one();
        }
        if shared.must_write() { Recorded::InLine(number) } else { Recorded::Done }
    }

    /// Waits until a line was passed to `write()`. Returns false if it was not in time. Then there must be no answer.
    pub async fn is_written(&self, recorded: Recorded) -> bool {
        let number = match recorded {
            Recorded::Done => return true,
            Recorded::Lost => return false,
            Recorded::InLine(number) => number,
        };
        loop {
            let mut progress = pin!(self.shared.progress.notified());
            progress.as_mut().enable();
            if self.shared.handed.load(Ordering::Acquire) >= number {
                return true;
            }
            if self.refuses_now() {
                return false;
            }
            progress.await;
        }
    }

    /// Returns whether the log takes no lines, for another reason than being full.
    fn refuses_now(&self) -> bool {
        self.shared.is_failing.load(Ordering::Acquire) || self.shared.is_overdue.load(Ordering::Acquire)
    }

    /// Opens the file again before the next line, for example after it was renamed.
    pub fn reopen(&self) {
        self.shared.waiting().reopen = true;
        self.shared.wake.notify_one();
    }

    /// Checks now and then whether the log takes lines, and logs when it does not. Runs until it is dropped.
    pub async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            ticks.tick().await;
            self.shared.look();
        }
    }

    /// Writes the waiting lines for the last time, for at most `patience`. Returns what was not written.
    pub async fn end(&self, patience: Duration) -> LeftOut {
        self.shared.waiting().end = true;
        self.shared.wake.notify_one();
        let ended = async {
            loop {
                let mut progress = pin!(self.shared.progress.notified());
                progress.as_mut().enable();
                if self.shared.waiting().has_ended {
                    return;
                }
                progress.await;
            }
        };
        let _ = tokio::time::timeout(patience, ended).await;
        let waiting = self.shared.waiting();
        let lost = waiting.events + waiting.in_hand_events + waiting.left_out.lost;
        LeftOut { lost, ..waiting.left_out }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.shared.waiting().end = true;
        self.shared.wake.notify_one();
    }
}

#[cfg(test)]
mod tests;
