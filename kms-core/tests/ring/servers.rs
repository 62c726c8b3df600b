//! Several servers over one store in memory, some of which die.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kms_core::primitives::{Fingerprint, SecretBytes};
use kms_core::store::{EntryName, KeyStore, MemoryStore, StoreCapabilities};
use kms_core::{
    CacheConfig, Error, ErrorKind, KeyRing, Kms, ListQuery, Page, Purge, Purged, Result, StoreStatus,
};

use super::scripted::{LONG, name, request};

pub const ANY: Duration = Duration::from_millis(60);
pub const GRACE: Duration = Duration::from_secs(3600);
pub const SHORT: CacheConfig = LONG.with_any(ANY);
pub const NOW: Purge = Purge { fingerprint: None, now: true, resume: false };
pub const RESUME: Purge = Purge { fingerprint: None, now: true, resume: true };

/// A server's way to a store that others use, too. It ends after some writes, as if the server were killed.
pub struct Way {
    pub store: Arc<MemoryStore>,
    pub writes_left: AtomicUsize,
    pub denied: Mutex<Option<(String, ErrorKind)>>,
}

impl Way {
    fn check(&self, name: &EntryName) -> Result<()> {
        match &*self.denied.lock().unwrap() {
            Some((prefix, kind)) if name.as_str().starts_with(prefix.as_str()) => {
                Err(Error::new(*kind, format!("touch '{name}'")))
            }
            _ => Ok(()),
        }
    }

    fn write(&self) -> Result<()> {
        let left =
            self.writes_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| Error::new(ErrorKind::Unreachable, "write after the server was killed"))
    }
}

#[async_trait]
impl KeyStore for Way {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::shared("memory of several servers")
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        self.check(name)?;
        self.write()?;
        tokio::task::yield_now().await;
        self.store.create(name, record).await
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        self.check(name)?;
        tokio::task::yield_now().await;
        self.store.get(name).await
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.check(name)?;
        self.store.get(name).await?;
        self.write()?;
        tokio::task::yield_now().await;
        self.store.delete(name).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.store.list(query).await
    }

    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        self.check(&EntryName::deleted(&name(), &Fingerprint::from_bytes([0; 16])))?;
        self.store.segments(directory).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.store.status().await
    }
}

pub type Ring = KeyRing<Arc<Way>>;

pub fn server_that_dies_after(store: &Arc<MemoryStore>, writes: usize) -> Ring {
    let way =
        Way { store: Arc::clone(store), writes_left: AtomicUsize::new(writes), denied: Mutex::default() };
    KeyRing::keeping_deleted(Arc::new(way), SHORT, GRACE)
}

pub fn server(store: &Arc<MemoryStore>) -> Ring {
    server_that_dies_after(store, usize::MAX)
}

pub async fn create(ring: &Ring) -> Fingerprint {
    ring.create(&request("client"), &name()).await.unwrap();
    ring.describe(&request("client"), &name()).await.unwrap().fingerprint.unwrap()
}

pub async fn seal(ring: &Ring) -> Vec<u8> {
    ring.encrypt(&request("client"), &name(), b"text", b"c").await.unwrap()
}

pub async fn open(ring: &Ring, ciphertext: &[u8]) -> Result<SecretBytes> {
    ring.decrypt(&request("client"), &name(), ciphertext, b"c").await
}

pub async fn delete(ring: &Ring) -> Result<()> {
    ring.delete(&request("operator"), &name()).await.map(|deletion| {
        assert!(deletion.is_restorable && deletion.until.is_some());
    })
}

pub async fn restore(ring: &Ring) -> Result<()> {
    ring.restore(&request("operator"), &name(), false).await
}

pub async fn purge(ring: &Ring, purge: &Purge) -> Result<Purged> {
    ring.purge(&request("operator"), &name(), purge).await
}

/// Waits until every server has seen what the others did.
pub async fn seen() {
    tokio::time::sleep(ANY + Duration::from_millis(20)).await;
}

pub async fn rotate(ring: &Ring, times: usize) {
    for _ in 0..times {
        ring.rotate(&request("operator"), &name(), None).await.unwrap();
    }
    seen().await;
}

/// Returns the names of all entries that belong to keys.
pub async fn left(store: &MemoryStore) -> Vec<String> {
    let mut left = Vec::new();
    for directory in [".v/", ".x/", ".d/", ".p/"] {
        for name in store.segments(directory).await.unwrap() {
            for fingerprint in store.segments(&format!("{directory}{name}/")).await.unwrap() {
                left.push(format!("{directory}{name}/{fingerprint}"));
            }
        }
    }
    left
}

pub fn why(outcome: Result<impl Sized>) -> String {
    outcome.err().map(|error| error.chain().to_string()).unwrap()
}

pub fn hex(fingerprint: &Fingerprint) -> String {
    format!("{fingerprint:?}")
}
