//! Whether a backend is away.

use crate::sync::{AtomicU64, Ordering};

/// Whether a backend is known to be away, and in which of its outages.
#[derive(Default)]
pub struct Away {
    /// Counts each step between here and away, so it is odd while the backend is away.
    steps: AtomicU64,
}

/// One outage of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage(u64);

impl Away {
    /// Returns whether the backend is known to be away.
    pub fn is_away(&self) -> bool {
        is_odd(self.steps.load(Ordering::Relaxed))
    }

    /// Returns whether this outage goes on.
    pub fn goes_on(&self, outage: Outage) -> bool {
        self.steps.load(Ordering::Relaxed) == outage.0
    }

    /// Notes that the backend answered. Returns true to one caller if this ends an outage.
    pub fn note_here(&self) -> bool {
        self.step(true).is_some()
    }

    /// Notes that the backend did not answer. Returns the outage to one caller if it begins with this.
    pub fn note_away(&self) -> Option<Outage> {
        self.step(false).map(Outage)
    }

    fn step(&self, from_away: bool) -> Option<u64> {
        let steps = self.steps.load(Ordering::Relaxed);
        let next = (is_odd(steps) == from_away).then_some(steps + 1)?;
        self.steps.compare_exchange(steps, next, Ordering::Relaxed, Ordering::Relaxed).ok().map(|_| next)
    }
}

fn is_odd(steps: u64) -> bool {
    !steps.is_multiple_of(2)
}
