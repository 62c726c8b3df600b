//! The entries of an open store in memory, as readers see them.

use std::sync::PoisonError;

use kms_core::ErrorKind;
use kms_core::primitives::SecretBytes;
use tokio::sync::watch;

use super::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use crate::entries::Entries;

/// Says that a name has no entry.
pub struct Absent {
    /// Why it may have had one.
    pub doubt: Option<String>,
}

/// Why a store takes no writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusing {
    /// In words.
    pub why: String,
    /// What a refused write fails as.
    pub kind: ErrorKind,
}

impl Refusing {
    /// Creates a reason that has nothing to do with room.
    pub fn because(why: impl Into<String>) -> Self {
        Self { why: why.into(), kind: ErrorKind::ReadOnly }
    }

    /// Creates the reason that there is no room, if `is_full`, and else another one.
    pub fn of_full(is_full: bool, why: impl Into<String>) -> Self {
        let kind = if is_full { ErrorKind::DiskFull } else { ErrorKind::ReadOnly };
        Self { why: why.into(), kind }
    }
}

/// All entries, as they are on the disk.
pub struct Index {
    entries: RwLock<Entries>,
    /// Whether the database was compared with the journal. Until then it may have entries that are not here.
    is_compared: watch::Sender<bool>,
    /// Why a name that is not found may have been there.
    doubt: Mutex<Option<String>>,
    /// Why the store is read-only, if it is.
    read_only: Mutex<Option<Refusing>>,
}

impl Index {
    pub fn new(entries: Entries, doubt: Option<String>, is_compared: bool) -> Self {
        let is_compared = watch::Sender::new(is_compared);
        Self {
            entries: RwLock::new(entries),
            is_compared,
            doubt: Mutex::new(doubt),
            read_only: Mutex::new(None),
        }
    }

    /// Waits until it is known that there are no other entries, or why that is in doubt.
    pub async fn compared(&self) {
        if !*self.is_compared.borrow() {
            // The sender lives as long as this.
            let _ = self.is_compared.subscribe().wait_for(|is_compared| *is_compared).await;
        }
    }

    pub fn is_compared(&self) -> bool {
        *self.is_compared.borrow()
    }

    /// Notes that entries and doubt are known, and wakes whoever waits for that.
    pub fn set_compared(&self) {
        self.is_compared.send_replace(true);
    }

    /// Returns why a name that is not found may have been there.
    pub fn doubt(&self) -> Option<String> {
        self.doubt.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_doubt(&self, doubt: Option<String>) {
        *self.doubt.lock().unwrap_or_else(PoisonError::into_inner) = doubt;
    }

    /// Returns the record of a name, `None` if it is lost. Says that a name is absent only when that is known.
    pub async fn get(&self, name: &str) -> Result<Option<SecretBytes>, Absent> {
        let find = || self.entries().get(name).map(|value| value.map(SecretBytes::from));
        if let Some(found) = find() {
            return Ok(found);
        }
        self.compared().await;
        // A doubt ends after all entries are there, so it is read first.
        let doubt = self.doubt();
        find().ok_or(Absent { doubt })
    }

    pub fn entries(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a change of the entries. Readers see it as a whole when it is dropped.
    pub fn change(&self) -> RwLockWriteGuard<'_, Entries> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn read_only(&self) -> Option<Refusing> {
        self.read_only.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_read_only(&self, why: Option<Refusing>) {
        *self.read_only.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}
