//! The entries of the store behind a key ring, for who reads a key with all that belongs to it.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use super::backend::Backend;
use super::policy::CALL_TIMEOUT;
use crate::error::{Error, ErrorKind, Result};
use crate::listing::{ListQuery, Page};
use crate::primitives::SecretBytes;
use crate::status::StoreStatus;
use crate::store::{EntryName, KeyStore, StoreCapabilities};

/// A store that only reads. Each read has a deadline of its own, since a key may have a thousand versions, and tells the key
/// ring whether the store is away.
pub struct Entries<S>(Arc<Backend<S>>);

impl<S> Entries<S> {
    /// Creates the store of the entries of `backend`.
    pub fn of(backend: &Arc<Backend<S>>) -> Self {
        Self(Arc::clone(backend))
    }
}

/// Returns the error of a write, which no reader makes.
fn read_only(what: &str, name: &EntryName) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{what} entry '{name}' while a key is read"))
}

#[async_trait]
impl<S: KeyStore> KeyStore for Entries<S> {
    fn capabilities(&self) -> StoreCapabilities {
        self.0.store.capabilities()
    }

    async fn create(&self, name: &EntryName, _: &SecretBytes) -> Result<()> {
        Err(read_only("create", name))
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        self.0.watched(Instant::now() + CALL_TIMEOUT, self.0.store.get(name)).await
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        Err(read_only("delete", name))
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.0.list_until(query, Instant::now() + CALL_TIMEOUT).await
    }

    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        self.0.watched(Instant::now() + CALL_TIMEOUT, self.0.store.segments(directory)).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.0.status().await
    }

    fn place(&self, name: &EntryName) -> String {
        self.0.store.place(name)
    }
}
