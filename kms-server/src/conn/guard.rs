//! Enforces the time limits of one connection: compares the notes of its [`Watch`] with the clock.

use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::timer::Timer;
use super::watch::{LINGERING, Watch};

/// The time limits of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// For a handshake, and for each head or HTTP/2 frame from its first byte to its last.
    pub head: Duration,
    /// For one HTTP/2 frame with a part of a body.
    pub data: Duration,
    /// For the peer to read what was sent to it.
    pub write: Duration,
    /// For a connection without a request.
    pub idle: Duration,
    /// For a connection to end after it was told to.
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

/// How long a peer's remaining data is read and discarded after the last answer, so that the answer is not lost.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// What the task of a connection has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// Drop the connection at once, for this reason.
    Close(&'static str),
    /// Accept no further request, because the connection was idle for too long.
    End,
    /// Free unused memory, because the connection has become quiet.
    Rest,
    /// Poll the connection once more, because the timeout of its request is over.
    Overdue,
}

/// The longest time between two checks of a busy connection.
const TICK: Duration = Duration::from_millis(200);

/// Compares the notes of a [`Watch`] with the clock, on one timer.
///
/// A busy connection never sets its timer. The timer fires once in a tick, and only then the next limit is computed. For
/// a connection that was quiet for a tick, the timer is set to the limit itself. The next request sets it to a tick.
pub struct Guard {
    bounds: Bounds,
    timer: Timer,
    tick: Duration,
    quiet: bool,
    open: Since,
    stalled: Since,
    idle: Option<Since>,
    close_at: Option<Instant>,
    ticked: bool,
}

/// The number of an event, and when it began.
#[derive(Clone, Copy)]
struct Since {
    number: u32,
    at: Instant,
}

impl Guard {
    /// Creates the guard of a connection whose requests have a timeout of at least `shortest_timeout`.
    pub fn new(watch: &Watch, bounds: Bounds, shortest_timeout: Duration) -> Self {
        let tick =
            [bounds.head, bounds.data, bounds.write, shortest_timeout].into_iter().fold(TICK, Duration::min);
        Self {
            bounds,
            timer: Timer::new((watch.started + tick).into()),
            tick,
            quiet: false,
            open: Since { number: watch.open.load(Ordering::Relaxed), at: watch.started },
            stalled: Since { number: 0, at: watch.started },
            idle: None,
            close_at: None,
            ticked: false,
        }
    }

    /// Notes that the connection was told to end. The guard drops it if it does not.
    pub fn ending(&mut self) {
        if self.close_at.is_none() {
            let at = Instant::now() + self.bounds.close;
            self.close_at = Some(at);
            self.arm(at);
        }
    }

    /// Returns whether a tick has passed since the last call.
    pub fn has_ticked(&mut self) -> bool {
        std::mem::take(&mut self.ticked)
    }

    /// Checks the notes, after the connection was polled and is waiting.
    pub fn poll(&mut self, cx: &mut Context<'_>, watch: &Watch) -> Poll<Alarm> {
        self.note(watch);
        while self.timer.poll(cx).is_ready() {
            self.ticked = true;
            let now = Instant::now();
            let was_quiet = self.quiet;
            let (at, alarm) = self.next_bound(watch, now);
            if at <= now {
                self.arm(now + self.tick);
                if alarm == Alarm::Overdue {
                    if !watch.http1_becomes_overdue() {
                        // Its answer was made in this moment, elsewhere.
                        continue;
                    }
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

    /// Notes when an event began, and sets the timer of a quiet connection nearer.
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

    /// Returns the nearest limit, and what to do when it is reached.
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
            // Once it was told to end, only its end is awaited.
            bounds[4] = self.close_at.is_none().then_some((idle.at + self.bounds.idle, Alarm::End));
        } else {
            self.quiet = false;
            self.idle = None;
        }
        let far = (now + self.bounds.idle, Alarm::End);
        bounds.into_iter().flatten().min_by_key(|&(at, _)| at).unwrap_or(far)
    }

    fn arm(&mut self, at: Instant) {
        self.timer.set(at.into());
    }
}
