//! Lines for an output that may be slow, stopped or gone: whoever logs never waits for it.
//!
//! A thread of its own writes. What waits has a bound in bytes; what does not fit is left out, and the log itself tells
//! how many lines these were. (`tracing-appender` bounds the number of lines, not their bytes, and tells nothing.)

use std::io::Write;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// The most bytes that wait.
const MAX_WAITING: usize = 8 << 20;

/// The most bytes of one write, so that what was taken makes room.
const MAX_WRITE: usize = 64 << 10;

/// Lines on their way to an output.
#[derive(Debug, Default)]
pub struct Sink {
    state: Mutex<State>,
    wake: Condvar,
    rested: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    /// Bytes that the thread has taken and not written.
    in_hand: usize,
    /// Lines that had no room since the log last told.
    left_out: u64,
}

impl State {
    fn has_room(&self, len: usize) -> bool {
        self.lines.len() + self.in_hand + len <= MAX_WAITING
    }

    /// Tells of lines that were left out, where they would have been.
    fn tell_left_out(&mut self) {
        let count = std::mem::take(&mut self.left_out);
        if count != 0 {
            let now = Timestamp::now();
            let lines = if count == 1 { "line was" } else { "lines were" };
            let why = "this log's output did not take them";
            let _ = writeln!(self.lines, "{now}  WARN {count} {lines} left out: {why}");
        }
    }
}

impl Sink {
    /// Makes one where nothing waits.
    pub const fn new() -> Self {
        let state = State { lines: Vec::new(), in_hand: 0, left_out: 0 };
        Self { state: Mutex::new(state), wake: Condvar::new(), rested: Condvar::new() }
    }

    /// Has a line written, or left out where too much waits. Never waits.
    pub fn push(&self, line: &str) {
        let mut state = self.state();
        if !state.has_room(line.len()) {
            state.left_out += 1;
            return;
        }
        state.tell_left_out();
        state.lines.extend_from_slice(line.as_bytes());
        drop(state);
        self.wake.notify_one();
    }

    /// Writes to `out` what comes, and calls `tick` from time to time, for ever.
    pub fn run(&self, mut out: impl Write, every: Duration, tick: impl Fn()) -> ! {
        let mut next = Instant::now() + every;
        loop {
            self.write_next(&mut out, next);
            if Instant::now() >= next {
                tick();
                next = Instant::now() + every;
            }
        }
    }

    /// Writes what waits, or what comes until `until`.
    fn write_next(&self, out: &mut impl Write, until: Instant) {
        let mut state = self.state();
        while state.lines.is_empty() && state.left_out == 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.tell_left_out();
        let lines = std::mem::take(&mut state.lines);
        state.in_hand = lines.len();
        drop(state);
        let mut left = lines.as_slice();
        let mut lost = 0;
        while !left.is_empty() {
            let (chunk, rest) = left.split_at(left.len().min(MAX_WRITE));
            if out.write_all(chunk).and_then(|()| out.flush()).is_err() {
                lost = left.split_inclusive(|&byte| byte == b'\n').count();
                break;
            }
            left = rest;
            self.state().in_hand = left.len();
        }
        let mut state = self.state();
        state.in_hand = 0;
        state.left_out += u64::try_from(lost).unwrap_or(u64::MAX);
        if lost != 0 {
            // An output that fails at once would have this loop turn without a rest.
            drop(self.wake.wait_timeout(state, RETRY).unwrap_or_else(PoisonError::into_inner));
        }
        self.rested.notify_all();
    }

    /// Waits until all is written, for as long as `patience`; false if something is left.
    pub fn drain(&self, patience: Duration) -> bool {
        let is_busy = |state: &mut State| !state.lines.is_empty() || state.in_hand != 0;
        let waited = self.rested.wait_timeout_while(self.state(), patience, is_busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long to wait before an output that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, mpsc};

    use super::*;

    /// An output that takes a write when it is told to, and fails when it is told so.
    struct Gated {
        takes: mpsc::Receiver<bool>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.takes.recv().unwrap_or(true) {
                self.written.lock().unwrap().extend_from_slice(bytes);
                return Ok(bytes.len());
            }
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn started() -> (&'static Sink, mpsc::Sender<bool>, Arc<Mutex<Vec<u8>>>) {
        let sink: &'static Sink = Box::leak(Box::default());
        let (tell, takes) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let out = Gated { takes, written: Arc::clone(&written) };
        std::thread::spawn(move || sink.run(out, Duration::from_secs(3600), || {}));
        (sink, tell, written)
    }

    #[test]
    fn an_output_that_takes_nothing_holds_up_nobody_and_learns_what_it_missed() {
        let (sink, tell, output) = started();
        let line = "x".repeat(1023) + "\n";
        let count = 3 * MAX_WAITING / line.len();
        for _ in 0..count {
            sink.push(&line);
        }
        assert!(!sink.drain(Duration::from_millis(50)), "nothing was taken");
        drop(tell);
        assert!(sink.drain(Duration::from_secs(30)));
        sink.push("the end\n");
        assert!(sink.drain(Duration::from_secs(30)));
        let text = String::from_utf8(output.lock().unwrap().clone()).unwrap();
        assert!(text.len() <= MAX_WAITING + 200, "{} bytes waited", text.len());
        let whole = text.lines().filter(|line| line.starts_with('x')).count();
        let note = text.lines().find(|line| line.contains("left out")).unwrap();
        let left_out = format!("WARN {} lines were left out", count - whole);
        assert!(note.contains(&left_out), "'{left_out}' is not in '{note}'");
        assert!(text.ends_with("the end\n"));
    }

    #[test]
    fn lines_that_an_output_refuses_are_counted() {
        let (sink, tell, output) = started();
        sink.push("lost\n");
        tell.send(false).unwrap();
        drop(tell);
        assert!(sink.drain(Duration::from_secs(30)));
        sink.push("kept\n");
        assert!(sink.drain(Duration::from_secs(30)));
        let text = String::from_utf8(output.lock().unwrap().clone()).unwrap();
        assert!(text.contains("WARN 1 line was left out") && text.ends_with("kept\n"), "{text}");
    }
}
