//! The notes about one connection: the states of it and of its requests.
//!
//! The transport and the handlers only note events, in atomics and without reading the clock. After each poll, the
//! connection's task has its `Guard` compare the notes with the clock, on one timer.
//!
//! # States
//!
//! On HTTP/1.1 there is one request at a time:
//!
//! ```text
//!   new ────────▶ head ──http1_begin──▶ request ──http1_answered, _arrived──▶ answer ready ──flushed──▶ idle
//!   (open=1)      open≠0                active=1, Due    Made, Ready                                    active=0, None
//!                  ▲                     ▲  │                        ▲                         │
//!                  │                     │  └──▶ Overdue ────────────┘                         │
//!                  │                     │     (guard: the timeout is over)                    │
//!                  │                     └── http1_begin: the next head came at once ──────────┤
//!                  └──────────────────────── http1_head_begins: a part of it came ─────────────┘
//!
//!   any state ──lingering: shutdown behind an unread request──▶ open=LINGERING, until the peer closes
//! ```
//!
//! On HTTP/2 `open` is the incomplete frame, `active` counts the requests, and `endless` those of them whose answer has
//! no end. On both, `stop` only grows: 0, [`Stop::WhenIdle`], [`Stop::Now`].
//!
//! # Who writes and who reads
//!
//! | note | written by | read by |
//! |---|---|---|
//! | `open`, `open_is_data`, `stalled` | the transport; `open` by `http1_begin` too | the guard |
//! | `served` | the handler (HTTP/1.1), the executor (HTTP/2) | the guard, the slots |
//! | `active` | the handler and the transport (1.1); the executor and each request's end (2) | the guard, the slots |
//! | `endless` | the handler, the answer's end, and the hub of a log (2) | the request's own task |
//! | `answer_by`, `answer`, `lingers` | the handler and the transport (1.1); `Overdue` by the guard, if it is due | all of these |
//! | `refused` | the transport (1.1) | the handler |
//! | `stop` | the server, the slots | the connection's task |
//! | `waker` | the connection's task | whoever writes `stop` |
//! | `ended` | the server, the connection's task | the handlers, and the rules for readers of logs |
//!
//! The transport, the guard and the executor run in the connection's own task, and so do the handlers of requests that
//! wait for nothing but their bodies. A handler that waits for the key store has a task of its own. The server, the slots
//! and the hub run on any thread.
//!
//! # Why `Relaxed` is enough
//!
//! No note publishes other memory, so nobody needs to see two of them in order. Notes of one task are seen by that task
//! in program order. The connection's task sees what a handler noted elsewhere when it gets the answer from there, and it
//! never takes back that an answer was made. Counters that several tasks change are changed by atomic additions. The slots take an old value for
//! an estimate, and a handler that misses a new `ended` is a request that came just before it. Only `stop` and `waker`
//! need an order: each side writes its own and then reads the other's, with a `SeqCst` fence between.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::requests::Refusal;

/// The number in `open` while a connection lingers.
pub(super) const LINGERING: u32 = u32::MAX;

/// The notes about one connection.
#[derive(Debug)]
pub struct Watch {
    pub(super) started: Instant,
    /// The number of the incomplete head or frame, or 0 for none.
    pub(super) open: AtomicU32,
    pub(super) open_is_data: AtomicBool,
    /// The number of the write that the peer delays, or 0 for none.
    pub(super) stalled: AtomicU32,
    /// The number of requests that are being answered.
    active: AtomicU32,
    /// HTTP/2: the number of those whose answer has no end.
    endless: AtomicU32,
    /// The number of requests so far, by which an idle connection differs from a busy one.
    pub(super) served: AtomicU32,
    /// HTTP/1.1: when the request has to be answered, in milliseconds after `started`, or 0 for no request.
    pub(super) answer_by: AtomicU64,
    /// HTTP/1.1: an [`AnswerState`].
    answer: AtomicU8,
    lingers: AtomicBool,
    /// How the connection was told to end, a [`Stop`], or 0.
    stop: AtomicU8,
    waker: OnceLock<Waker>,
    /// Why the client is refused from now on, an [`AccessEnd`], or 0.
    ended: AtomicU8,
    /// HTTP/1.1: the number of the refused request, and the reason.
    refused: OnceLock<(u32, Refusal)>,
}

