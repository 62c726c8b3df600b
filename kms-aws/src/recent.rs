//! What was done here a moment ago. AWS is eventually consistent, so this is believed over what AWS shows.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Remembers keys with a value each for a while.
pub struct Recent<K, V = ()> {
    span: Duration,
    noted: Mutex<HashMap<K, (V, Instant)>>,
}

impl<K: Hash + Eq, V: Clone> Recent<K, V> {
    /// Creates a memory of `span`.
    pub fn new(span: Duration) -> Self {
        Self { span, noted: Mutex::default() }
    }

    /// Remembers `key` from now on.
    pub fn note(&self, key: K, value: V) {
        self.lock().insert(key, (value, Instant::now()));
    }

    /// Returns the value of `key`, unless its time is over.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.lock().get(key).map(|(value, _)| value.clone())
    }

    /// Forgets `key`.
    pub fn forget<Q: Hash + Eq + ?Sized>(&self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, (V, Instant)>> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.retain(|_, (_, since)| since.elapsed() < self.span);
        noted
    }
}
