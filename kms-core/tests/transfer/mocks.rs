//! Mocks of stores that deny, or whose process ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyStore, MemoryStore, StoreCapabilities};
use kms_core::{Error, ErrorKind, ListQuery, Page, Result, StoreStatus};

/// A mock of a store that denies the paths that begin so.
pub struct Denying {
    pub store: Arc<MemoryStore>,
    pub denied: &'static str,
}

#[async_trait]
impl KeyStore for Denying {
    fn capabilities(&self) -> StoreCapabilities {
        self.store.capabilities()
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        self.store.create(name, record).await
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        if name.as_str().starts_with(self.denied) {
            return Err(Error::new(ErrorKind::Denied, format!("read entry '{name}'")));
        }
        self.store.get(name).await
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.store.delete(name).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.store.list(query).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.store.status().await
    }
}

/// A mock of a store whose process ends: the first creates are kept, and then every write fails.
pub struct CutOff {
    pub store: Arc<MemoryStore>,
    creates: AtomicUsize,
    pub kept: usize,
    /// Whether the create that fails first is kept all the same.
    pub is_kept: bool,
}

impl CutOff {
    pub fn after_creates(store: Arc<MemoryStore>, kept: usize) -> Self {
        Self { store, creates: AtomicUsize::new(0), kept, is_kept: false }
    }

    fn cut_off() -> Error {
        Error::new(ErrorKind::ReadOnly, "write an entry after the end")
    }
}

#[async_trait]
impl KeyStore for CutOff {
    fn capabilities(&self) -> StoreCapabilities {
        self.store.capabilities()
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        let before = self.creates.fetch_add(1, Ordering::SeqCst);
        if before < self.kept || (before == self.kept && self.is_kept) {
            self.store.create(name, record).await?;
        }
        if before < self.kept { Ok(()) } else { Err(Self::cut_off()) }
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        self.store.get(name).await
    }

    async fn delete(&self, _: &EntryName) -> Result<()> {
        Err(Self::cut_off())
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.store.list(query).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.store.status().await
    }
}
