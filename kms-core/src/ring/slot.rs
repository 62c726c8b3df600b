//! The place of one key in the cache, and the rules for reads of it.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::config::CacheConfig;
use super::key::CachedKey;
use super::policy::refresh_age;
use super::versions::Versions;
use crate::error::{ErrorKind, Result};
use crate::primitives::Fingerprint;
use crate::single_flight::{Flight, Held, Outcome, SingleFlight, Turn, Waiting};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering};

/// The most reads of one key a second whose only reason is a ciphertext that did not open.
const REREADS_PER_SECOND: usize = 10;

const WINDOW: Duration = Duration::from_secs(1);

/// A key as it was read, or as it was created here and read back.
pub type HeldKey = Arc<Held<CachedKey>>;

/// The place of one key. A request finds the key without a lock; reads of the store are arranged under one.
///
/// The key is taken out of the slot itself when it ends. So it is wiped at once, although the map may free the slot
/// much later.
#[derive(Default)]
pub struct Slot {
    key: SingleFlight<CachedKey>,
    /// Milliseconds on the cache's clock at which the key was last asked for.
    used: AtomicU64,
    /// The second on the cache's clock, counted from one, at which something was sealed or opened last. Zero if nothing was.
    last_use: AtomicU32,
    /// The key is out of use, and kept only as the offline copy.
    parked: AtomicBool,
    /// Held around each change of `key`, so that the two agree.
    rules: Mutex<Rules>,
}

#[derive(Default)]
struct Rules {
    /// When the last rereads began, if there were any lately.
    #[expect(clippy::box_collection, reason = "an empty slot is smaller by three words")]
    rereads: Option<Box<VecDeque<Instant>>>,
    /// The last answer was a refusal, so the key ends at `any` and is no offline copy.
    refused: bool,
    /// The name has no place, or another one. No read begins here any more.
    is_out: bool,
}

/// Why no read begins.
pub enum Refused {
    /// There were too many. The request may ask again then.
    Until(Instant),
    /// The slot is out of use. The request may ask the place that the name has by now.
    Elsewhere,
}

/// What became of a read that is not outdated.
pub struct Finished {
    pub outcome: Outcome<CachedKey>,
    /// The fingerprint of the key that was dropped, because the store now holds another key, none, or a disabled one.
    pub dropped: Option<Fingerprint>,
}

/// What the sweep has to do about a slot.
pub enum Due {
    Nothing,
    /// The key is in use and near its end.
    Refresh,
    /// The key is out of use, and goes once it was read again: the store may have lost it.
    Look,
    /// There is no key. If there is a fingerprint, that key was dropped just now since its time is over.
    Gone(Option<Fingerprint>),
}

impl Slot {
    pub fn key(&self) -> Option<HeldKey> {
        self.key.get()
    }

    /// Returns the later versions that are known of the key whose first version is `first`.
    pub fn versions_of(&self, first: &CachedKey) -> Option<Arc<Versions>> {
        let key = self.key().filter(|key| key.fingerprint() == first.fingerprint())?;
        key.versions.clone()
    }

    /// Returns the key while its time lasts.
    pub fn fresh(&self, now: Instant, config: &CacheConfig) -> Option<HeldKey> {
        self.key().filter(|key| self.is_fresh(key, now, config))
    }

    /// Returns the key after its time, if it may be served while the backend is away.
    pub fn offline_copy(&self, now: Instant, config: &CacheConfig) -> Option<HeldKey> {
        let key = self.key().filter(|key| key.age(now) < config.offline)?;
        (!self.rules().refused).then_some(key)
    }

    /// Notes a use.
    pub fn touch(&self, millis: u64) {
        if self.used.load(Ordering::Relaxed) != millis {
            self.used.store(millis, Ordering::Relaxed);
        }
    }

    /// Notes that something is sealed or opened.
    pub fn note_use(&self, second: u32) {
        let second = second.saturating_add(1);
        if self.last_use.load(Ordering::Relaxed) != second {
            self.last_use.store(second, Ordering::Relaxed);
        }
    }

