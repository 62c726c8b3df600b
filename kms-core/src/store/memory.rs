//! A key store in memory, for tests and for servers that keep nothing.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures_core::Stream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::changes::{Change, Changes};
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
    /// Who is told of changes. `None` if the store notes no removals and tells nobody.
    listeners: Option<Listeners>,
}

type Listeners = Mutex<Vec<UnboundedSender<Change>>>;

impl MemoryStore {
    /// Creates an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an empty store that several servers share: it notes removals, and tells each of them the changes of all.
    ///
    /// This is for tests of what a store does that other processes use, too.
    #[cfg(any(test, feature = "contract"))]
    pub fn noting() -> Self {
        Self { listeners: Some(Mutex::default()), ..Self::default() }
    }

    /// Removes an entry without a note and without a notice, as a store does that loses what it acknowledged.
    #[cfg(any(test, feature = "contract"))]
    pub fn lose(&self, name: &EntryName) -> Option<SecretBytes> {
        self.entries().remove(name.as_str())
    }

    /// Tells all listeners that changes may have been missed.
    #[cfg(any(test, feature = "contract"))]
    pub fn tell_missed(&self) {
        self.tell(&Change::Missed);
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

    /// Tells all listeners a change.
    fn tell(&self, change: &Change) {
        if let Some(listeners) = &self.listeners {
            let mut listeners = listeners.lock().unwrap_or_else(PoisonError::into_inner);
            listeners.retain(|listener| listener.send(change.clone()).is_ok());
        }
    }

    /// Tells all listeners that an entry came or went, if it changes what a key is that others have in memory.
    fn tell_of(&self, entry: &EntryName, is_new: bool) {
        if let Some(name) = changed_by(entry, is_new).filter(|_| self.listeners.is_some()) {
            self.tell(&Change::Key(name));
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, SecretBytes>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl KeyStore for MemoryStore {
    fn capabilities(&self) -> StoreCapabilities {
        let memory = StoreCapabilities::in_memory("memory");
        if self.listeners.is_none() {
            return memory;
        }
        StoreCapabilities { sole_writer: false, ..memory.noting_removals() }
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        let mut entries = self.entries();
        if entries.contains_key(name.as_str()) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("create entry '{name}'")));
        }
        entries.insert(name.as_str().to_owned(), SecretBytes::from(record.expose()));
        drop(entries);
        self.tell_of(name, true);
        Ok(())
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        match self.entries().get(name.as_str()) {
            Some(record) => Ok(SecretBytes::from(record.expose())),
            None => Err(Error::new(ErrorKind::NotFound, format!("read entry '{name}'"))),
        }
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        if self.entries().remove(name.as_str()).is_none() {
            return Err(Error::new(ErrorKind::NotFound, format!("delete entry '{name}'")));
        }
        self.tell_of(name, false);
        Ok(())
    }

    async fn remove(&self, name: &EntryName, gone: &EntryName, record: &SecretBytes) -> Result<()> {
        if self.listeners.is_none() {
            return self.erase(name).await;
        }
        let mut entries = self.entries();
        if entries.remove(name.as_str()).is_none() {
            return Err(Error::new(ErrorKind::NotFound, format!("remove entry '{name}'")));
        }
        entries.insert(gone.as_str().to_owned(), SecretBytes::from(record.expose()));
        drop(entries);
        self.tell_of(name, false);
        Ok(())
    }

    async fn bring_back(&self, name: &EntryName, record: &SecretBytes, gone: &EntryName) -> Result<()> {
        let mut entries = self.entries();
        if entries.contains_key(name.as_str()) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("create entry '{name}'")));
        }
        entries.insert(name.as_str().to_owned(), SecretBytes::from(record.expose()));
        entries.remove(gone.as_str());
        Ok(())
    }

    fn changes(&self) -> Option<Changes> {
        let (sender, receiver) = unbounded_channel();
        self.listeners.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        Some(Box::pin(Told(receiver)))
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

/// The changes that a listener is told.
struct Told(UnboundedReceiver<Change>);

impl Stream for Told {
    type Item = Change;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Change>> {
        self.0.poll_recv(context)
    }
}

/// Returns the key that changes for those who have it in memory. That a key or a version was made changes nothing for them.
fn changed_by(entry: &EntryName, is_new: bool) -> Option<KeyName> {
    let name = match entry.as_str().split_once('/') {
        None if is_new => return None,
        None => entry.as_str(),
        Some((".d" | ".x" | ".p", rest)) => rest.split('/').next()?,
        Some(_) => return None,
    };
    KeyName::new(name).ok()
}
