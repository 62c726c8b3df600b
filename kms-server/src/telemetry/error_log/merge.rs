//! Merges equal lines: the first is logged, and the others are counted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tracing::Level;

use super::parts::Parts;

/// The interval in which equal lines are merged.
const WINDOW: Duration = Duration::from_secs(10);

/// The most lines that are remembered. Beyond it all lines are logged.
const MAX_KNOWN: usize = 256;

/// The lines of the last seconds.
#[derive(Debug, Default)]
pub struct Merge {
    known: HashMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    line: Line,
    since: Instant,
    last: Instant,
    more: u64,
}

/// A line that may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub level: Level,
    pub text: String,
    /// The same for JSON, if JSON was wanted when the line came.
    pub parts: Option<Parts>,
    /// Whether it is about a client, which may cause many lines.
    pub of_client: bool,
}

/// A repeated line.
#[derive(Debug, PartialEq, Eq)]
pub struct Repeated {
    pub line: Line,
    /// The number of repetitions.
    pub more: u64,
    /// The seconds in which they came.
    pub seconds: u64,
}

impl Merge {
    /// Returns whether a line is to be logged, because no line with the same `key` came in the last seconds.
    pub fn is_new(&mut self, key: &str, line: impl FnOnce() -> Line, now: Instant) -> bool {
        if let Some(known) = self.known.get_mut(key) {
            known.more += 1;
            known.last = now;
            return false;
        }
        if self.known.len() < MAX_KNOWN {
            self.known.insert(key.to_owned(), Known { line: line(), since: now, last: now, more: 0 });
        }
        true
    }

    /// Takes the repeated lines that are due.
    pub fn due(&mut self, now: Instant) -> Vec<Repeated> {
        let mut due = Vec::new();
        self.known.retain(|_, known| {
            let passed = now.saturating_duration_since(known.since);
            if passed < WINDOW {
                return true;
            }
            let more = std::mem::take(&mut known.more);
            if more == 0 {
                return false;
            }
            let told = Repeated { line: known.line.clone(), more, seconds: passed.as_secs() };
            due.push((known.last, told));
            known.since = now;
            true
        });
        in_order(due)
    }

    /// Takes all repeated lines, for the last time.
    pub fn end(&mut self, now: Instant) -> Vec<Repeated> {
        let repeated = self.known.drain().filter(|(_, known)| known.more != 0);
        let told = repeated.map(|(_, Known { line, since, last, more })| {
            (last, Repeated { line, more, seconds: now.saturating_duration_since(since).as_secs() })
        });
        in_order(told.collect())
    }
}

/// Sorts by the time of the last repetition.
fn in_order(mut told: Vec<(Instant, Repeated)>) -> Vec<Repeated> {
    told.sort_by_key(|(last, _)| *last);
    told.into_iter().map(|(_, repeated)| repeated).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line { level: Level::WARN, text: text.to_owned(), parts: None, of_client: true }
    }

    #[test]
    fn equal_lines_are_told_once_and_then_by_their_number() {
        let mut merge = Merge::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut is_new = |key: &str, seconds| merge.is_new(key, || line(key), at(seconds));
        assert!(is_new("a", 0) && is_new("b", 1));
        assert!((0..300).all(|_| !is_new("a", 2)));
        assert_eq!(merge.due(at(9)), []);
        let told = |more, seconds| Repeated { line: line("a"), more, seconds };
        assert_eq!(merge.due(at(10)), [told(300, 10)]);
        assert!(!merge.is_new("a", || unreachable!(), at(11)), "it goes on");
        assert_eq!(merge.due(at(20)), [told(1, 10)]);
        assert_eq!(merge.due(at(30)), []);
        assert!(merge.is_new("a", || line("a"), at(31)), "it is news again");
        assert!(!merge.is_new("a", || unreachable!(), at(32)));
        assert_eq!(merge.end(at(33)), [told(1, 2)]);
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let mut merge = Merge::default();
        let now = Instant::now();
        for number in 0..10_000 {
            assert!(merge.is_new(&number.to_string(), || line("x"), now));
        }
        assert_eq!(merge.known.len(), MAX_KNOWN);
    }
}
