//! A store for models. Other tasks may run before and after each of its operations, as with a store behind a network.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

use super::super::key::CachedKey;
use super::fixtures::{name, record};
use crate::error::{Error, ErrorKind, Result};
use crate::listing::{ListQuery, Page};
use crate::primitives::{Fingerprint, SecretBytes};
use crate::status::StoreStatus;
use crate::store::{EntryName, KeyRecord, KeyStore, StoreCapabilities};
use crate::sync::{AtomicUsize, Mutex, Ordering, sleep};

/// A call of the backend takes any time that the checker likes.
const SOME_TIME: Duration = Duration::ZERO;

#[derive(Default)]
pub struct Store {
    notes_removals: bool,
    entries: Mutex<BTreeMap<String, SecretBytes>>,
    reading: AtomicUsize,
    /// The most reads of keys that were under way at once. What belongs to a key is read beside.
    pub most_reading: AtomicUsize,
}

impl Store {
    /// Creates a store that notes removals.
    pub fn noting() -> Self {
        Self { notes_removals: true, ..Self::default() }
    }

    /// Loses the key, as a store does that a promoted standby serves.
    pub fn lose(&self) {
        self.entries.lock().unwrap().remove(name().as_str());
    }

    /// Removes the key and notes that at once, as another server would.
    pub fn remove_noting(&self) {
        let gone = EntryName::gone(&name(), &self.fingerprint().unwrap());
        let mut entries = self.entries.lock().unwrap();
        entries.remove(name().as_str());
        entries.insert(gone.as_str().to_owned(), SecretBytes::from(b"note".as_slice()));
    }

    /// Replaces the key, as another server would, and returns the new fingerprint.
    pub fn replace(&self) -> Fingerprint {
        let encoded = record().encode();
        self.entries.lock().unwrap().insert(name().as_str().to_owned(), encoded);
        self.fingerprint().unwrap()
    }

    /// Returns the fingerprint of the key that is there.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        let entries = self.entries.lock().unwrap();
        let record = KeyRecord::decode(entries.get(name().as_str())?.expose()).unwrap();
        Some(*CachedKey::new(record).fingerprint())
    }
}

#[async_trait]
impl KeyStore for Store {
    fn capabilities(&self) -> StoreCapabilities {
        let shared = StoreCapabilities::shared("model");
        if self.notes_removals { shared.noting_removals() } else { shared }
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        sleep(SOME_TIME).await;
        let is_new = {
            let mut entries = self.entries.lock().unwrap();
            let is_new = !entries.contains_key(name.as_str());
            if is_new {
                entries.insert(name.as_str().to_owned(), SecretBytes::from(record.expose()));
            }
            is_new
        };
        sleep(SOME_TIME).await;
        is_new.then_some(()).ok_or_else(|| Error::new(ErrorKind::AlreadyExists, "create"))
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        let counts = usize::from(!name.is_hidden());
        let reading = self.reading.fetch_add(counts, Ordering::SeqCst) + counts;
        self.most_reading.fetch_max(reading, Ordering::SeqCst);
        sleep(SOME_TIME).await;
        let found =
            self.entries.lock().unwrap().get(name.as_str()).map(|record| SecretBytes::from(record.expose()));
        sleep(SOME_TIME).await;
        self.reading.fetch_sub(counts, Ordering::SeqCst);
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, "read"))
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        sleep(SOME_TIME).await;
        let found = self.entries.lock().unwrap().remove(name.as_str());
        sleep(SOME_TIME).await;
        found.map(drop).ok_or_else(|| Error::new(ErrorKind::NotFound, "delete"))
    }

    async fn list(&self, _: &ListQuery<'_>) -> Result<Page> {
        Ok(Page::default())
    }

    async fn status(&self) -> Result<StoreStatus> {
        Ok(StoreStatus::ok(Duration::ZERO))
    }
}
