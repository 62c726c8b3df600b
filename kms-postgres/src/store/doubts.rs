//! Names of whose last write nobody knows whether it is kept.
//!
//! A row can be visible that a failover would lose: its wait for a standby was cut off. So a plain read proves nothing of
//! such a name. It is read by a transaction that writes, and which commits behind the row.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kms_core::store::EntryName;

/// How long an absence says nothing of a create: its INSERT may still wait for a standby.
pub const PENDING: Duration = Duration::from_secs(60);
/// The most names. Each took a transaction that ended badly, and those are few.
const MOST: usize = 10_000;

/// Why a name is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// A create of ours may be kept, or may still be.
    Created {
        /// Since when.
        since: Instant,
    },
    /// A deletion of ours may be kept.
    Deleted,
}

/// The names in doubt.
#[derive(Default)]
pub struct Doubts(Mutex<HashMap<EntryName, Vec<Doubt>>>);

impl Doubts {
    /// Returns the doubt about a name. A create weighs more than a deletion.
    pub fn about(&self, name: &EntryName) -> Option<Doubt> {
        let names = self.lock();
        let doubts = names.get(name)?;
        let created = doubts.iter().rev().find(|doubt| matches!(doubt, Doubt::Created { .. }));
        created.or(doubts.last()).copied()
    }

    /// Notes that everything about a name is known again.
    pub fn settle(&self, name: &EntryName) {
        self.lock().remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EntryName, Vec<Doubt>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(names: &mut HashMap<EntryName, Vec<Doubt>>, name: &EntryName, doubt: Doubt) {
        if names.len() >= MOST
            && !names.contains_key(name)
            && let Some(any) = names.keys().next().cloned()
        {
            names.remove(&any);
        }
        names.entry(name.clone()).or_default().push(doubt);
    }
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is kept.
    Kept,
    /// It did not happen.
    Undone,
    /// Nobody knows.
    Unknown,
}

/// A write under way. The task that makes it and the caller who waits for it share it.
pub struct Flight {
    doubts: Arc<Doubts>,
    name: EntryName,
    doubt: Doubt,
    state: Mutex<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    UnderWay,
    /// The caller left, so the name is in doubt.
    Left,
    Over,
}

impl Flight {
    /// Begins a write of `name`.
    pub fn begin(doubts: &Arc<Doubts>, name: &EntryName, doubt: Doubt) -> Arc<Self> {
        let (doubts, name) = (Arc::clone(doubts), name.clone());
        Arc::new(Self { doubts, name, doubt, state: Mutex::new(State::UnderWay) })
    }

    /// Returns what notes that the caller left, unless the write is over by then.
    pub fn waiting(self: &Arc<Self>) -> Waiting {
        Waiting(Arc::clone(self))
    }

    /// Notes how the write ended.
    pub fn end(&self, end: End) {
        let mut names = self.doubts.lock();
        let before = std::mem::replace(&mut *self.state(), State::Over);
        match end {
            End::Kept => drop(names.remove(&self.name)),
            End::Unknown if before == State::UnderWay => Doubts::add(&mut names, &self.name, self.doubt),
            // Another write of the same name may be in doubt, and stays so.
            End::Undone if before == State::Left => {
                if let Some(doubts) = names.get_mut(&self.name) {
                    if let Some(index) = doubts.iter().position(|doubt| *doubt == self.doubt) {
                        doubts.remove(index);
                    }
                    if doubts.is_empty() {
                        names.remove(&self.name);
                    }
                }
            }
            End::Unknown | End::Undone => {}
        }
    }

    fn leave(&self) {
        let mut names = self.doubts.lock();
        let mut state = self.state();
        if *state == State::UnderWay {
            *state = State::Left;
            Doubts::add(&mut names, &self.name, self.doubt);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The caller of a write, while it waits.
pub struct Waiting(Arc<Flight>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use kms_core::KeyName;

    use super::*;

    fn fixture() -> (Arc<Doubts>, EntryName, Doubt) {
        let name = EntryName::from(&KeyName::new("key").unwrap());
        (Arc::default(), name, Doubt::Created { since: Instant::now() })
    }

    #[test]
    fn a_caller_who_leaves_leaves_a_doubt_until_the_write_is_over() {
        for end in [End::Kept, End::Undone] {
            let (doubts, name, doubt) = fixture();
            let flight = Flight::begin(&doubts, &name, doubt);
            let waiting = flight.waiting();
            assert_eq!(doubts.about(&name), None);
            drop(waiting);
            assert_eq!(doubts.about(&name), Some(doubt));
            flight.end(end);
            assert_eq!(doubts.about(&name), None, "{end:?}");
        }
    }

    #[test]
    fn a_known_end_before_the_caller_leaves_leaves_no_doubt() {
        for (end, left) in [(End::Kept, false), (End::Undone, false), (End::Unknown, true)] {
            let (doubts, name, doubt) = fixture();
            let flight = Flight::begin(&doubts, &name, doubt);
            let waiting = flight.waiting();
            flight.end(end);
            drop(waiting);
            assert_eq!(doubts.about(&name).is_some(), left, "{end:?}");
        }
    }

    #[test]
    fn a_lost_race_does_not_settle_the_doubt_of_the_winner() {
        let (doubts, name, doubt) = fixture();
        Flight::begin(&doubts, &name, doubt).end(End::Unknown);
        Flight::begin(&doubts, &name, Doubt::Created { since: Instant::now() }).end(End::Undone);
        assert_eq!(doubts.about(&name), Some(doubt));
        Flight::begin(&doubts, &name, doubt).end(End::Kept);
        assert_eq!(doubts.about(&name), None);
    }
}
