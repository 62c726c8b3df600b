//! What is in the escrow file, as far as this process has to know: digests, and nothing secret.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use kms_core::KeyName;
use tokio::sync::Notify;

use super::line::{Place, Subject};
use super::lives::{Held, State};

/// A digest of an entry's name and of its record, or of its fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest([u8; 16]);

impl Digest {
    /// Computes the digest of an entry's name and of what belongs to it.
    pub fn of(name: &str, what: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(name.as_bytes());
        context.update(&[0]);
        context.update(what);
        let mut digest = [0; 16];
        for (to, from) in digest.iter_mut().zip(context.finish().as_ref()) {
            *to = *from;
        }
        Self(digest)
    }

    fn of_subject(subject: &Subject) -> Self {
        Self::of(&subject.name, subject.fingerprint.as_bytes())
    }
}

/// How many records that are no keys of ours are remembered as seen, beside those in escrow.
const MOST_FOREIGN: usize = 1 << 16;

/// A record that was written before the store has it.
#[derive(Clone)]
pub struct Pending {
    pub place: Place,
    pub subject: Subject,
}

/// How a record stands that was read from the store.
pub enum Standing {
    /// Nothing is to be done.
    Seen,
    /// It is in escrow, and nothing says that the store has it.
    Pending(Pending),
    /// Nothing is known of it yet.
    New,
}

/// What is known of the escrow file.
pub struct Known {
    sets: Mutex<Sets>,
    /// The number of pending records, which is zero almost always.
    pending: AtomicUsize,
    lacking: Mutex<Lacking>,
    pub lacks_more: Notify,
    /// Whether the whole store was looked through since the start.
    pub is_looked_through: AtomicBool,
}

/// The keys of which the file lacks something.
#[derive(Default)]
struct Lacking {
    /// Those that are added next.
    next: BTreeSet<KeyName>,
    /// Those that could not be read, and are tried again after a while.
    unreadable: BTreeSet<KeyName>,
}

struct Sets {
    /// The entries that the store has, by name and fingerprint.
    stored: HashSet<Digest>,
    /// Those of them of which the file says that their key is deleted.
    deleted: HashSet<Digest>,
    /// The records that were read and need nothing, by name and content.
    seen: HashSet<Digest>,
    pending: HashMap<Digest, Pending>,
    /// The entries of an earlier process of which nothing says that the store has them, by name and fingerprint.
    unmarked: HashSet<Digest>,
}

impl Known {
    /// Takes in what the file held at the start.
    pub fn new(held: &[Held]) -> Self {
        let of_state = |wanted: State| -> HashSet<Digest> {
            // A restore cannot use what is damaged, so the file lacks it.
            let held = held.iter().filter(|held| held.state == wanted && !held.is_damaged);
            held.map(|held| Digest::of_subject(&held.subject)).collect()
        };
        let mut stored = of_state(State::Stored);
        let deleted: HashSet<Digest> = of_state(State::Deleted).difference(&stored).copied().collect();
        stored.extend(&deleted);
        let sets = Sets {
            stored,
            deleted,
            unmarked: of_state(State::Unmarked),
            seen: HashSet::new(),
            pending: HashMap::new(),
        };
        Self {
            sets: Mutex::new(sets),
            pending: AtomicUsize::new(0),
            lacking: Mutex::default(),
            lacks_more: Notify::new(),
            is_looked_through: AtomicBool::new(false),
        }
    }