    /// Returns the second at which something was sealed or opened last.
    pub fn last_use(&self) -> Option<u32> {
        self.last_use.load(Ordering::Relaxed).checked_sub(1)
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns the read that is under way.
    pub fn under_way(&self) -> Option<Waiting<CachedKey>> {
        self.key.under_way()
    }

    /// Begins a read, unless there is something else to do. `after` asks for a read that begins no earlier; the number
    /// of these is limited.
    pub fn start(&self, after: Option<Instant>, config: &CacheConfig) -> Turn<CachedKey, Refused> {
        let (mut rules, now) = (self.rules(), Instant::now());
        let serves = |key: &Held<CachedKey>| match after {
            None => self.is_fresh(key, now, config),
            Some(moment) => key.began() >= moment,
        };
        self.key.turn(serves, || {
            if rules.is_out {
                return Err(Refused::Elsewhere);
            }
            if after.is_some() { rules.count_reread(now) } else { Ok(()) }
        })
    }

    /// Begins a background read, unless one is under way or failed a moment ago.
    pub fn start_refresh(&self, now: Instant) -> Option<Flight<CachedKey>> {
        let rules = self.rules();
        if rules.is_out { None } else { self.key.begin_refresh(now, |_| true) }
    }

    /// Takes in the outcome of a read. Returns `None` if the key was created or deleted here meanwhile.
    ///
    /// A failed read is no reason to drop the key in memory: it may be the last good copy there is.
    pub fn finish(&self, read: &Flight<CachedKey>, result: Result<CachedKey>) -> Option<Finished> {
        let mut rules = self.rules();
        let before = self.fingerprint();
        let outcome = self.key.land(read, result)?;
        let dropped = match &outcome {
            Ok(key) => {
                rules.refused = false;
                self.parked.store(false, Ordering::Relaxed);
                before.filter(|before| before != key.fingerprint())
            }
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::Disabled | ErrorKind::Deleted => {
                    self.key.clear();
                    before
                }
                ErrorKind::Denied | ErrorKind::LoginRefused => {
                    rules.refused = true;
                    None
                }
                _ => None,
            },
        };
        Some(Finished { outcome, dropped })
    }

    /// Takes in a key that was created here. Returns the one that was there.
    pub fn publish_new(&self, key: CachedKey, began: Instant) -> Option<HeldKey> {
        let mut rules = self.rules();
        rules.refused = false;
        let before = self.key();
        self.key.put(key, began);
        self.parked.store(false, Ordering::Relaxed);
        before
    }

    /// Makes sure that a read under way brings nothing, and that whoever waits for it asks again.
    pub fn outdate(&self) {
        self.key.outdate();
    }

    /// Drops the key, and what a read under way will bring. Returns the fingerprint of the key.
    pub fn forget(&self) -> Option<Fingerprint> {
        let mut rules = self.rules();
        rules.is_out = true;
        self.key.outdate();
        let before = self.fingerprint();
        self.key.clear();
        before
    }

    /// Gives the slot up if it is vacant. Returns whether the caller has to take it off the map.
    pub fn retire(&self) -> bool {
        let mut rules = self.rules();
        rules.is_out |= self.key.is_vacant();
        rules.is_out
    }

    /// Ends the key if its time is over, and returns what else there is to do. With `look` a key ends only if it was read no
    /// longer ago than that, so what the store has lost stays in memory.
    pub fn due(&self, now: Instant, idle: Duration, config: &CacheConfig, look: Option<Duration>) -> Due {
        let mut rules = self.rules();
        rules.forget_rereads(now);
        let Some(key) = self.key() else {
            return if self.key.under_way().is_some() { Due::Nothing } else { Due::Gone(None) };
        };
        let age = key.age(now);
        if age < config.any && idle < config.unused {
            return if age >= refresh_age(config.any) { Due::Refresh } else { Due::Nothing };
        }
        if age < config.offline && !rules.refused {
            self.parked.store(true, Ordering::Relaxed);
            return Due::Nothing;
        }
        if look.is_some_and(|look| age > look) && !rules.refused {
            self.parked.store(true, Ordering::Relaxed);
            return Due::Look;
        }
        self.key.clear();
        Due::Gone(Some(*key.fingerprint()))
    }

    fn is_fresh(&self, key: &Held<CachedKey>, now: Instant, config: &CacheConfig) -> bool {
        key.age(now) < config.any && !self.parked.load(Ordering::Relaxed)
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        self.key().map(|key| *key.fingerprint())
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rules {
    /// Counts a reread that begins now, unless there were too many.
    fn count_reread(&mut self, now: Instant) -> std::result::Result<(), Refused> {
        let rereads = self.rereads.get_or_insert_default();
        while rereads.front().is_some_and(|first| now.duration_since(*first) >= WINDOW) {
            rereads.pop_front();
        }
        if let Some(first) = rereads.front()
            && rereads.len() >= REREADS_PER_SECOND
        {
            return Err(Refused::Until(*first + WINDOW));
        }
        rereads.push_back(now);
        Ok(())
    }

    /// Forgets rereads that count no more.
    fn forget_rereads(&mut self, now: Instant) {
        let last = self.rereads.as_ref().and_then(|rereads| rereads.back());
        if last.is_none_or(|last| now.duration_since(*last) >= WINDOW) {
            self.rereads = None;
        }
    }
}

#[cfg(test)]
#[cfg(not(feature = "model"))]
mod tests {
    use super::*;

    /// Each cached key has one slot and one held key, each in a block of the heap with its two counts.
    #[test]
    fn a_key_in_the_cache_takes_little_memory() {
        const COUNTS: usize = 16;
        assert!(COUNTS + size_of::<Slot>() <= 88, "{}", size_of::<Slot>());
        assert!(COUNTS + size_of::<Held<CachedKey>>() <= 120, "{}", size_of::<Held<CachedKey>>());
    }
}
