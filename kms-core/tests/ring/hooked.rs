//! A way to a store that stops at a chosen moment, and what clients and operators ask.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kms_core::primitives::{Cipher, Fingerprint, SecretBytes, SecretKey};
use kms_core::store::{EntryName, KeyStore, MemoryStore, StoreCapabilities};
use kms_core::{Error, ErrorKind, ImportedKey, KeyRing, Kms, ListQuery, Page, Purge, Result, StoreStatus};
use tokio::sync::Semaphore;

use super::scripted::{LONG, name, request};
use super::servers::{ANY, GRACE, NOW};

/// The moment at which an operation waits.
#[derive(Clone, Copy, PartialEq)]
pub enum At {
    BeforeGet,
    AfterGet,
    BeforeCreate,
    BeforeDelete,
}

pub struct Hook {
    at: At,
    prefix: String,
    reached: Arc<Semaphore>,
    go: Arc<Semaphore>,
}

/// A mock of a way to a store that stops once at a chosen moment.
pub struct Hooked {
    pub store: Arc<MemoryStore>,
    pub hooks: Mutex<Vec<Hook>>,
    /// The login loses its rights at the delete of a key.
    pub denies_from_delete: AtomicBool,
    pub denies_all: AtomicBool,
    pub fails_reads: Mutex<Option<(String, ErrorKind)>>,
    pub fails_creates: Mutex<Option<ErrorKind>>,
}

impl Hooked {
    pub fn hook(&self, at: At, prefix: &str) -> (Arc<Semaphore>, Arc<Semaphore>) {
        let (reached, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        self.hooks.lock().unwrap().push(Hook {
            at,
            prefix: prefix.into(),
            reached: Arc::clone(&reached),
            go: Arc::clone(&go),
        });
        (reached, go)
    }
    async fn at(&self, at: At, entry: &EntryName) {
        let hook = {
            let mut hooks = self.hooks.lock().unwrap();
            let found = hooks.iter().position(|h| h.at == at && entry.as_str().starts_with(&h.prefix));
            found.map(|i| hooks.remove(i))
        };
        if let Some(hook) = hook {
            hook.reached.add_permits(1);
            hook.go.acquire().await.unwrap().forget();
        }
    }
    fn check(&self, entry: &EntryName) -> Result<()> {
        if self.denies_all.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Denied, format!("touch {entry}")));
        }
        Ok(())
    }
}

#[async_trait]
impl KeyStore for Hooked {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::shared("hooked")
    }
    async fn create(&self, n: &EntryName, r: &SecretBytes) -> Result<()> {
        self.at(At::BeforeCreate, n).await;
        self.check(n)?;
        if let Some(kind) = *self.fails_creates.lock().unwrap() {
            return Err(Error::new(kind, "Vault answered 500"));
        }
        self.store.create(n, r).await
    }
    async fn get(&self, n: &EntryName) -> Result<SecretBytes> {
        self.at(At::BeforeGet, n).await;
        self.check(n)?;
        if let Some((p, k)) = &*self.fails_reads.lock().unwrap()
            && n.as_str().starts_with(p.as_str())
        {
            return Err(Error::new(*k, format!("read {n}")));
        }
        let r = self.store.get(n).await;
        self.at(At::AfterGet, n).await;
        r
    }
    async fn delete(&self, n: &EntryName) -> Result<()> {
        self.at(At::BeforeDelete, n).await;
        if self.denies_from_delete.load(Ordering::SeqCst) && !n.is_hidden() {
            self.denies_all.store(true, Ordering::SeqCst);
        }
        self.check(n)?;
        self.store.delete(n).await
    }
    async fn list(&self, q: &ListQuery<'_>) -> Result<Page> {
        self.store.list(q).await
    }
    async fn segments(&self, d: &str) -> Result<Vec<String>> {
        self.store.segments(d).await
    }
    async fn status(&self) -> Result<StoreStatus> {
        self.store.status().await
    }
}

pub type Ring = Arc<KeyRing<Arc<Hooked>>>;

fn hooked(store: &Arc<MemoryStore>) -> Arc<Hooked> {
    Arc::new(Hooked {
        store: Arc::clone(store),
        hooks: Mutex::default(),
        denies_from_delete: AtomicBool::new(false),
        denies_all: AtomicBool::new(false),
        fails_reads: Mutex::default(),
        fails_creates: Mutex::default(),
    })
}

pub fn ring_with(store: &Arc<MemoryStore>, any: Duration) -> Ring {
    Arc::new(KeyRing::keeping_deleted(hooked(store), LONG.with_any(any), GRACE))
}

pub fn without_grace(store: &Arc<MemoryStore>) -> Ring {
    Arc::new(KeyRing::new(hooked(store), LONG.with_any(ANY)))
}

/// Creates a server that keeps deleted keys for `grace`.
pub fn with_grace(store: &Arc<MemoryStore>, grace: Duration) -> Ring {
    Arc::new(KeyRing::keeping_deleted(hooked(store), LONG.with_any(ANY), grace))
}

pub fn ring(store: &Arc<MemoryStore>) -> Ring {
    ring_with(store, ANY)
}
pub async fn reached(s: &Semaphore) {
    tokio::time::timeout(Duration::from_secs(5), s.acquire())
        .await
        .expect("the hook is reached")
        .unwrap()
        .forget();
}
pub async fn create(r: &Ring) -> Fingerprint {
    r.create(&request("c"), &name()).await.unwrap();
    r.describe(&request("c"), &name()).await.unwrap().fingerprint.unwrap()
}
pub async fn seal(r: &Ring) -> Result<Vec<u8>> {
    r.encrypt(&request("c"), &name(), b"text", b"c").await
}
pub async fn open(r: &Ring, c: &[u8]) -> Result<SecretBytes> {
    r.decrypt(&request("c"), &name(), c, b"c").await
}
pub async fn del(r: &Ring) -> Result<()> {
    r.delete(&request("o"), &name()).await.map(drop)
}
pub async fn purge(r: &Ring, p: &Purge) -> Result<kms_core::Purged> {
    r.purge(&request("o"), &name(), p).await
}
pub async fn import(r: &Ring) -> Result<()> {
    let key = ImportedKey::new(SecretKey::take(&mut [7; 32]), Cipher::Aes256);
    r.import(&request("o"), &name(), key).await
}

/// Does something on a server while the test goes on.
pub fn during<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    ring: &Ring,
    act: impl FnOnce(Ring) -> F,
) -> tokio::task::JoinHandle<T> {
    tokio::spawn(act(Arc::clone(ring)))
}

/// Purges the key on a server that dies right after it has removed the entry.
pub async fn purge_and_die(ring: &Ring) {
    let (at, _never) = ring.store().hook(At::BeforeDelete, ".x/");
    let purging = during(ring, |ring| async move { purge(&ring, &NOW).await });
    reached(&at).await;
    purging.abort();
}