    fn sets(&self) -> MutexGuard<'_, Sets> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lacking(&self) -> MutexGuard<'_, Lacking> {
        self.lacking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how a record stands that was read.
    pub fn standing(&self, record: Digest) -> Standing {
        let sets = self.sets();
        if sets.seen.contains(&record) {
            return Standing::Seen;
        }
        if self.pending.load(Ordering::Relaxed) != 0
            && let Some(pending) = sets.pending.get(&record)
        {
            return Standing::Pending(pending.clone());
        }
        Standing::New
    }

    /// Returns whether an entry is in escrow, and marked.
    pub fn is_stored(&self, subject: &Subject) -> bool {
        self.sets().stored.contains(&Digest::of_subject(subject))
    }

    /// Returns whether the file says that the key of an entry is deleted.
    pub fn is_deleted(&self, subject: &Subject) -> bool {
        self.sets().deleted.contains(&Digest::of_subject(subject))
    }

    /// Notes whether the file says that the key of an entry is deleted.
    pub fn set_deleted(&self, subject: &Subject, is_deleted: bool) {
        let (mut sets, digest) = (self.sets(), Digest::of_subject(subject));
        if is_deleted {
            sets.deleted.insert(digest);
        } else {
            sets.deleted.remove(&digest);
        }
    }

    /// Returns whether an earlier process wrote an entry and did not mark it.
    pub fn is_unmarked(&self, subject: &Subject) -> bool {
        self.sets().unmarked.contains(&Digest::of_subject(subject))
    }

    /// Notes a record that was written before the store has it.
    pub fn add_pending(&self, record: Digest, pending: Pending) {
        let mut sets = self.sets();
        sets.pending.insert(record, pending);
        self.pending.store(sets.pending.len(), Ordering::Relaxed);
    }

    /// Forgets a record that the store did not take.
    pub fn drop_pending(&self, record: Digest) {
        let mut sets = self.sets();
        sets.pending.remove(&record);
        self.pending.store(sets.pending.len(), Ordering::Relaxed);
    }

    /// Notes a record that is in escrow and in the store.
    pub fn add_stored(&self, subject: &Subject, record: Digest) {
        let mut sets = self.sets();
        sets.pending.remove(&record);
        self.pending.store(sets.pending.len(), Ordering::Relaxed);
        sets.unmarked.remove(&Digest::of_subject(subject));
        sets.deleted.remove(&Digest::of_subject(subject));
        sets.stored.insert(Digest::of_subject(subject));
        sets.seen.insert(record);
    }

    /// Notes that nothing is to be done about a record now.
    pub fn add_seen(&self, record: Digest) {
        let mut sets = self.sets();
        if sets.seen.len() > sets.stored.len() + MOST_FOREIGN {
            sets.seen.clear();
        }
        sets.seen.insert(record);
    }

    /// Forgets an entry that the store does not have any more.
    pub fn drop_stored(&self, subject: &Subject, record: Option<Digest>) {
        let mut sets = self.sets();
        sets.stored.remove(&Digest::of_subject(subject));
        sets.deleted.remove(&Digest::of_subject(subject));
        match record {
            Some(record) => drop(sets.seen.remove(&record)),
            // A record of it may have been seen, and which one is not known.
            None => sets.seen.clear(),
        }
    }

    /// Notes that the file lacks something of a key.
    pub fn add_lacking(&self, name: KeyName) {
        if self.lacking().next.insert(name) {
            self.lacks_more.notify_one();
        }
    }

    /// Notes that the file may lack something of these keys, which are looked at anyway.
    pub fn add_all_lacking(&self, names: impl IntoIterator<Item = KeyName>) {
        self.lacking().next.extend(names);
    }

    /// Notes that the file lacks nothing of a key any more.
    pub fn drop_lacking(&self, name: &KeyName) {
        let mut lacking = self.lacking();
        lacking.next.remove(name);
        lacking.unreadable.remove(name);
    }

    /// Notes that a key cannot be read, so that the file may lack it. Returns whether that is new.
    pub fn add_unreadable(&self, name: &KeyName) -> bool {
        let mut lacking = self.lacking();
        lacking.next.remove(name);
        lacking.unreadable.insert(name.clone())
    }

    /// Puts the keys that could not be read among those that are added next. Each stays told until it is read.
    pub fn retry_unreadable(&self) {
        let Lacking { next, unreadable } = &mut *self.lacking();
        next.extend(unreadable.iter().cloned());
    }

    /// Returns whether the whole store was compared with the file, and each key could be read.
    pub fn is_complete(&self) -> bool {
        self.is_looked_through.load(Ordering::Relaxed) && self.lacking().unreadable.is_empty()
    }

    /// Returns the first keys of which the file lacks something.
    pub fn first_lacking(&self, count: usize) -> Vec<KeyName> {
        self.lacking().next.iter().take(count).cloned().collect()
    }

    /// Returns the number of keys of which the file lacks something.
    pub fn count_lacking(&self) -> usize {
        let lacking = self.lacking();
        lacking.next.union(&lacking.unreadable).count()
    }
}
