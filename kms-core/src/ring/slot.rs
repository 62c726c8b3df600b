//! The place of one key in the cache, and the one read of it that may be under way.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::cache::refresh_age;
use super::config::CacheConfig;
use super::key::CachedKey;
use crate::sync::{ArcSwapOption, AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering, watch};
use crate::{ErrorKind, Fingerprint, Result};

/// Reads of one key a second that are made only because a ciphertext did not open.
const REREADS_PER_SECOND: usize = 10;
/// How long a failed background read is not tried again.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);

type Outcome = Result<Arc<CachedKey>>;

/// The place of one key. The key is found without a lock; reads of the store are arranged under one.
///
/// The key is taken out of the slot itself when it ends, so that it is wiped then and not when the map
/// gets round to freeing the slot.
#[derive(Default)]
pub struct Slot {
    key: ArcSwapOption<CachedKey>,
    /// Milliseconds on the cache's clock at which the key was last asked for.
    used: AtomicU64,
    /// Out of use, kept only as the offline copy.
    parked: AtomicBool,
    reads: Mutex<Reads>,
}

#[derive(Default)]
struct Reads {
    running: Option<Running>,
    /// Bumped when the key is created or deleted here: an older read tells nothing any more.
    epoch: u64,
    /// When the last re-reads began.
    rereads: VecDeque<Instant>,
    refresh_not_before: Option<Instant>,
    /// The last answer was a refusal, so the key ends at `any` and is no offline copy.
    refused: bool,
    /// The name has no place, or another one: no read begins here any more.
    is_out: bool,
}

struct Running {
    began: Instant,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// What a request that needs a read of the key has to do.
pub enum Start {
    /// Read it, and send the outcome; the moment the read begins and the epoch it belongs to are given.
    Go(watch::Sender<Option<Outcome>>, Instant, u64),
    /// Wait for the read that is under way.
    Join(watch::Receiver<Option<Outcome>>),
    /// Wait for the read under way to end, since it began too early, and ask again.
    After(watch::Receiver<Option<Outcome>>),
    /// Ask again then.
    NotBefore(Instant),
    /// Ask the place that the name has by now.
    Elsewhere,
}

/// What became of the outcome of a read.
#[derive(Default)]
pub struct Finished {
    /// The key was created or deleted here since the read began, so the outcome tells nothing.
    pub is_stale: bool,
    /// The fingerprint of the key that was dropped: because the store holds another one now, none, or a disabled one.
    pub dropped: Option<Fingerprint>,
}

/// What is to be done about a slot in passing.
pub enum Due {
    Nothing,
    /// The key is in use and near its end.
    Refresh,
    /// There is no key, or no longer: that of this fingerprint was dropped since its time is over.
    Gone(Option<Fingerprint>),
}

impl Slot {
    pub fn key(&self) -> Option<Arc<CachedKey>> {
        self.key.load_full()
    }

    /// Returns the key while its time lasts.
    pub fn fresh(&self, now: Instant, config: &CacheConfig) -> Option<Arc<CachedKey>> {
        self.key().filter(|key| key.age(now) < config.any && !self.parked.load(Ordering::Relaxed))
    }

    /// Returns the key after its time, while it may be served should the backend be away.
    pub fn offline_copy(&self, now: Instant, config: &CacheConfig) -> Option<Arc<CachedKey>> {
        let key = self.key().filter(|key| key.age(now) < config.offline)?;
        (!self.reads().refused).then_some(key)
    }

