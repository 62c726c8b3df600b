//! The bounds of one connection: what is going on, and until when it may.
//!
//! The transport and the handlers only note what happens, in atomics and without a look at the clock; the
//! task of the connection compares the notes with the clock after each poll, on one timer.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::requests::Refusal;

/// The number of what is open while a connection lingers.
pub(super) const LINGERING: u32 = u32::MAX;

/// What happens on a connection, noted by its transport and its handlers.
#[derive(Debug)]
pub struct Watch {
    pub(super) started: Instant,
    /// The number of the head or frame that has begun and not ended; 0 for none.
    pub(super) open: AtomicU32,
    pub(super) open_is_data: AtomicBool,
    /// The number of the write that the peer holds up; 0 for none.
    pub(super) stalled: AtomicU32,
    /// Requests that are being answered.
    active: AtomicU32,
    /// Of these on HTTP/2, answers that have no end.
    endless: AtomicU32,
    /// Counts requests, so that an idle connection can be told from a busy one.
    pub(super) served: AtomicU32,
    /// HTTP/1.1: when the request has to be answered, in milliseconds after `started`; 0 for none.
    pub(super) answer_by: AtomicU64,
    /// HTTP/1.1: an [`Answer`].
    answer: AtomicU8,
    lingers: AtomicBool,
    /// How the connection was told to end, and how its task is woken to hear it.
    stop: AtomicU8,
    waker: OnceLock<Waker>,
    /// Why its client is refused from now on; 0 while it is not.
    ended: AtomicU8,
    /// HTTP/1.1: the request that is refused, and why.
    refused: OnceLock<(u32, Refusal)>,
}

