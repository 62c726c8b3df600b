//! The bounds of one connection: what is going on, and until when it may.
//!
//! The transport and the handlers only note what happens, in atomics and without a look at the clock; the
//! task of the connection compares the notes with the clock after each poll, on one timer.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::requests::Refusal;

/// How long each thing on a connection may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// A handshake, and each head or HTTP/2 frame from its first byte to its last.
    pub head: Duration,
    /// One HTTP/2 frame with a part of a body.
    pub data: Duration,
    /// How long a peer may leave what was sent to it unread.
    pub write: Duration,
    /// How long a connection may be without a request.
    pub idle: Duration,
    /// How long a connection that was told to end may take.
    pub close: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(5),
            data: Duration::from_secs(15),
            write: Duration::from_secs(15),
            idle: Duration::from_secs(90),
            close: Duration::from_secs(5),
        }
    }
}

/// How long what a peer still sends is read and forgotten after the last answer, lest the answer is lost.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// The number of what is open while a connection lingers.
const LINGERING: u32 = u32::MAX;

/// What happens on a connection, noted by its transport and its handlers.
#[derive(Debug)]
pub struct Watch {
    started: Instant,
    /// The number of the head or frame that has begun and not ended; 0 for none.
    open: AtomicU32,
    open_is_data: AtomicBool,
    /// The number of the write that the peer holds up; 0 for none.
    stalled: AtomicU32,
    /// Requests that are being answered.
    active: AtomicU32,
    /// Of these on HTTP/2, answers that have no end.
    endless: AtomicU32,
    /// Counts requests, so that an idle connection can be told from a busy one.
    served: AtomicU32,
    /// HTTP/1.1: when the request has to be answered, in milliseconds after `started`; 0 for none.
    answer_by: AtomicU64,
    overdue: AtomicBool,
    answered: AtomicBool,
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
            overdue: AtomicBool::new(false),
            answered: AtomicBool::new(false),
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

