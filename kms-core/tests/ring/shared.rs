//! Servers over one store that notes removals and tells changes, and a way to it that fails.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kms_core::primitives::{Cipher, Fingerprint, SecretBytes, SecretKey};
use kms_core::store::{Changes, EntryName, KeyStore, MemoryStore, StoreCapabilities};
use kms_core::{
    CacheConfig, Error, ErrorKind, ImportedKey, KeyRing, Kms, ListQuery, Page, Result, StoreStatus,
};

use super::scripted::{name, request};

/// A mock of a way to a shared store: reads of some entries and creates fail, and notices may not arrive.
pub struct Way {
    pub store: Arc<MemoryStore>,
    pub fails: Mutex<Option<(&'static str, ErrorKind)>>,
    pub creates_fail: Mutex<Option<ErrorKind>>,
    pub is_deaf: bool,
    pub reads: AtomicUsize,
    pub takes: Mutex<Duration>,
    /// Whether a replica answers, which says of nothing that it is absent.
    pub is_replica: AtomicBool,
}

#[async_trait]
impl KeyStore for Way {
    fn capabilities(&self) -> StoreCapabilities {
        let mut capabilities = self.store.capabilities();
        capabilities.reads_at_once = false;
        capabilities
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        if let Some(kind) = *self.creates_fail.lock().unwrap() {
            return Err(Error::new(kind, format!("create '{name}'")));
        }
        self.store.create(name, record).await
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        self.reads.fetch_add(usize::from(!name.is_hidden()), Ordering::SeqCst);
        let takes = *self.takes.lock().unwrap();
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        match *self.fails.lock().unwrap() {
            Some((prefix, kind)) if name.as_str().starts_with(prefix) => {
                return Err(Error::new(kind, format!("read '{name}'")));
            }
            _ => {}
        }
        match self.store.get(name).await {
            Err(error) if error.kind() == ErrorKind::NotFound && self.is_replica.load(Ordering::SeqCst) => {
                Err(Error::new(ErrorKind::Behind, format!("read '{name}'")))
            }
            read => read,
        }
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.store.delete(name).await
    }

    async fn remove(&self, name: &EntryName, gone: &EntryName, record: &SecretBytes) -> Result<()> {
        self.store.remove(name, gone, record).await
    }

    async fn bring_back(&self, name: &EntryName, record: &SecretBytes, gone: &EntryName) -> Result<()> {
        self.store.bring_back(name, record, gone).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.store.list(query).await
    }

    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        self.store.segments(directory).await
    }

    fn changes(&self) -> Option<Changes> {
        if self.is_deaf { None } else { self.store.changes() }
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.store.status().await
    }
}

pub type Ring = Arc<KeyRing<Arc<Way>>>;

fn way(store: &Arc<MemoryStore>, is_deaf: bool) -> Arc<Way> {
    Arc::new(Way {
        store: Arc::clone(store),
        fails: Mutex::default(),
        creates_fail: Mutex::default(),
        is_deaf,
        reads: AtomicUsize::new(0),
        takes: Mutex::default(),
        is_replica: AtomicBool::default(),
    })
}

/// Creates a server that hears of changes.
pub fn server(store: &Arc<MemoryStore>, config: CacheConfig, grace: Duration) -> Ring {
    Arc::new(KeyRing::keeping_deleted(way(store, false), config, grace))
}

/// Creates a server that hears of no change, and deletes keys for ever.
pub fn deaf(store: &Arc<MemoryStore>, config: CacheConfig) -> Ring {
    Arc::new(KeyRing::new(way(store, true), config))
}

pub async fn create(ring: &Ring) -> Fingerprint {
    ring.create(&request("client"), &name()).await.unwrap();
    fingerprint(ring).await.unwrap()
}

pub async fn fingerprint(ring: &Ring) -> Result<Fingerprint> {
    ring.describe(&request("client"), &name()).await.map(|key| key.fingerprint.unwrap())
}

pub async fn seal(ring: &Ring) -> Result<Vec<u8>> {
    ring.encrypt(&request("client"), &name(), b"text", b"c").await
}

pub async fn open(ring: &Ring, ciphertext: &[u8]) -> Result<SecretBytes> {
    ring.decrypt(&request("client"), &name(), ciphertext, b"c").await
}

pub async fn import(ring: &Ring, byte: u8) -> Result<()> {
    let key = ImportedKey::new(SecretKey::take(&mut [byte; 32]), Cipher::Aes256);
    ring.import(&request("operator"), &name(), key).await
}

pub async fn delete(ring: &Ring) -> Result<()> {
    ring.delete(&request("operator"), &name()).await.map(drop)
}

pub async fn restore(ring: &Ring) -> Result<()> {
    ring.restore(&request("operator"), &name(), false).await
}

pub async fn amiss(ring: &Ring) -> String {
    ring.status().await.unwrap().degraded.unwrap_or_default()
}

pub fn entry() -> EntryName {
    EntryName::from(&name())
}

/// Waits until something is so, and returns how long that took. Fails after five seconds.
pub async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !reached().await {
        assert!(began.elapsed() < Duration::from_secs(5), "not reached: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    began.elapsed()
}