    /// Notes a use.
    pub fn touch(&self, millis: u64) {
        if self.used.load(Ordering::Relaxed) != millis {
            self.used.store(millis, Ordering::Relaxed);
        }
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns the read under way, if it began late enough.
    pub fn joinable(&self, after: Option<Instant>) -> Option<watch::Receiver<Option<Outcome>>> {
        let reads = self.reads();
        let running = reads.running.as_ref().filter(|running| running.is_alive())?;
        after.is_none_or(|moment| running.began >= moment).then(|| running.outcome.clone())
    }

    /// Begins a read, or tells what to wait for. `after` asks for one that begins no earlier, within the limit.
    pub fn start(&self, after: Option<Instant>) -> Start {
        let mut reads = self.reads();
        if reads.is_out {
            return Start::Elsewhere;
        }
        if let Some(running) = reads.running.as_ref().filter(|running| running.is_alive()) {
            let outcome = running.outcome.clone();
            let late_enough = after.is_none_or(|moment| running.began >= moment);
            return if late_enough { Start::Join(outcome) } else { Start::After(outcome) };
        }
        let began = Instant::now();
        if after.is_some() {
            let window = Duration::from_secs(1);
            while reads.rereads.front().is_some_and(|first| began.duration_since(*first) >= window) {
                reads.rereads.pop_front();
            }
            if let Some(first) = reads.rereads.front()
                && reads.rereads.len() >= REREADS_PER_SECOND
            {
                return Start::NotBefore(*first + window);
            }
            reads.rereads.push_back(began);
        }
        let (sender, outcome) = watch::channel(None);
        reads.running = Some(Running { began, outcome });
        Start::Go(sender, began, reads.epoch)
    }

    /// Tells whether a background read may begin.
    pub fn may_refresh(&self, now: Instant) -> bool {
        let reads = self.reads();
        reads.running.as_ref().is_none_or(|running| !running.is_alive())
            && reads.refresh_not_before.is_none_or(|moment| now >= moment)
    }

    /// Brings in the outcome of a read that began in `epoch`.
    ///
    /// What cannot be read is no reason to drop the key in memory: it may be the last good copy there is.
    pub fn finish(&self, epoch: u64, outcome: &Outcome) -> Finished {
        let mut reads = self.reads();
        reads.running = None;
        if reads.epoch != epoch {
            return Finished { is_stale: true, dropped: None };
        }
        let before = self.key().map(|key| *key.fingerprint());
        let dropped = match outcome {
            Ok(key) => {
                reads.refused = false;
                reads.refresh_not_before = None;
                self.put(Arc::clone(key));
                before.filter(|before| before != key.fingerprint())
            }
            Err(error) => {
                reads.refresh_not_before = Some(Instant::now() + REFRESH_PAUSE);
                match error.kind() {
                    ErrorKind::NotFound | ErrorKind::Disabled => {
                        self.key.store(None);
                        before
                    }
                    ErrorKind::Denied | ErrorKind::LoginRefused => {
                        reads.refused = true;
                        None
                    }
                    _ => None,
                }
            }
        };
        Finished { is_stale: false, dropped }
    }

    /// Takes in a key that was created here. Returns the fingerprint of the one that was there.
    pub fn publish_new(&self, key: Arc<CachedKey>) -> Option<Fingerprint> {
        let mut reads = self.reads();
        reads.epoch += 1;
        reads.refused = false;
        let before = self.key().map(|before| *before.fingerprint());
        self.put(key);
        before
    }

    /// Makes sure that a read under way brings nothing, and that who waits for it asks again.
    pub fn outdate(&self) {
        self.reads().epoch += 1;
    }

    /// Drops the key, and what a read under way will bring. Returns the fingerprint of the key.
    pub fn forget(&self) -> Option<Fingerprint> {
        let mut reads = self.reads();
        reads.epoch += 1;
        reads.is_out = true;
        let before = self.key().map(|key| *key.fingerprint());
        self.key.store(None);
        before
    }

    /// Gives the slot up if there is nothing in it and nothing under way. True if it is to be taken away.
    pub fn retire(&self) -> bool {
        let mut reads = self.reads();
        let is_reading = reads.running.as_ref().is_some_and(Running::is_alive);
        reads.is_out |= !is_reading && self.key().is_none();
        reads.is_out
    }

    /// Ends the key if its time is over, and tells what else is to be done.
    pub fn due(&self, now: Instant, idle: Duration, config: &CacheConfig) -> Due {
        let reads = self.reads();
        let Some(key) = self.key() else {
            return if reads.running.is_some() { Due::Nothing } else { Due::Gone(None) };
        };
        let age = key.age(now);
        if age < config.any && idle < config.unused {
            return if age >= refresh_age(config.any) { Due::Refresh } else { Due::Nothing };
        }
        if age < config.offline && !reads.refused {
            self.parked.store(true, Ordering::Relaxed);
            return Due::Nothing;
        }
        self.key.store(None);
        Due::Gone(Some(*key.fingerprint()))
    }

    fn put(&self, key: Arc<CachedKey>) {
        self.key.store(Some(key));
        self.parked.store(false, Ordering::Relaxed);
    }

    fn reads(&self) -> MutexGuard<'_, Reads> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Tells whether the task that reads is still there.
    fn is_alive(&self) -> bool {
        self.outcome.has_changed().is_ok()
    }
}
