//! The entries of an open store in memory, as readers see them.

use std::sync::PoisonError;

use super::sync::{AtomicUsize, Mutex, Ordering, RwLock, RwLockReadGuard, RwLockWriteGuard};
use crate::entries::Entries;

/// All entries, as they are on the disk.
pub struct Index {
    entries: RwLock<Entries>,
    /// The number of entries whose values are lost.
    lost: AtomicUsize,
    /// Why a name that is not found may have been there.
    doubt: Option<String>,
    /// Why the store is read-only, if it is.
    read_only: Mutex<Option<String>>,
}

impl Index {
    pub fn new(entries: Entries, doubt: Option<String>) -> Self {
        let lost = AtomicUsize::new(entries.values().filter(|value| value.is_none()).count());
        Self { entries: RwLock::new(entries), lost, doubt, read_only: Mutex::new(None) }
    }

    /// Returns the number of entries whose values are lost.
    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }

    /// Returns why a name that is not found may have been there.
    pub fn doubt(&self) -> Option<&str> {
        self.doubt.as_deref()
    }

    pub fn entries(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a change of the entries. Readers see it as a whole when it is dropped.
    pub fn change(&self) -> IndexChange<'_> {
        let entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        IndexChange { entries, lost: &self.lost }
    }

    pub fn read_only(&self) -> Option<String> {
        self.read_only.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_read_only(&self, why: Option<String>) {
        *self.read_only.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

/// A change of the index that readers do not see yet.
pub struct IndexChange<'a> {
    entries: RwLockWriteGuard<'a, Entries>,
    lost: &'a AtomicUsize,
}

impl IndexChange<'_> {
    /// Adds an entry.
    pub fn insert(&mut self, name: String, value: Box<[u8]>) {
        self.entries.insert(name, Some(value));
    }

    /// Removes an entry, and returns its value unless that was lost.
    pub fn remove(&mut self, name: &str) -> Option<Box<[u8]>> {
        let before = self.entries.remove(name).flatten();
        if before.is_none() {
            self.lost.fetch_sub(1, Ordering::Relaxed);
        }
        before
    }
}
