//! Limits the lines of the error log that strangers can cause, and counts those left out.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets the first lines in each interval pass, and counts the others.
pub struct LogLimit {
    per: Duration,
    burst: u32,
    state: Mutex<State>,
}

struct State {
    /// The beginning of the interval, which is its first line.
    began: Option<Instant>,
    /// The number of its lines that passed.
    passed: u32,
    /// The number of lines left out since the last line that passed.
    left_out: u64,
}

impl LogLimit {
    /// Creates a limit of `burst` lines in each interval of `per`.
    pub const fn new(per: Duration, burst: u32) -> Self {
        Self { per, burst, state: Mutex::new(State { began: None, passed: 0, left_out: 0 }) }
    }

    /// Asks to log one line. Returns how many were left out since the last line, or `None` if this one is left out too.
    pub fn allow(&self) -> Option<u64> {
        self.allow_at(Instant::now())
    }

    /// Takes the number of lines left out, if the interval is over and no line has reported it.
    ///
    /// At the end of the process it does not wait for the end of the interval.
    pub fn ended(&self, at_the_end: bool) -> Option<u64> {
        self.ended_at(Instant::now(), at_the_end)
    }

    fn ended_at(&self, now: Instant, at_the_end: bool) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = state.began.is_some_and(|began| now.saturating_duration_since(began) < self.per);
        let left_out = if goes_on && !at_the_end { 0 } else { std::mem::take(&mut state.left_out) };
        (left_out != 0).then_some(left_out)
    }

    fn allow_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = state.began.is_some_and(|began| now.saturating_duration_since(began) < self.per);
        if !goes_on {
            (state.began, state.passed) = (Some(now), 0);
        }
        if state.passed < self.burst {
            state.passed += 1;
            return Some(std::mem::take(&mut state.left_out));
        }
        state.left_out = state.left_out.saturating_add(1);
        None
    }
}

/// The number of lines left out before this one, as the end of its text.
pub struct LeftOut(pub u64);

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " ({count} more like it were not logged)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PER: Duration = Duration::from_secs(5);

    #[test]
    fn what_no_line_tells_is_told_when_the_stretch_is_over() {
        let (limit, start) = (LogLimit::new(PER, 1), Instant::now());
        let passed = [limit.allow_at(start), limit.allow_at(start), limit.allow_at(start)];
        assert_eq!(passed, [Some(0), None, None]);
        assert_eq!(limit.ended_at(start + PER / 2, false), None);
        assert_eq!(limit.ended_at(start + PER, false), Some(2));
        assert_eq!(limit.ended_at(start + PER, false), None);
        assert_eq!([limit.allow_at(start + PER), limit.allow_at(start + PER)], [Some(0), None]);
        assert_eq!(limit.ended_at(start + PER, true), Some(1));
    }

    #[test]
    fn so_many_lines_pass_in_a_stretch_and_the_next_stretch_tells_of_the_others() {
        let (limit, start) = (LogLimit::new(PER, 2), Instant::now());
        assert_eq!(limit.allow_at(start), Some(0));
        assert_eq!(limit.allow_at(start + PER / 2), Some(0));
        assert_eq!(limit.allow_at(start + PER / 2), None);
        assert_eq!(limit.allow_at(start + PER * 9 / 10), None);
        assert_eq!(limit.allow_at(start + PER), Some(2));
        assert_eq!(limit.allow_at(start + PER), Some(0));
        assert_eq!(limit.allow_at(start + PER), None);
    }

    #[test]
    fn a_stretch_begins_with_its_first_line() {
        let (limit, start) = (LogLimit::new(PER, 1), Instant::now());
        assert_eq!(limit.allow_at(start), Some(0));
        let later = start + 10 * PER + PER / 2;
        assert_eq!(limit.allow_at(later), Some(0));
        assert_eq!(limit.allow_at(later + PER * 9 / 10), None);
        assert_eq!(limit.allow_at(later + PER), Some(1));
    }

    #[test]
    fn a_clock_that_another_thread_read_earlier_begins_no_stretch() {
        let (limit, earlier) = (LogLimit::new(PER, 1), Instant::now());
        assert_eq!(limit.allow_at(earlier + PER), Some(0));
        assert_eq!(limit.allow_at(earlier), None);
    }
}
