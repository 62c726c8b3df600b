//! A key store in memory, for tests and for servers that keep nothing.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::entry::{EntryName, next_segments};
use super::key_store::{KeyStore, StoreCapabilities};
use crate::error::{Error, ErrorKind, Result};
use crate::listing::{ListQuery, Page};
use crate::name::KeyName;
use crate::primitives::SecretBytes;
use crate::status::StoreStatus;

/// A [`KeyStore`] in the memory of this process. All keys are lost when it is dropped.
#[derive(Default)]
pub struct MemoryStore {
    entries: Mutex<BTreeMap<String, SecretBytes>>,
}

impl MemoryStore {
    /// Creates an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Overwrites an entry with `bytes`, as only a program other than a key server would do; returns the former content.
    ///
    /// An entry that is absent is created.
    #[cfg(feature = "contract")]
    pub fn overwrite(&self, name: &EntryName, bytes: &[u8]) -> Option<SecretBytes> {
        self.entries().insert(name.as_str().to_owned(), SecretBytes::from(bytes))
    }

    /// Returns the content of an entry; `None` if it is absent.
    #[cfg(feature = "contract")]
    pub fn bytes(&self, name: &EntryName) -> Option<SecretBytes> {
        self.entries().get(name.as_str()).map(|bytes| SecretBytes::from(bytes.expose()))
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, SecretBytes>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl KeyStore for MemoryStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::in_memory("memory")
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        let mut entries = self.entries();
        if entries.contains_key(name.as_str()) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("create entry '{name}'")));
        }
        entries.insert(name.as_str().to_owned(), SecretBytes::from(record.expose()));
        Ok(())
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        match self.entries().get(name.as_str()) {
            Some(record) => Ok(SecretBytes::from(record.expose())),
            None => Err(Error::new(ErrorKind::NotFound, format!("read entry '{name}'"))),
        }
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        match self.entries().remove(name.as_str()) {
            Some(_) => Ok(()),
            None => Err(Error::new(ErrorKind::NotFound, format!("delete entry '{name}'"))),
        }
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        let start = match query.after {
            Some(after) if after >= query.prefix => Bound::Excluded(after),
            _ => Bound::Included(query.prefix),
        };
        let entries = self.entries();
        let mut names = entries
            .range::<str, _>((start, Bound::Unbounded))
            .map(|(name, _)| name)
            .take_while(|name| name.starts_with(query.prefix))
            .filter_map(|name| KeyName::new(name.as_str()).ok());
        let page = names.by_ref().take(query.limit).collect();
        Ok(Page { names: page, more: names.next().is_some() })
    }

    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        let entries = self.entries();
        let names = entries
            .range::<str, _>((Bound::Included(directory), Bound::Unbounded))
            .map(|(name, _)| name.as_str());
        Ok(next_segments(directory, names))
    }

    async fn status(&self) -> Result<StoreStatus> {
        Ok(StoreStatus::ok(Duration::ZERO))
    }
}