impl Watch {
    /// Creates the notes of a connection whose first head is due from now on.
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
            answer: AtomicU8::new(AnswerState::None as u8),
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
        // No request comes after it, so this is set once.
        let _ = self.refused.set((number, refusal));
    }

    /// Returns why the current HTTP/1.1 request is refused, if it is.
    pub fn http1_refusal(&self) -> Option<Refusal> {
        let (number, refusal) = self.refused.get()?;
        (*number == self.served.load(Ordering::Relaxed)).then_some(*refusal)
    }

    /// Notes that the deadline of the HTTP/1.1 request has passed. Returns false if its answer is made already.
    pub(super) fn http1_becomes_overdue(&self) -> bool {
        let (due, overdue) = (AnswerState::Due as u8, AnswerState::Overdue as u8);
        self.answer.compare_exchange(due, overdue, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Notes the state of the answer to the HTTP/1.1 request.
    fn set_answer(&self, answer: AnswerState) {
        self.answer.store(answer as u8, Ordering::Relaxed);
    }

    fn answer_is(&self, answer: AnswerState) -> bool {
        self.answer.load(Ordering::Relaxed) == answer as u8
    }

    /// Notes the deadline of the HTTP/1.1 request.
    pub fn http1_due(&self, deadline: Instant) {
        let millis = deadline.saturating_duration_since(self.started).as_millis();
        self.answer_by.store(u64::try_from(millis).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    /// Notes that an HTTP/1.1 request with this deadline begins.
    pub fn http1_begin(&self, deadline: Instant) {
        self.http1_due(deadline);
        self.set_answer(AnswerState::Due);
        self.active.store(1, Ordering::Relaxed);
        self.served.fetch_add(1, Ordering::Relaxed);
        self.open.store(0, Ordering::Relaxed);
    }

    /// Returns whether the deadline of the HTTP/1.1 request has passed.
    pub fn http1_is_overdue(&self) -> bool {
        self.answer_is(AnswerState::Overdue)
    }

    /// Notes that the answer to an HTTP/1.1 request is made. It may be on its way from another task.
    pub fn http1_answered(&self, lingers: bool) {
        self.answer_by.store(0, Ordering::Relaxed);
        self.set_answer(AnswerState::Made);
        self.lingers.store(lingers, Ordering::Relaxed);
    }

    /// Notes that the connection's task has the answer, though it is not sent yet. What is flushed before is another one.
    pub fn http1_arrived(&self) {
        if self.answer_is(AnswerState::Made) {
            self.set_answer(AnswerState::Ready);
        }
    }

    /// Notes the beginning of an answer that has no end of its own.
    pub fn endless_begins(&self, is_http2: bool) {
        if is_http2 {
            self.endless.fetch_add(1, Ordering::Relaxed);
        } else {
            self.answer_by.store(0, Ordering::Relaxed);
        }
    }

    /// Notes the end of such an answer.
    pub fn endless_ends(&self, is_http2: bool) {
        if is_http2 {
            // The count may be 0: a reader can be cut off before its answer began.
            let less = |count: u32| count.checked_sub(1);
            let _ = self.endless.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        } else {
            self.http1_answered(false);
            self.http1_arrived();
        }
    }

    /// Returns whether this HTTP/2 connection has an endless answer.
    pub fn has_endless(&self) -> bool {
        self.endless.load(Ordering::Relaxed) != 0
    }

    /// Returns whether the peer may still be sending data that nobody reads, so that the connection has to linger.
    pub fn lingers(&self) -> bool {
        self.lingers.load(Ordering::Relaxed)
    }

    /// Notes that the connection only waits for the peer to stop sending.
    pub fn lingering(&self) {
        self.open.store(LINGERING, Ordering::Relaxed);
    }

    /// Notes the number of the incomplete HTTP/2 frame, or 0. A run of frames with one header block has one number.
    pub fn http2_open(&self, number: u32, is_data: bool) {
        self.open_is_data.store(is_data, Ordering::Relaxed);
        self.open.store(number, Ordering::Relaxed);
    }

    /// Notes that an HTTP/2 request begins. It ends when the returned value is dropped.
    pub fn http2_begin(self: &Arc<Self>) -> ActiveRequest {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.served.fetch_add(1, Ordering::Relaxed);
        ActiveRequest(Arc::clone(self))
    }

    /// Notes that the peer accepted bytes.
    pub fn written(&self) {
        self.stalled.store(0, Ordering::Relaxed);
    }

    /// Notes that the peer delays the write with this number.
    pub fn write_stalled(&self, number: u32) {
        self.stalled.store(number, Ordering::Relaxed);
    }

    /// Notes that everything written is on its way to the peer.
    pub fn flushed(&self) {
        self.stalled.store(0, Ordering::Relaxed);
        if self.answer_is(AnswerState::Ready) {
            self.set_answer(AnswerState::None);
            self.active.store(0, Ordering::Relaxed);
        }
    }

    /// Tells the connection to end: after its current requests, or at once.
    pub fn tell(&self, stop: Stop) {
        // Either the task sees this, or this sees the task's waker.
        self.stop.fetch_max(stop as u8, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Refuses the client from now on, and tells the connection to end after its current requests.
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

    /// Returns how the connection has to end, if it has to. `waker` is that of its task, which never changes.
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

    /// Returns whether the connection was told to end at once.
    pub fn is_told_now(&self) -> bool {
        self.stop.load(Ordering::Relaxed) == Stop::Now as u8
    }

    /// Returns the number of requests so far, modulo 2^32.
    pub fn served(&self) -> u32 {
        self.served.load(Ordering::Relaxed)
    }

    /// Returns the time since the connection was accepted.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns whether no request is being answered.
    pub fn is_idle(&self) -> bool {
        self.active.load(Ordering::Relaxed) == 0
    }
}

/// The state of the answer to the current HTTP/1.1 request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerState {
    /// There is no request, or its answer was sent.
    None = 0,
    /// It is being made.
    Due = 1,
    /// It is being made, and its deadline has passed.
    Overdue = 2,
    /// It is made, and the connection's task does not have it yet.
    Made = 3,
    /// It is made, and not completely sent.
    Ready = 4,
}

/// Why a client that was accepted is refused now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessEnd {
    /// The rule that accepted it is no longer in force. Another handshake decides by the new one.
    RuleChanged = 1,
    /// Its certificate has expired.
    Expired = 2,
}

/// How a connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// After the current requests.
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
