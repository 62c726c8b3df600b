//! The local directory as a [`KeyStore`] of opaque bytes.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use kms_core::{
    EntryName, Error, ErrorKind, KeyName, KeyStore, ListQuery, Page, Result, SecretBytes, StoreCapabilities,
    StoreStatus,
};
use tokio::sync::oneshot;

use crate::engine::MAX_VALUE_LEN;
use crate::lock::Lock;
use crate::writer::{Index, Job, Writer};

/// What the names of keys come after; those of slots come before.
const BEFORE_KEYS: &str = "/";

/// A store of bytes in a local directory; by itself it encrypts nothing.
///
/// All entries are in memory, as they are on the disk: some 400 bytes a key. Reads and listings are served from there,
/// without a system call, and go on while the disk refuses writes. Creates and deletes return when they
/// are on the disk; while it refuses, they fail as `ReadOnly`.
pub struct SledStore {
    index: Arc<Index>,
    // Ended before the lock is given back.
    writer: Writer,
    _lock: Lock,
}

impl SledStore {
    pub(crate) fn new(index: Arc<Index>, writer: Writer, lock: Lock) -> Self {
        Self { index, writer, _lock: lock }
    }

    /// Returns the number of keys.
    pub fn keys(&self) -> usize {
        let entries = self.index.entries();
        let slots = entries.range::<str, _>((Bound::Unbounded, Bound::Included(BEFORE_KEYS)));
        entries.len() - slots.count()
    }

    async fn write(&self, name: &EntryName, value: Option<Box<[u8]>>) -> Result<()> {
        let (reply, outcome) = oneshot::channel();
        self.writer.submit(Job { name: name.as_str().to_owned(), value, reply })?;
        let ended =
            || Error::with_source(ErrorKind::Internal, format!("write entry '{name}'"), "the writer ended");
        outcome.await.unwrap_or_else(|_| Err(ended()))
    }
}

#[async_trait]
impl KeyStore for SledStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::exclusive("fs")
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        if record.len() > MAX_VALUE_LEN {
            let why = format!("its record has {} bytes, the most is {MAX_VALUE_LEN}", record.len());
            return Err(Error::with_source(ErrorKind::InvalidInput, format!("create entry '{name}'"), why));
        }
        self.write(name, Some(record.expose().into())).await
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        match self.index.entries().get(name.as_str()) {
            Some(value) => Ok(SecretBytes::from(value.as_ref())),
            None => Err(Error::new(ErrorKind::NotFound, format!("read entry '{name}'"))),
        }
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.write(name, None).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        let start = match query.after {
            Some(after) if after >= query.prefix => Bound::Excluded(after),
            _ if query.prefix.is_empty() => Bound::Included(BEFORE_KEYS),
            _ => Bound::Included(query.prefix),
        };
        let entries = self.index.entries();
        let mut names = entries
            .range::<str, _>((start, Bound::Unbounded))
            .map(|(name, _)| name)
            .take_while(|name| name.starts_with(query.prefix))
            .filter_map(|name| KeyName::new(name.as_str()).ok()); // a slot's name is no key's name
        let page = names.by_ref().take(query.limit).collect();
        Ok(Page { names: page, more: names.next().is_some() })
    }

    async fn status(&self) -> Result<StoreStatus> {
        let began = Instant::now();
        let read_only = self.index.read_only();
        let status = StoreStatus::ok(began.elapsed());
        Ok(match read_only {
            None => status,
            Some(why) => status.degraded(format!("read-only: {why}")),
        })
    }
}
