//! A local directory as a [`KeyStore`] of opaque bytes.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyStore, Notes, StoreCapabilities, next_segments};
use kms_core::{Error, ErrorKind, KeyName, ListQuery, Page, Result, StoreStatus};
use tokio::sync::oneshot;

use crate::database::MAX_VALUE_LEN;
use crate::disk::Lock;
use crate::writer::{Absent, Index, Job, Means, Refusing, Writer};

/// A text between the names of slots, which sort before it, and the names of keys, which sort after it.
const BEFORE_KEYS: &str = "/";

/// A store of bytes in a local directory. It does not encrypt them itself.
///
/// The memory holds all entries as they are on the disk, and some ten bytes more a key. Reads and listings come from
/// there without a system call, and go on while the disk refuses writes. Creates and deletes return when they
/// are on the disk. While the disk refuses writes, they fail with [`ErrorKind::ReadOnly`].
pub struct SledStore {
    index: Arc<Index>,
    // Dropped before the lock. `None` where nothing may be written.
    writer: Option<Writer>,
    _lock: Option<Lock>,
}

impl SledStore {
    pub(crate) fn new(index: Arc<Index>, writer: Option<Writer>, lock: Option<Lock>) -> Self {
        Self { index, writer, _lock: lock }
    }

    /// Returns the number of keys.
    pub fn keys(&self) -> usize {
        let entries = self.index.entries();
        let slots = entries.iter().take_while(|(name, _)| *name <= BEFORE_KEYS);
        entries.len() - slots.count()
    }

    /// Returns why a name that is not found may have been there, if there is a reason.
    ///
    /// A store with such a doubt takes no writes.
    pub fn doubt(&self) -> Option<String> {
        self.index.doubt()
    }

    /// Returns the names whose records are lost.
    pub fn lost(&self) -> Vec<String> {
        let entries = self.index.entries();
        entries.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name.to_owned()).collect()
    }

    /// Returns the names whose records are lost, or are refused by `opens`.
    pub(crate) fn illegible(&self, opens: impl Fn(&str, &[u8]) -> bool) -> Vec<String> {
        let entries = self.index.entries();
        // The entries of roots are not sealed under the store key.
        let sealed = entries.iter().filter(|(name, _)| !name.starts_with(".r/"));
        let bad = sealed.filter(|(name, value)| !value.is_some_and(|value| opens(name, value)));
        bad.map(|(name, _)| name.to_owned()).collect()
    }

    /// Removes an entry for ever, even if its record is lost.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`]: there is no such entry.
    /// - [`ErrorKind::ReadOnly`], [`ErrorKind::DiskFull`]: the store takes no writes at the moment.
    /// - [`ErrorKind::Throttled`]: too many changes wait already.
    pub async fn discard(&self, name: &EntryName) -> Result<()> {
        self.write(name, None, Means::Discard).await
    }

    async fn write(&self, name: &EntryName, value: Option<Box<[u8]>>, means: Means) -> Result<()> {
        let Some(writer) = &self.writer else {
            let Refusing { why, kind } = self.index.read_only().unwrap_or_else(|| Refusing::because(""));
            return Err(Error::with_source(kind, format!("write entry '{name}'"), why));
        };
        let (reply, outcome) = oneshot::channel();
        writer.submit(Job { name: name.as_str().to_owned(), value, means, reply })?;
        let ended =
            || Error::with_source(ErrorKind::Internal, format!("write entry '{name}'"), "the writer ended");
        outcome.await.unwrap_or_else(|_| Err(ended()))
    }
}

/// Returns a record as a value, if it is not too long for one.
fn value_of(doing: &str, name: &EntryName, record: &SecretBytes) -> Result<Box<[u8]>> {
    if record.len() > MAX_VALUE_LEN {
        let why = format!("its record has {} bytes, the most is {MAX_VALUE_LEN}", record.len());
        return Err(Error::with_source(ErrorKind::InvalidInput, format!("{doing} entry '{name}'"), why));
    }
    Ok(record.expose().into())
}

#[async_trait]
impl KeyStore for SledStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::exclusive("fs").reading_at_once()
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        self.write(name, Some(value_of("create", name, record)?), Means::Change).await
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        let corrupt =
            |why: String| Error::with_source(ErrorKind::Corrupt, format!("read entry '{name}'"), why);
        match self.index.get(name.as_str()).await {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(corrupt(
                "its record was damaged in the journal and in the database, and is lost unless a backup has it".to_owned(),
            )),
            Err(Absent { doubt: None }) => Err(Error::new(ErrorKind::NotFound, format!("read entry '{name}'"))),
            Err(Absent { doubt: Some(doubt) }) => {
                Err(corrupt(format!("it is not found, and may have been lost: {doubt}")))
            }
        }
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.write(name, None, Means::Change).await
    }

    async fn replace(&self, name: &EntryName, record: &SecretBytes, _: &Notes<'_>) -> Result<()> {
        self.write(name, Some(value_of("replace", name, record)?), Means::Replace).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        let start = match query.after {
            Some(after) if after >= query.prefix => Bound::Excluded(after),
            _ if query.prefix.is_empty() => Bound::Included(BEFORE_KEYS),
            _ => Bound::Included(query.prefix),
        };
        self.index.compared().await;
        let entries = self.index.entries();
        let mut names = entries
            .from(start)
            .map(|(name, _)| name)
            .take_while(|name| name.starts_with(query.prefix))
            .filter_map(|name| KeyName::new(name).ok()); // a slot's name is no key's name
        let page = names.by_ref().take(query.limit).collect();
        Ok(Page { names: page, more: names.next().is_some() })
    }

    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        self.index.compared().await;
        let entries = self.index.entries();
        Ok(next_segments(directory, entries.from(Bound::Included(directory)).map(|(name, _)| name)))
    }

    async fn status(&self) -> Result<StoreStatus> {
        let began = Instant::now();
        let read_only = self.index.read_only().map(|refusing| format!("read-only: {}", refusing.why));
        let lost = Some(self.index.entries().lost()).filter(|lost| *lost > 0);
        let lost = lost.map(|lost| format!("the records of {lost} keys are lost, see 'kms check'"));
        let status = StoreStatus::ok(began.elapsed());
        let amiss: Vec<String> = read_only.into_iter().chain(lost).collect();
        Ok(if amiss.is_empty() { status } else { status.degraded(amiss.join("; ")) })
    }
}
