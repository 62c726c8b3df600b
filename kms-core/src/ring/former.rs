//! The keys that had a name before. They may explain a ciphertext that is not authentic.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::mem;
use std::sync::PoisonError;

use crate::error::{Error, ErrorKind};
use crate::name::KeyName;
use crate::primitives::Fingerprint;
use crate::sync::{Mutex, MutexGuard};

/// The number of names that are remembered: at least this, and at most twice as many.
const NAMES: usize = 2048;
/// The most keys that are remembered for one name.
const KEYS: usize = 4;

/// Remembers by fingerprint which keys had a name before, as far as this server saw them.
#[derive(Default)]
pub struct Former(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// The keys that were deleted or replaced in the store. The latest is the last.
    gone: Recent<Vec<Fingerprint>>,
    /// The key that left memory because its time was over. It may be in the store still.
    ended: Recent<Fingerprint>,
    /// When a key that left memory was used last.
    used: Recent<u32>,
}

/// A map that forgets the oldest names.
struct Recent<T> {
    young: BTreeMap<KeyName, T>,
    old: BTreeMap<KeyName, T>,
}

impl Former {
    /// Notes that the key with this fingerprint no longer has the name.
    pub fn note(&self, name: &KeyName, fingerprint: Fingerprint) {
        let mut seen = self.lock();
        seen.settle(name, &fingerprint);
        seen.add(name, fingerprint);
    }

    /// Notes that the key left memory. It had the name when it was last read.
    pub fn note_ended(&self, name: &KeyName, fingerprint: Fingerprint) {
        let mut seen = self.lock();
        seen.settle(name, &fingerprint);
        seen.ended.put(name, fingerprint);
    }

    /// Notes when a key that leaves memory was used last, in seconds of the cache.
    pub fn note_use(&self, name: &KeyName, second: u32) {
        let mut seen = self.lock();
        let before = seen.used.take(name).unwrap_or_default();
        seen.used.put(name, before.max(second));
    }

    /// Returns when a key that left memory was used last.
    pub fn last_use(&self, name: &KeyName) -> Option<u32> {
        self.lock().used.get(name).copied()
    }

    /// Notes which key has the name now. Returns the key that left memory under this name, if that was another one.
    pub fn arrived(&self, name: &KeyName, fingerprint: &Fingerprint) -> Option<Fingerprint> {
        self.lock().settle(name, fingerprint)
    }

    /// Adds a possible reason to the error of a ciphertext that is not authentic: another key had the name before.
    ///
    /// No ciphertext says which key sealed it, so the reason is never certain.
    pub fn explain(&self, error: Error, name: &KeyName, fingerprint: &Fingerprint) -> Error {
        if error.kind() != ErrorKind::NotAuthentic {
            return error;
        }
        let Some(before) = self.lock().before(name, fingerprint) else { return error };
        let why = format!(
            "it may have been sealed under a key that had this name before (by fingerprint, the latest first: {before}), \
             and is lost then unless that is restored; the fingerprint is now {fingerprint:?}"
        );
        Error::with_source(ErrorKind::NotAuthentic, format!("open a ciphertext with key '{name}'"), why)
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// Takes the key that left memory for gone, if another key has the name.
    fn settle(&mut self, name: &KeyName, now: &Fingerprint) -> Option<Fingerprint> {
        let before = self.ended.take(name).filter(|before| before != now)?;
        self.add(name, before);
        Some(before)
    }

    fn add(&mut self, name: &KeyName, fingerprint: Fingerprint) {
        let mut keys = self.gone.take(name).unwrap_or_default();
        keys.retain(|known| *known != fingerprint);
        keys.push(fingerprint);
        if keys.len() > KEYS {
            keys.remove(0);
        }
        self.gone.put(name, keys);
    }

    /// Returns the keys that had the name before as a list, the latest first; `None` if none is known.
    fn before(&mut self, name: &KeyName, now: &Fingerprint) -> Option<String> {
        self.settle(name, now);
        let mut list = String::new();
        for fingerprint in self.gone.get(name)?.iter().rev().filter(|known| *known != now) {
            let comma = if list.is_empty() { "" } else { ", " };
            let _ = write!(list, "{comma}{fingerprint:?}"); // a String takes everything
        }
        (!list.is_empty()).then_some(list)
    }
}

impl<T> Recent<T> {
    fn get(&self, name: &KeyName) -> Option<&T> {
        self.young.get(name).or_else(|| self.old.get(name))
    }

    fn take(&mut self, name: &KeyName) -> Option<T> {
        self.young.remove(name).or_else(|| self.old.remove(name))
    }

    /// Inserts a name. The caller has made sure that it is not there.
    fn put(&mut self, name: &KeyName, value: T) {
        if self.young.len() >= NAMES {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(name.clone(), value);
    }
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { young: BTreeMap::new(), old: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> KeyName {
        KeyName::new(format!("key-{n}")).unwrap()
    }

    fn key(n: u8) -> Fingerprint {
        Fingerprint::from_bytes([n; 16])
    }

    fn told(former: &Former, name: &KeyName, now: &Fingerprint) -> String {
        let error = Error::new(ErrorKind::NotAuthentic, "open");
        former.explain(error, name, now).chain().to_string()
    }

    #[test]
    fn names_and_keys_have_a_bound_and_the_latest_stay() {
        let former = Former::default();
        for n in 0..10 * NAMES {
            former.note(&name(n), key(1));
            former.note_ended(&name(n), key(2));
        }
        let seen = former.lock();
        for (young, old) in
            [(seen.gone.young.len(), seen.gone.old.len()), (seen.ended.young.len(), seen.ended.old.len())]
        {
            assert!((NAMES..=2 * NAMES).contains(&(young + old)), "{young} and {old}");
        }
        drop(seen);
        let latest = name(10 * NAMES - 1);
        for n in 0..100 {
            former.note(&latest, key(n));
        }
        let told = told(&former, &latest, &key(200));
        assert!(told.contains(&format!("{:?}, {:?}", key(99), key(98))), "{told}");
        assert!(!told.contains(&format!("{:?}", key(90))), "{told}");
    }

    #[test]
    fn many_keys_that_only_leave_memory_displace_none_that_was_replaced() {
        let former = Former::default();
        former.note(&name(0), key(1));
        for n in 1..10 * NAMES {
            former.note_ended(&name(n), key(2));
        }
        assert!(told(&former, &name(0), &key(2)).contains(&format!("{:?}", key(1))));
    }

    #[test]
    fn a_key_that_left_memory_is_gone_when_another_is_seen_however_late_that_is_noted() {
        let former = Former::default();
        assert_eq!(former.arrived(&name(0), &key(1)), None);
        former.note_ended(&name(0), key(1));
        assert_eq!(former.arrived(&name(0), &key(1)), None, "the same is read again");
        former.note_ended(&name(0), key(1));
        assert_eq!(former.arrived(&name(0), &key(2)), Some(key(1)));
        former.note_ended(&name(0), key(1));
        let told = told(&former, &name(0), &key(2));
        assert!(told.contains(&format!("{:?}", key(1))), "{told}");
    }
}
