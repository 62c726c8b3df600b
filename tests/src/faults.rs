//! A key store that fails on demand.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyStore, MemoryStore, StoreCapabilities};
use kms_core::{Error, ErrorKind, ListQuery, Page, Result, StoreStatus};
use tokio::sync::watch;

/// A store in memory that fails or hangs when the test says so.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<MemoryStore>,
    fault: Arc<Mutex<Option<ErrorKind>>>,
    gate: Arc<watch::Sender<bool>>,
    waiting: Arc<watch::Sender<usize>>,
    statuses: Arc<AtomicUsize>,
}

impl FaultyStore {
    /// Creates an empty store that works.
    pub fn new() -> Self {
        Self {
            inner: Arc::default(),
            fault: Arc::default(),
            gate: Arc::new(watch::Sender::new(true)),
            waiting: Arc::new(watch::Sender::new(0)),
            statuses: Arc::default(),
        }
    }

    /// Makes every operation fail with this kind from now on. `None` makes them work again.
    pub fn fail(&self, kind: Option<ErrorKind>) {
        *self.fault.lock().unwrap() = kind;
    }

    /// Makes every operation hang until [`resume`](Self::resume).
    pub fn hang(&self) {
        self.gate.send_replace(false);
    }

    /// Lets operations that hang go on.
    pub fn resume(&self) {
        self.gate.send_replace(true);
    }

    /// Waits until `count` operations hang.
    pub async fn wait_for_waiting(&self, count: usize) {
        self.waiting.subscribe().wait_for(|waiting| *waiting >= count).await.unwrap();
    }

    /// Returns how often the status of the store was read.
    pub fn statuses(&self) -> usize {
        self.statuses.load(Ordering::Relaxed)
    }

    /// Stores a record without the server.
    pub async fn put(&self, name: &EntryName, record: &[u8]) {
        self.inner.create(name, &SecretBytes::from(record)).await.unwrap();
    }

    async fn pass(&self, operation: &str) -> Result<()> {
        if !*self.gate.borrow() {
            self.waiting.send_modify(|waiting| *waiting += 1);
        }
        self.gate.subscribe().wait_for(|open| *open).await.unwrap();
        match *self.fault.lock().unwrap() {
            None => Ok(()),
            Some(kind) => Err(Error::with_source(kind, operation, "secret detail of the backend")),
        }
    }
}

impl Default for FaultyStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl KeyStore for FaultyStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::shared("faulty")
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        self.pass("create an entry").await?;
        self.inner.create(name, record).await
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        self.pass("read an entry").await?;
        self.inner.get(name).await
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.pass("delete an entry").await?;
        self.inner.delete(name).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.pass("list entries").await?;
        self.inner.list(query).await
    }

    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        self.pass("list markers").await?;
        self.inner.segments(directory).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.statuses.fetch_add(1, Ordering::Relaxed);
        // Vault answers questions about its health even if its policy denies everything else.
        if *self.fault.lock().unwrap() == Some(ErrorKind::Denied) {
            return self.inner.status().await;
        }
        self.pass("ask for the status").await?;
        self.inner.status().await
    }
}