impl Watch {
    /// Begins to watch a connection whose first head is due from now on.
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            open: AtomicU32::new(1),
            open_is_data: AtomicBool::new(false),
            stalled: AtomicU32::new(0),
            active: AtomicU32::new(0),
            endless: AtomicU32::new(0),
            served: AtomicU32::new(0),
            answer_by: AtomicU64::new(0),
            answer: AtomicU8::new(Answer::None as u8),
            lingers: AtomicBool::new(false),
            stop: AtomicU8::new(0),
            waker: OnceLock::new(),
            ended: AtomicU8::new(0),
            refused: OnceLock::new(),
        }
    }

    /// Notes that a part of an HTTP/1.1 head came.
    pub fn http1_head_begins(&self) {
        if self.active.load(Ordering::Relaxed) == 0 && self.open.load(Ordering::Relaxed) == 0 {
            self.open.store(self.served.load(Ordering::Relaxed).wrapping_add(2).max(2), Ordering::Relaxed);
        }
    }

    /// Notes that the HTTP/1.1 request with this number is refused.
    pub fn http1_refuse(&self, number: u32, refusal: Refusal) {
        // There is none after it.
        let _ = self.refused.set((number, refusal));
    }

    /// Tells whether, and why, the present HTTP/1.1 request is refused.
    pub fn http1_refusal(&self) -> Option<Refusal> {
        let (number, refusal) = self.refused.get()?;
        (*number == self.served.load(Ordering::Relaxed)).then_some(*refusal)
    }

    /// Notes how far the answer to the HTTP/1.1 request is.
    pub(super) fn set_answer(&self, answer: Answer) {
        self.answer.store(answer as u8, Ordering::Relaxed);
    }

    fn answer_is(&self, answer: Answer) -> bool {
        self.answer.load(Ordering::Relaxed) == answer as u8
    }

    /// Notes when the HTTP/1.1 request has to be answered.
    pub fn http1_due(&self, deadline: Instant) {
        let millis = deadline.saturating_duration_since(self.started).as_millis();
        self.answer_by.store(u64::try_from(millis).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    /// Notes that an HTTP/1.1 request begins, which has to be answered at `deadline`.
    pub fn http1_begin(&self, deadline: Instant) {
        self.http1_due(deadline);
        self.set_answer(Answer::Due);
        self.active.store(1, Ordering::Relaxed);
        self.served.fetch_add(1, Ordering::Relaxed);
        self.open.store(0, Ordering::Relaxed);
    }

    /// Tells whether the HTTP/1.1 request that is being answered is out of time.
    pub fn http1_is_overdue(&self) -> bool {
        self.answer_is(Answer::Overdue)
    }

    /// Notes that the answer to an HTTP/1.1 request is there, though not sent yet.
    pub fn http1_answered(&self, lingers: bool) {
        self.answer_by.store(0, Ordering::Relaxed);
        self.set_answer(Answer::Ready);
        self.lingers.store(lingers, Ordering::Relaxed);
    }

    /// Notes an answer that goes on until somebody ends it.
    pub fn endless_begins(&self, is_http2: bool) {
        if is_http2 {
            self.endless.fetch_add(1, Ordering::Relaxed);
        } else {
            self.answer_by.store(0, Ordering::Relaxed);
        }
    }

    /// Notes that such an answer has ended.
    pub fn endless_ends(&self, is_http2: bool) {
        if is_http2 {
            // A reader that is cut off before its answer began has none.
            let less = |count: u32| count.checked_sub(1);
            let _ = self.endless.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        } else {
            self.http1_answered(false);
        }
    }

    /// Tells whether there is an answer without an end on this HTTP/2 connection.
    pub fn has_endless(&self) -> bool {
        self.endless.load(Ordering::Relaxed) != 0
    }

    /// Tells whether the peer may still be sending what nobody will read, so that the end must be gentle.
    pub fn lingers(&self) -> bool {
        self.lingers.load(Ordering::Relaxed)
    }

    /// Notes that the connection waits only for the peer to end its sending.
    pub fn lingering(&self) {
        self.open.store(LINGERING, Ordering::Relaxed);
    }

    /// Notes which HTTP/2 frame, or run of frames with one head, has begun and not ended; 0 for none.
    pub fn http2_open(&self, number: u32, is_data: bool) {
        self.open_is_data.store(is_data, Ordering::Relaxed);
        self.open.store(number, Ordering::Relaxed);
    }

    /// Notes that an HTTP/2 request begins; it ends when what is returned is dropped.
    pub fn http2_begin(self: &Arc<Self>) -> ActiveRequest {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.served.fetch_add(1, Ordering::Relaxed);
        ActiveRequest(Arc::clone(self))
    }

    /// Notes that the peer took bytes.
    pub fn written(&self) {
        self.stalled.store(0, Ordering::Relaxed);
    }

    /// Notes that the peer does not take bytes; `number` is that of the write.
    pub fn write_stalled(&self, number: u32) {
        self.stalled.store(number, Ordering::Relaxed);
    }

    /// Notes that all that was written is on its way to the peer.
    pub fn flushed(&self) {
        self.stalled.store(0, Ordering::Relaxed);
        if self.answer_is(Answer::Ready) {
            self.set_answer(Answer::None);
            self.active.store(0, Ordering::Relaxed);
        }
    }

    /// Tells the connection to end after its present requests, or at once.
    pub fn tell(&self, stop: Stop) {
        // Either the task sees this, or this sees the task's waker.
        self.stop.fetch_max(stop as u8, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Refuses the client from now on, and tells the connection to end after its present requests.
    pub fn end_access(&self, why: AccessEnd) {
        self.ended.store(why as u8, Ordering::Relaxed);
        self.tell(Stop::WhenIdle);
    }

    /// Returns why the client is refused, if it is.
    pub fn access_end(&self) -> Option<AccessEnd> {
        match self.ended.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(AccessEnd::RuleChanged),
            _ => Some(AccessEnd::Expired),
        }
    }

    /// Returns whether and how the connection has to end. `waker` is that of its task, which never changes.
    pub fn told(&self, waker: &Waker) -> Option<Stop> {
        if self.waker.get().is_none() {
            self.waker.get_or_init(|| waker.clone());
            fence(Ordering::SeqCst);
        }
        match self.stop.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(Stop::WhenIdle),
            _ => Some(Stop::Now),
        }
    }

    /// Tells whether the connection was told to end at once.
    pub fn is_told_now(&self) -> bool {
        self.stop.load(Ordering::Relaxed) == Stop::Now as u8
    }

    /// Returns how many requests there were, modulo 2^32.
    pub fn served(&self) -> u32 {
        self.served.load(Ordering::Relaxed)
    }

    /// Returns how long ago the connection was accepted.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Tells whether no request is being answered.
    pub fn is_idle(&self) -> bool {
        self.active.load(Ordering::Relaxed) == 0
    }
}

/// How far the answer to the present HTTP/1.1 request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// There is no request, or its answer was sent.
    None = 0,
    /// It is worked on.
    Due = 1,
    /// It is worked on, and its time is over.
    Overdue = 2,
    /// It is there, and not all of it was handed to the system.
    Ready = 3,
}

/// Why a client that was accepted is not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessEnd {
    /// It was accepted by a rule that is in force no more; another handshake tells.
    RuleChanged = 1,
    /// Its certificate has expired.
    Expired = 2,
}

/// How a connection is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// After the requests that have begun.
    WhenIdle = 1,
    /// At once.
    Now = 2,
}

/// An HTTP/2 request that is being answered.
pub struct ActiveRequest(Arc<Watch>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}
