//! How often and when last each version of a rotated key was used, by this process.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::kms::VersionUse;
use crate::name::KeyName;
use crate::primitives::Fingerprint;
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

/// The use of one version.
pub struct Use {
    /// When this process first read the version.
    first_read: Instant,
    opened: Counted,
    sealed: Counted,
}

impl Default for Use {
    fn default() -> Self {
        Self { first_read: Instant::now(), opened: Counted::default(), sealed: Counted::default() }
    }
}

/// A number, and when it last grew: milliseconds of Unix time, 0 for never.
#[derive(Default)]
struct Counted {
    number: AtomicU64,
    last: AtomicU64,
}

/// The uses of all versions of one key.
pub struct Uses {
    since: Timestamp,
    of: Mutex<BTreeMap<u32, Arc<Use>>>,
}

/// Uses by the name and the fingerprint of a key.
type ByKey = BTreeMap<(KeyName, [u8; 16]), Arc<Uses>>;

/// The uses of the keys that were rotated. They outlast the keys in memory, and are as many as there are versions.
pub struct AllUses {
    started: Timestamp,
    /// How long this process may use a key before it sees that there is a second version.
    delay: Duration,
    /// When it was last in doubt whether a key has versions that are not counted: milliseconds of Unix time.
    doubted: AtomicU64,
    of: Mutex<ByKey>,
}

impl Use {
    pub fn opened(&self) {
        self.opened.add();
    }

    pub fn sealed(&self) {
        self.sealed.add();
    }

    /// Returns how long this process has known the version.
    pub fn known_for(&self) -> Duration {
        self.first_read.elapsed()
    }
}

impl Counted {
    fn add(&self) {
        self.number.fetch_add(1, Ordering::Relaxed);
        let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
        if self.last.load(Ordering::Relaxed) != now {
            self.last.store(now, Ordering::Relaxed);
        }
    }

    fn last(&self) -> Option<Timestamp> {
        let millis = Some(self.last.load(Ordering::Relaxed)).filter(|millis| *millis > 0)?;
        Timestamp::from_millisecond(i64::try_from(millis).ok()?).ok()
    }
}

impl Uses {
    /// Returns the place where the use of a version is counted.
    pub fn of(&self, version: u32) -> Arc<Use> {
        Arc::clone(self.of.lock().unwrap_or_else(PoisonError::into_inner).entry(version).or_default())
    }

    /// Returns what was counted for a version.
    pub fn counted(&self, version: u32) -> VersionUse {
        let counted = self.of(version);
        VersionUse {
            since: self.since,
            opened: counted.opened.number.load(Ordering::Relaxed),
            last_opened: counted.opened.last(),
            sealed: counted.sealed.number.load(Ordering::Relaxed),
            last_sealed: counted.sealed.last(),
        }
    }
}

impl AllUses {
    pub fn new(delay: Duration) -> Self {
        Self { started: now_in_millis(), delay, doubted: AtomicU64::new(0), of: Mutex::default() }
    }

    /// Returns the uses of a key, whose second version was made at `second`.
    ///
    /// The use of a key of one version is not counted. Once there was time to see the second one, a key that was used is
    /// counted, so that what is not counted was not used.
    pub fn of(&self, name: &KeyName, first: &Fingerprint, second: Option<Timestamp>) -> Arc<Uses> {
        let mut all = self.lock();
        let uses = all.entry((name.clone(), *first.as_bytes()));
        Arc::clone(uses.or_insert_with(|| {
            let now = now_in_millis();
            let seen = second.and_then(|time| time.checked_add(self.delay).ok()).unwrap_or(now);
            let doubted = i64::try_from(self.doubted.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
            let doubted = Timestamp::from_millisecond(doubted).unwrap_or(now);
            // What was in memory then was used without being counted until it was read again.
            let doubted =
                if doubted > self.started { doubted.checked_add(self.delay).unwrap_or(now) } else { doubted };
            Arc::new(Uses { since: self.started.max(seen.min(now)).max(doubted), of: Mutex::default() })
        }))
    }

    /// Notes that a key may have versions that the store does not show now, so that their use is not counted.
    pub fn doubt(&self) {
        let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
        self.doubted.store(now, Ordering::Relaxed);
    }

    /// Returns whether a later version of the key was seen.
    pub fn know(&self, name: &KeyName, first: &Fingerprint) -> bool {
        self.lock().contains_key(&(name.clone(), *first.as_bytes()))
    }

    fn lock(&self) -> MutexGuard<'_, ByKey> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a key that was deleted.
    pub fn forget(&self, name: &KeyName, first: &Fingerprint) {
        self.lock().remove(&(name.clone(), *first.as_bytes()));
    }

    /// Returns what was counted for all versions of all keys.
    pub fn all(&self) -> Vec<(KeyName, u32, VersionUse)> {
        let all: Vec<_> = {
            let all = self.lock();
            all.iter().map(|((name, _), uses)| (name.clone(), Arc::clone(uses))).collect()
        };
        let mut counted = Vec::new();
        for (name, uses) in all {
            let versions: Vec<u32> =
                uses.of.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
            counted
                .extend(versions.into_iter().map(|version| (name.clone(), version, uses.counted(version))));
        }
        counted
    }
}

/// Returns the time without what is less than a millisecond, as it is counted.
fn now_in_millis() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}
