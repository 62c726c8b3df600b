//! What is in the escrow file, as far as this process has to know: digests, and nothing secret.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use kms_core::KeyName;
use tokio::sync::Notify;

use super::line::{Place, Subject};
use super::lives::{Held, State};

/// A digest of an entry's name and of its record, or of its fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

    /// Computes that of a key: its records have the same.
    fn of_key(subject: &Subject) -> Self {
        Self::of(&subject.name, subject.fingerprint.as_bytes())
    }

    /// Computes that of a name.
    pub fn of_name(name: &str) -> Self {
        Self::of(name, b"")
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
    /// The entries that the store was asked to remove, of which nothing says whether it did.
    in_doubt: Mutex<BTreeSet<Subject>>,
    /// The names of the store under which several keys live by the file.
    ambiguous: Mutex<BTreeSet<KeyName>>,
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

/// A record that the store has: by the name of its entry and the fingerprint of its key, with what tells it from others of these.
/// A fingerprint that is not known is `None`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    name: Digest,
    key: Option<[u8; 16]>,
    mark: Option<[u8; 8]>,
}

impl Record {
    fn of(subject: &Subject) -> Self {
        let mut key = [0; 16];
        let key = hex::decode_to_slice(&*subject.fingerprint, &mut key).ok().map(|()| key);
        Self { name: Digest::of_name(&subject.name), key, mark: subject.record }
    }

    /// Returns the bounds of all records of an entry.
    fn all_of(name: Digest) -> RangeInclusive<Self> {
        let last = Self { name, key: Some([u8::MAX; 16]), mark: Some([u8::MAX; 8]) };
        Self { name, key: None, mark: None }..=last
    }
}

struct Sets {
    /// The records that the store has.
    stored: BTreeSet<Record>,
    /// The keys of them of which the file says that they are deleted, by name and fingerprint.
    deleted: HashSet<Digest>,
    /// The names whose key is deleted, as the file says.
    deleted_names: HashSet<Digest>,
    /// The names of which this process said that each key of theirs is deleted, with the keys that came back since.
    deleted_as_names: HashMap<Digest, Vec<Digest>>,
    /// The records that were read and need nothing, by name and content.
    seen: HashSet<Digest>,
    pending: HashMap<Digest, Pending>,
    /// The entries of an earlier process of which nothing says that the store has them, by name and fingerprint.
    unmarked: HashSet<Digest>,
}

impl Sets {
    fn set_live(&mut self, name: Digest, key: Digest) {
        self.deleted.remove(&key);
        self.deleted_names.remove(&name);
        if let Some(back) = self.deleted_as_names.get_mut(&name) {
            back.push(key);
        }
    }
}

