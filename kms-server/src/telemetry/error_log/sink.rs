//! Lines for an output that may be slow, stopped or gone. Whoever logs never waits for it.
//!
//! A thread of its own writes. The waiting lines are bounded in bytes. Further lines are left out, and the log reports
//! their number. (`tracing-appender` bounds the number of lines, not their bytes, and reports nothing.)

use std::io::Write;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::telemetry::lines::{self, Progress};

/// The most bytes that wait.
const MAX_WAITING: usize = 8 << 20;

/// The most waiting bytes of lines about clients.
const MAX_OF_CLIENTS: usize = 6 << 20;

/// The most bytes of one write. Each write makes room for further lines.
const MAX_WRITE: usize = 64 << 10;

/// The waiting lines of an output.
#[derive(Debug, Default)]
pub struct Sink {
    state: Mutex<State>,
    wake: Condvar,
    rested: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    /// The bytes that the thread has taken and not written.
    in_hand: usize,
    /// The number of lines without room, or not taken by the output, since the last report.
    left_out: u64,
}

impl Sink {
    /// Creates a sink without lines.
    pub const fn new() -> Self {
        let state = State { lines: Vec::new(), in_hand: 0, left_out: 0 };
        Self { state: Mutex::new(state), wake: Condvar::new(), rested: Condvar::new() }
    }

    /// Queues a line, or leaves it out if too much waits. Never blocks.
    ///
    /// Clients may cause any number of lines, so lines that are `of_client` may not use all of the room.
    pub fn push(&self, line: &str, of_client: bool) {
        let most = if of_client { MAX_OF_CLIENTS } else { MAX_WAITING };
        let mut state = self.state();
        if state.lines.len() + state.in_hand + line.len() > most {
            state.left_out += 1;
            return;
        }
        state.lines.extend_from_slice(line.as_bytes());
        drop(state);
        self.wake.notify_one();
    }

    /// Writes lines to `out` as they come, forever. Calls `tick` each time that `every` has passed.
    ///
    /// `note` makes the line about lines that are left out.
    pub fn run(&self, mut out: impl Write, every: Duration, note: Note, tick: impl Fn()) -> ! {
        let mut next = Instant::now() + every;
        let mut owes_line_end = false;
        loop {
            self.write_next(&mut out, &mut owes_line_end, next, note);
            if Instant::now() >= next {
                tick();
                next = Instant::now() + every;
            }
        }
    }

