//! When each root last opened the store key, as this process saw it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::Timestamp;

use super::id::RootId;
use super::root::Root;

/// Is told which roots opened, and when.
type Tell = dyn Fn(&BTreeMap<RootId, Timestamp>) + Send + Sync;

/// The roots that open now, and when each last did.
pub(super) struct Openings {
    seen: Mutex<Seen>,
    tell: OnceLock<Box<Tell>>,
}

#[derive(Default)]
struct Seen {
    /// The roots that opened at the last look; `None` before the first one that could ask them.
    now: Option<BTreeSet<RootId>>,
    last: BTreeMap<RootId, Timestamp>,
}

impl Openings {
    /// Begins with the roots that hold the store key. They opened it when the store was opened, and are not asked again.
    pub fn of(roots: &[Root]) -> Self {
        let held = roots.iter().filter(|root| root.held().is_some());
        let last = held.map(|root| (root.id().clone(), Timestamp::now())).collect();
        Self { seen: Mutex::new(Seen { now: None, last }), tell: OnceLock::new() }
    }

    /// Takes in which of `roots` open the store key in force at this moment, and logs what changed since the last look.
    pub fn note(&self, roots: &[Root], opened: &[RootId]) {
        let now: BTreeSet<RootId> = opened.iter().cloned().collect();
        let at = Timestamp::now();
        let told = {
            let mut seen = self.seen();
            if let Some(before) = &seen.now {
                for id in before.difference(&now) {
                    let last = seen.last.get(id).map(|at| format!(", it last did at {at:.0}"));
                    tracing::warn!("root '{id}' does not open any more{}", last.unwrap_or_default());
                }
                for id in now.difference(before) {
                    let again = if seen.last.contains_key(id) { "again" } else { "now" };
                    tracing::info!("root '{id}' opens {again}");
                }
            }
            let asked = roots.iter().filter(|root| root.held().is_none() && now.contains(root.id()));
            let asked: Vec<_> = asked.map(|root| (root.id().clone(), at)).collect();
            seen.last.extend(asked);
            seen.now = Some(now);
            seen.last.clone()
        };
        if let Some(tell) = self.tell.get() {
            tell(&told);
        }
    }

    /// Has `tell` told of what is known now, and of each later look.
    pub fn tell(&self, tell: impl Fn(&BTreeMap<RootId, Timestamp>) + Send + Sync + 'static) {
        let known = self.seen().last.clone();
        tell(&known);
        // One listener is all that a server has.
        let _ = self.tell.set(Box::new(tell));
    }

    /// Returns when a root last opened.
    pub fn last(&self, id: &RootId) -> Option<Timestamp> {
        self.seen().last.get(id).copied()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