impl Known {
    /// Takes in what the file held at the start.
    pub fn new(held: &[Held]) -> Self {
        // A restore cannot use what is damaged, so the file lacks it.
        let whole = || held.iter().filter(|held| !held.is_damaged);
        let of_state = |wanted: State| whole().filter(move |held| held.state == wanted);
        let keys = |wanted| -> HashSet<Digest> {
            of_state(wanted).map(|held| Digest::of_key(&held.subject)).collect()
        };
        let names = |wanted| -> HashSet<Digest> {
            of_state(wanted).map(|held| Digest::of_name(&held.subject.name)).collect()
        };
        let in_store = [State::Stored, State::Deleted, State::Removing];
        let stored = whole().filter(|held| in_store.contains(&held.state));
        let stored = stored.map(|held| Record::of(&held.subject)).collect();
        let deleted = &keys(State::Deleted) - &keys(State::Stored);
        let deleted_names = &names(State::Deleted) - &(&names(State::Stored) | &names(State::Removing));
        let in_doubt: BTreeSet<_> = of_state(State::Removing).map(|held| held.subject.clone()).collect();
        let sets = Sets {
            stored,
            deleted,
            deleted_names,
            deleted_as_names: HashMap::new(),
            unmarked: keys(State::Unmarked),
            seen: HashSet::new(),
            pending: HashMap::new(),
        };
        Self {
            sets: Mutex::new(sets),
            pending: AtomicUsize::new(0),
            lacking: Mutex::default(),
            in_doubt: Mutex::new(in_doubt),
            ambiguous: Mutex::default(),
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

    /// Returns whether this very record is in escrow, and marked.
    pub fn is_stored(&self, subject: &Subject) -> bool {
        self.sets().stored.contains(&Record::of(subject))
    }

    /// Returns the other records of a name that live by the file. Those that are deleted, and those in doubt, are none of them.
    pub fn others(&self, present: &Subject) -> Vec<Subject> {
        let all = Record::all_of(Digest::of_name(&present.name));
        let all: Vec<Record> = self.sets().stored.range(all).copied().collect();
        if all.len() < 2 {
            return Vec::new();
        }
        let others = all.into_iter().filter_map(|Record { key, mark, .. }| {
            let fingerprint = hex::encode(key?);
            Some(Subject { record: mark, ..Subject::new(&present.name, Some(&fingerprint)) })
        });
        let in_doubt = self.in_doubt();
        let lives = |other: &Subject| !self.is_deleted(other) && !in_doubt.contains(other);
        others.filter(|other| !other.may_be(present)).filter(lives).collect()
    }

    /// Notes whether several keys of a name of the store live by the file. Returns whether that is new.
    pub fn set_ambiguous(&self, name: &KeyName, is_ambiguous: bool) -> bool {
        let mut ambiguous = self.ambiguous();
        if is_ambiguous {
            return ambiguous.insert(name.clone());
        }
        ambiguous.remove(name);
        false
    }

    /// Returns the number of names of the store under which several keys live by the file.
    pub fn count_ambiguous(&self) -> usize {
        self.ambiguous().len()
    }

    fn ambiguous(&self) -> MutexGuard<'_, BTreeSet<KeyName>> {
        self.ambiguous.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the file says that the key of an entry is deleted.
    pub fn is_deleted(&self, subject: &Subject) -> bool {
        let (sets, key) = (self.sets(), Digest::of_key(subject));
        let as_name = sets.deleted_as_names.get(&Digest::of_name(&subject.name));
        sets.deleted.contains(&key) || as_name.is_some_and(|back| !back.contains(&key))
    }

    /// Returns whether the file says that the key of a name is deleted, whichever it is.
    pub fn is_name_deleted(&self, name: &str) -> bool {
        self.sets().deleted_names.contains(&Digest::of_name(name))
    }

    /// Notes whether the file says that the key of an entry is deleted. A subject without a fingerprint means all of its name.
    pub fn set_deleted(&self, subject: &Subject, is_deleted: bool) {
        let (mut sets, key) = (self.sets(), Digest::of_key(subject));
        let name = Digest::of_name(&subject.name);
        match (is_deleted, subject.is_known()) {
            (false, true) => sets.set_live(name, key),
            (false, false) => {
                sets.deleted_names.remove(&name);
                sets.deleted_as_names.remove(&name);
            }
            (true, true) => {
                sets.deleted.insert(key);
                sets.deleted_names.insert(name);
            }
            (true, false) => {
                sets.deleted_names.insert(name);
                sets.deleted_as_names.insert(name, Vec::new());
            }
        }
    }

    /// Notes whether an entry may have been removed without a line that says so.
    pub fn set_in_doubt(&self, subject: &Subject, is_in_doubt: bool) {
        let mut in_doubt = self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner);
        if is_in_doubt {
            in_doubt.insert(subject.clone());
        } else {
            in_doubt.remove(subject);
        }
    }

    /// Returns the entries of which nothing says whether the store removed them.
    pub fn in_doubt(&self) -> Vec<Subject> {
        self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Returns whether an earlier process wrote an entry and did not mark it.
    pub fn is_unmarked(&self, subject: &Subject) -> bool {
        self.sets().unmarked.contains(&Digest::of_key(subject))
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
        let key = Digest::of_key(subject);
        sets.unmarked.remove(&key);
        sets.set_live(Digest::of_name(&subject.name), key);
        sets.stored.insert(Record::of(subject));
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

    /// Forgets an entry that the store does not have any more. A subject without a record means all records of its key.
    pub fn drop_stored(&self, subject: &Subject, record: Option<Digest>) {
        let (mut sets, key) = (self.sets(), Digest::of_key(subject));
        let dropped = Record::of(subject);
        let of_key = sets.stored.range(Record::all_of(dropped.name)).filter(|one| one.key == dropped.key);
        // Lines of the first files mean each record of a key.
        let is_meant =
            |one: &&Record| dropped.mark.is_none() || one.mark.is_none() || one.mark == dropped.mark;
        let meant: Vec<_> = of_key.filter(is_meant).copied().collect();
        for one in meant {
            sets.stored.remove(&one);
        }
        sets.deleted.remove(&key);
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

    /// Returns whether the whole store was compared with the file, each key could be read, and none is one of several of its name.
    pub fn is_complete(&self) -> bool {
        let is_looked_through = self.is_looked_through.load(Ordering::Relaxed);
        is_looked_through && self.lacking().unreadable.is_empty() && self.count_ambiguous() == 0
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
