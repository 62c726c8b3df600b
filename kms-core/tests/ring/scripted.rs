//! A mock of a store that fails, hangs and changes at a chosen moment, since no real store does so on demand.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kms_core::primitives::{Cipher, SecretBytes, SecretKey};
use kms_core::store::{EntryName, KeyRecord, KeyStore, MemoryStore, StoreCapabilities};
use kms_core::{
    CacheConfig, DataKey, Error, ErrorKind, Identity, KeyName, KeyRing, Kms, ListQuery, Page, Request,
    Result, StoreStatus,
};
use tokio::sync::Semaphore;

pub const SECOND: Duration = Duration::from_secs(1);
pub const LONG: CacheConfig = CacheConfig::new()
    .with_any(Duration::from_secs(600))
    .with_unused(Duration::from_secs(600))
    .with_offline(Duration::ZERO)
    .with_ping(Duration::from_millis(200));

/// A memory store that follows a script.
pub struct Scripted {
    pub inner: MemoryStore,
    failure: Mutex<Option<ErrorKind>>,
    gate: Semaphore,
    blocked: Mutex<Block>,
    reads: AtomicU64,
    hidden_reads: AtomicU64,
    /// The path of entries that belong to keys is denied.
    pub denies_hidden: AtomicBool,
    /// The path of markers is denied.
    pub denies_markers: AtomicBool,
    /// The path of entries with this prefix is denied.
    pub denies_name: Mutex<Option<String>>,
    /// The create of this entry waits for a permit of `go`.
    pub before_create: Mutex<Option<EntryName>>,
    pub go: Semaphore,
    /// This entry was deleted in the way of the backend: it does not read, and cannot be created.
    pub soft_deleted: Mutex<Option<EntryName>>,
    at_once: AtomicUsize,
    pub most_at_once: AtomicUsize,
    pub created: Mutex<BTreeSet<EntryName>>,
    pub creates_that_fail: AtomicUsize,
    pub creates_that_write_and_fail: AtomicUsize,
    /// The entry that another record replaces right after its create.
    pub replaces: Mutex<Option<EntryName>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Block {
    No,
    BeforeReading,
    AfterReading,
}

impl Scripted {
    pub fn fail(&self, kind: ErrorKind) {
        *self.failure.lock().unwrap() = Some(kind);
    }

    pub fn heal(&self) {
        *self.failure.lock().unwrap() = None;
    }

    pub fn block(&self) {
        *self.blocked.lock().unwrap() = Block::BeforeReading;
    }

    pub fn block_after_reading(&self) {
        *self.blocked.lock().unwrap() = Block::AfterReading;
    }

    /// Lets later operations pass, while those that hang go on hanging.
    pub fn let_later_ones_pass(&self) {
        *self.blocked.lock().unwrap() = Block::No;
    }

    pub fn release(&self) {
        *self.blocked.lock().unwrap() = Block::No;
        self.gate.add_permits(100_000);
    }

    /// Returns how many reads of keys there were, without those of what belongs to keys.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Returns how many reads there were of what belongs to keys.
    pub fn hidden_reads(&self) -> u64 {
        self.hidden_reads.load(Ordering::Relaxed)
    }

    pub async fn until_reads(&self, count: u64) {
        until(|| async { self.reads() >= count }).await;
    }

    pub async fn put(&self, name: &KeyName) -> SecretKey {
        let key = SecretKey::random().unwrap();
        let copy = SecretKey::from_slice(key.expose()).unwrap();
        let record = KeyRecord::new(key, Cipher::Aes256, "another server").unwrap();
        self.inner.create(&EntryName::from(name), &record.encode()).await.unwrap();
        copy
    }

    fn denies(&self, name: &EntryName) -> bool {
        let is_marker = name.is_hidden() && !name.as_str().starts_with(".v/");
        (name.is_hidden() && self.denies_hidden.load(Ordering::Relaxed))
            || (is_marker && self.denies_markers.load(Ordering::Relaxed))
            || self
                .denies_name
                .lock()
                .unwrap()
                .as_ref()
                .is_some_and(|p| name.as_str().starts_with(p.as_str()))
    }

    fn outcome(&self) -> Result<()> {
        match *self.failure.lock().unwrap() {
            Some(kind) => Err(Error::new(kind, "do as told")),
            None => Ok(()),
        }
    }