    /// Writes the waiting lines, or those that come before `until`.
    fn write_next(&self, out: &mut impl Write, owes_line_end: &mut bool, until: Instant, note: Note) {
        let mut state = self.state();
        while state.lines.is_empty() && state.left_out == 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let left_out = std::mem::take(&mut state.left_out);
        let taken = std::mem::take(&mut state.lines);
        state.in_hand = taken.len();
        drop(state);
        let mut rest = taken.as_slice();
        if *owes_line_end {
            *owes_line_end = out.write_all(b"\n").is_err();
        }
        while !*owes_line_end && !rest.is_empty() {
            let (some, others) = lines::split(rest, MAX_WRITE);
            let Progress { written, whole, error } = lines::write(out, some);
            if error.is_some() {
                *owes_line_end = written != whole;
                rest = rest.get(whole..).unwrap_or_default();
                break;
            }
            rest = others;
            self.state().in_hand = rest.len();
        }
        // The left-out lines are reported after all others, and again until the report was written.
        let mut left_out = left_out.saturating_add(lines::count(rest));
        let mut failed = !rest.is_empty() || *owes_line_end;
        if left_out != 0 && !failed {
            let note = note(left_out);
            let Progress { written, error, .. } = lines::write(out, note.as_bytes());
            failed = error.is_some();
            *owes_line_end = failed && written != 0;
            left_out = if failed { left_out } else { 0 };
        }
        let mut state = self.state();
        state.in_hand = 0;
        state.left_out = state.left_out.saturating_add(left_out);
        self.rested.notify_all();
        if failed {
            // Without this pause, an output that fails at once would make the loop spin.
            drop(self.wake.wait_timeout(state, RETRY).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Waits until everything is written, for at most `patience`. Returns false if something is left.
    pub fn drain(&self, patience: Duration) -> bool {
        let is_busy = |state: &mut State| !state.lines.is_empty() || state.in_hand != 0;
        let waited = self.rested.wait_timeout_while(self.state(), patience, is_busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the line about this number of lines that are left out, with its line end.
pub type Note = fn(u64) -> String;

/// Returns the report of left-out lines.
pub fn left_out(count: u64) -> String {
    let lines = if count == 1 { "line was" } else { "lines were" };
    format!("{count} {lines} left out: this log's output did not take them")
}

/// The pause before a failed output is tried again.
const RETRY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, mpsc};

    use super::*;

    /// An output that takes or fails each write as the test tells it.
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

    fn note(count: u64) -> String {
        format!("WARN {}\n", left_out(count))
    }

    fn started() -> (&'static Sink, mpsc::Sender<bool>, Arc<Mutex<Vec<u8>>>) {
        let sink: &'static Sink = Box::leak(Box::default());
        let (tell, takes) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let out = Gated { takes, written: Arc::clone(&written) };
        std::thread::spawn(move || sink.run(out, Duration::from_secs(3600), note, || {}));
        (sink, tell, written)
    }

    #[test]
    fn an_output_that_takes_nothing_holds_up_nobody_and_learns_what_it_missed() {
        let (sink, tell, output) = started();
        let line = "x".repeat(1023) + "\n";
        let count = 3 * MAX_WAITING / line.len();
        for _ in 0..count {
            sink.push(&line, false);
        }
        assert!(!sink.drain(Duration::from_millis(50)), "nothing was taken");
        drop(tell);
        assert!(sink.drain(Duration::from_secs(30)));
        sink.push("the end\n", false);
        assert!(sink.drain(Duration::from_secs(30)));
        let text = String::from_utf8(output.lock().unwrap().clone()).unwrap();
        // The thread may have taken lines, and the number of those left out, at any moment until it was stopped.
        let (notes, kept): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.contains(" left out: "));
        let bytes: usize = kept.iter().map(|line| line.len() + 1).sum();
        assert!(bytes <= MAX_WAITING + "the end\n".len(), "{bytes} bytes waited");
        let numbers =
            notes.iter().flat_map(|note| note.split(' ')).filter_map(|word| word.parse::<usize>().ok());
        let whole = kept.iter().filter(|line| line.starts_with('x')).count();
        assert_eq!(numbers.sum::<usize>(), count - whole, "{notes:?}");
        assert!(text.ends_with("the end\n"));
    }

    #[test]
    fn lines_that_an_output_refuses_are_counted_until_that_could_be_told() {
        let (sink, tell, output) = started();
        (0..5).for_each(|_| sink.push("lost\n", false));
        // The lines, and then their report twice.
        (0..3).for_each(|_| tell.send(false).unwrap());
        drop(tell);
        let patience = Instant::now() + Duration::from_secs(30);
        while output.lock().unwrap().is_empty() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(20));
        }
        sink.push("kept\n", false);
        assert!(sink.drain(Duration::from_secs(30)));
        let text = String::from_utf8(output.lock().unwrap().clone()).unwrap();
        assert!(text.contains("WARN 5 lines were left out") && text.ends_with("kept\n"), "{text}");
    }

    #[test]
    fn clients_leave_room_for_other_lines() {
        let sink = Sink::new();
        let line = "x".repeat(1023) + "\n";
        (0..2 * MAX_WAITING / line.len()).for_each(|_| sink.push(&line, true));
        assert!(sink.state().lines.len() <= MAX_OF_CLIENTS);
        let before = sink.state().left_out;
        sink.push("the key store is away\n", false);
        assert_eq!(sink.state().left_out, before);
    }

    /// The output takes a part of a line before it fails.
    #[test]
    fn half_of_a_line_is_ended_before_the_next() {
        let sink = Sink::new();
        let (mut room, mut owes) = ([0; 8], false);
        sink.push("first\n", false);
        sink.push("second\n", false);
        sink.write_next(&mut room.as_mut_slice(), &mut owes, Instant::now(), note);
        assert_eq!((&room, owes, sink.state().left_out), (b"first\nse", true, 1));
        let mut more = Vec::new();
        sink.push("third\n", false);
        sink.write_next(&mut more, &mut owes, Instant::now(), note);
        let text = String::from_utf8(more).unwrap();
        assert!(text.starts_with("\nthird\n") && text.contains("1 line was left out"), "{text}");
    }
}