    /// Notes when the HTTP/1.1 request has to be answered.
    pub fn http1_due(&self, deadline: Instant) {
        let millis = deadline.saturating_duration_since(self.started).as_millis();
        self.answer_by.store(u64::try_from(millis).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    /// Notes that an HTTP/1.1 request begins, which has to be answered at `deadline`.
    pub fn http1_begin(&self, deadline: Instant) {
        self.http1_due(deadline);
        self.answered.store(false, Ordering::Relaxed);
        self.overdue.store(false, Ordering::Relaxed);
        self.active.store(1, Ordering::Relaxed);
        self.served.fetch_add(1, Ordering::Relaxed);
        self.open.store(0, Ordering::Relaxed);
    }

    /// Tells whether the HTTP/1.1 request that is being answered is out of time.
    pub fn http1_is_overdue(&self) -> bool {
        self.overdue.load(Ordering::Relaxed)
    }

    /// Notes that the answer to an HTTP/1.1 request is there, though not sent yet.
    pub fn http1_answered(&self, lingers: bool) {
        self.answer_by.store(0, Ordering::Relaxed);
        self.overdue.store(false, Ordering::Relaxed);
        self.answered.store(true, Ordering::Relaxed);
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
    pub fn http2_begin(self: &Arc<Self>) -> ActiveStream {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.served.fetch_add(1, Ordering::Relaxed);
        ActiveStream(Arc::clone(self))
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
        if self.answered.load(Ordering::Relaxed) {
            self.answered.store(false, Ordering::Relaxed);
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
pub struct ActiveStream(Arc<Watch>);

impl Drop for ActiveStream {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the task of a connection has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// Drop the connection at once, for this reason.
    Close(&'static str),
    /// Let no further request come: the connection was idle for long.
    End,
    /// Give back what memory can be given back: the connection has become quiet.
    Rest,
    /// Poll the connection once more: its request is out of time.
    Overdue,
}

/// The longest time between two looks at a busy connection.
const TICK: Duration = Duration::from_millis(200);

/// Compares the notes of a [`Watch`] with the clock, on one timer.
///
/// A busy connection never sets its timer: it goes off once a tick, and only then is looked when the next bound
/// is. The timer of a connection that was quiet for a tick is set to the bound itself, and set nearer by the next
/// request.
pub struct Guard {
    bounds: Bounds,
    timer: Pin<Box<Sleep>>,
    tick: Duration,
    quiet: bool,
    open: Since,
    stalled: Since,
    idle: Option<Since>,
    close_at: Option<Instant>,
}

/// The number of what goes on, and since when it does.
#[derive(Clone, Copy)]
struct Since {
    number: u32,
    at: Instant,
}

impl Guard {
    /// Guards a connection whose requests have at least `shortest_timeout` each.
    pub fn new(watch: &Watch, bounds: Bounds, shortest_timeout: Duration) -> Self {
        let tick =
            [bounds.head, bounds.data, bounds.write, shortest_timeout].into_iter().fold(TICK, Duration::min);
        Self {
            bounds,
            timer: Box::pin(tokio::time::sleep_until((watch.started + tick).into())),
            tick,
            quiet: false,
            open: Since { number: watch.open.load(Ordering::Relaxed), at: watch.started },
            stalled: Since { number: 0, at: watch.started },
            idle: None,
            close_at: None,
        }
    }

    /// Notes that the connection was told to end: it is dropped if it does not.
    pub fn ending(&mut self) {
        if self.close_at.is_none() {
            let at = Instant::now() + self.bounds.close;
            self.close_at = Some(at);
            self.arm(at);
        }
    }

    /// Looks at the notes, after the connection was polled and is waiting.
    pub fn poll(&mut self, cx: &mut Context<'_>, watch: &Watch) -> Poll<Alarm> {
        self.note(watch);
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let was_quiet = self.quiet;
            let (at, alarm) = self.next_bound(watch, now);
            if at <= now {
                self.arm(now + self.tick);
                if alarm == Alarm::Overdue {
                    watch.overdue.store(true, Ordering::Relaxed);
                    self.close_at = Some(now + self.bounds.close);
                }
                return Poll::Ready(alarm);
            }
            self.arm(if self.quiet { at } else { at.min(now + self.tick) });
            if self.quiet && !was_quiet {
                return Poll::Ready(Alarm::Rest);
            }
        }
        Poll::Pending
    }

    /// Takes the time of what has just begun, and wakes up a quiet connection's timer.
    fn note(&mut self, watch: &Watch) {
        let open = watch.open.load(Ordering::Relaxed);
        let stalled = watch.stalled.load(Ordering::Relaxed);
        let woke = self.quiet
            && (open != 0
                || self.idle.is_none_or(|idle| idle.number != watch.served.load(Ordering::Relaxed)));
        if open == self.open.number && stalled == self.stalled.number && !woke {
            return;
        }
        let now = Instant::now();
        if open != self.open.number {
            self.open = Since { number: open, at: now };
        }
        if stalled != self.stalled.number {
            self.stalled = Since { number: stalled, at: now };
        }
        if woke || open == LINGERING {
            self.quiet = false;
            self.arm(now + if open == LINGERING { LINGER_TIMEOUT } else { self.tick });
        }
    }

    /// Finds the nearest bound and what to do when it is reached.
    fn next_bound(&mut self, watch: &Watch, now: Instant) -> (Instant, Alarm) {
        let mut bounds = [None; 5];
        bounds[0] = self.close_at.map(|at| (at, Alarm::Close("it did not end")));
        if self.open.number != 0 {
            let limit = match self.open.number {
                LINGERING => LINGER_TIMEOUT,
                _ if watch.open_is_data.load(Ordering::Relaxed) => self.bounds.data,
                _ => self.bounds.head,
            };
            bounds[1] =
                Some((self.open.at + limit, Alarm::Close("a head or frame was not completed in time")));
        }
        if self.stalled.number != 0 {
            bounds[2] = Some((
                self.stalled.at + self.bounds.write,
                Alarm::Close("the peer does not read its answers"),
            ));
        }
        let answer_by = watch.answer_by.load(Ordering::Relaxed);
        if answer_by != 0 && !watch.http1_is_overdue() {
            bounds[3] = Some((watch.started + Duration::from_millis(answer_by), Alarm::Overdue));
        }
        let served = watch.served.load(Ordering::Relaxed);
        if watch.is_idle() && self.open.number == 0 {
            let known = self.idle.filter(|idle| idle.number == served);
            self.quiet = known.is_some();
            let idle = known.unwrap_or(Since { number: served, at: now });
            self.idle = Some(idle);
            bounds[4] = Some((idle.at + self.bounds.idle, Alarm::End));
        } else {
            self.quiet = false;
            self.idle = None;
        }
        let far = (now + self.bounds.idle, Alarm::End);
        bounds.into_iter().flatten().min_by_key(|&(at, _)| at).unwrap_or(far)
    }

    fn arm(&mut self, at: Instant) {
        self.timer.as_mut().reset(at.into());
    }
}