    async fn wait(&self, when: Block) {
        let blocked = *self.blocked.lock().unwrap();
        if blocked == when {
            self.gate.acquire().await.unwrap().forget();
        }
    }
}

#[async_trait]
impl KeyStore for Scripted {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::shared("scripted")
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        if self.denies(name) {
            return Err(Error::new(ErrorKind::Denied, "create what belongs to a key"));
        }
        let waits = self.before_create.lock().unwrap().as_ref() == Some(name);
        if waits {
            self.go.acquire().await.unwrap().forget();
        }
        if self.soft_deleted.lock().unwrap().as_ref() == Some(name) {
            return Err(Error::new(ErrorKind::AlreadyExists, "create what was deleted in the backend"));
        }
        if take(&self.creates_that_fail) {
            return Err(Error::new(ErrorKind::Unreachable, "fail before writing"));
        }
        self.inner.create(name, record).await?;
        assert!(self.created.lock().unwrap().insert(name.clone()), "'{name}' was sent twice");
        let replaced = self.replaces.lock().unwrap().as_ref() == Some(name);
        if replaced {
            self.inner.delete(name).await?;
            self.inner.create(name, &SecretBytes::from(b"another record".as_slice())).await?;
        }
        if take(&self.creates_that_write_and_fail) {
            return Err(Error::new(ErrorKind::Timeout, "fail after writing"));
        }
        Ok(())
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        let reads = if name.is_hidden() { &self.hidden_reads } else { &self.reads };
        reads.fetch_add(1, Ordering::Relaxed);
        let at_once = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        self.wait(Block::BeforeReading).await;
        let outcome = match self.outcome() {
            Ok(()) if self.denies(name) => Err(Error::new(ErrorKind::Denied, "read what belongs to a key")),
            Ok(()) => self.inner.get(name).await,
            Err(error) => Err(error),
        };
        self.wait(Block::AfterReading).await;
        self.at_once.fetch_sub(1, Ordering::Relaxed);
        outcome
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.outcome()?;
        if self.denies(name) {
            return Err(Error::new(ErrorKind::Denied, "delete what belongs to a key"));
        }
        self.inner.delete(name).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.outcome()?;
        self.inner.list(query).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.wait(Block::BeforeReading).await;
        self.outcome()?;
        self.inner.status().await
    }
}

fn take(counter: &AtomicUsize) -> bool {
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// Creates a ring over a scripted store with one key that the ring has not read.
pub async fn ring(config: CacheConfig) -> (Arc<Scripted>, Arc<KeyRing<Arc<Scripted>>>) {
    let store = Arc::new(Scripted {
        inner: MemoryStore::new(),
        failure: Mutex::default(),
        gate: Semaphore::new(0),
        blocked: Mutex::new(Block::No),
        reads: AtomicU64::new(0),
        hidden_reads: AtomicU64::new(0),
        denies_hidden: AtomicBool::new(false),
        denies_markers: AtomicBool::new(false),
        denies_name: Mutex::default(),
        before_create: Mutex::default(),
        soft_deleted: Mutex::default(),
        go: Semaphore::new(0),
        at_once: AtomicUsize::new(0),
        most_at_once: AtomicUsize::new(0),
        created: Mutex::default(),
        creates_that_fail: AtomicUsize::new(0),
        creates_that_write_and_fail: AtomicUsize::new(0),
        replaces: Mutex::default(),
    });
    store.put(&name()).await;
    (Arc::clone(&store), Arc::new(KeyRing::new(store, config)))
}

pub fn generate(
    kms: &Arc<KeyRing<Arc<Scripted>>>,
    client: &str,
) -> impl Future<Output = Result<DataKey>> + Send + 'static {
    let (kms, request) = (Arc::clone(kms), request(client));
    async move { kms.generate(&request, &name(), b"").await }
}

pub fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind())
}

pub async fn until<F: Future<Output = bool>>(mut reached: impl FnMut() -> F) {
    let began = Instant::now();
    while !reached().await {
        assert!(began.elapsed() < Duration::from_secs(10), "that did not happen within 10 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn name() -> KeyName {
    KeyName::new("my-key").unwrap()
}

pub fn request(client: &str) -> Request {
    Request::new(Identity::of_public_key(client.as_bytes()), Duration::from_secs(5))
}
