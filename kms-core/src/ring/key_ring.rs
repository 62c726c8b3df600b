//! The key ring itself: the operations of a [`Kms`], over the cache.

use std::sync::Arc;

use async_trait::async_trait;

use super::cache::Cache;
use super::config::CacheConfig;
use super::key::CachedKey;
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::identity::{Identity, Request};
use crate::kms::{CacheCounters, Capabilities, ImportedKey, KeyInfo, Kms};
use crate::listing::{ListQuery, Page};
use crate::name::KeyName;
use crate::primitives::seal::DataKey;
use crate::primitives::{Cipher, SecretBytes, SecretKey};
use crate::status::StoreStatus;
use crate::store::survey;
use crate::store::{EntryName, KeyRecord, KeyStore, Survey};

/// A [`Kms`] in this process over a [`KeyStore`], with a cache of keys.
///
/// A key that is in the cache is found without a lock. One read serves all requests that wait for the same key, and the
/// number of concurrent reads is bounded. A key in use is read again in the background before its time is over, so that
/// a cache hit never waits. [`CacheConfig`] sets the times.
///
/// Clones are cheap and share one cache. The background work ends when the last clone is dropped.
///
/// ```
/// use kms_core::store::MemoryStore;
/// use kms_core::{CacheConfig, Identity, KeyName, KeyRing};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ring = KeyRing::new(MemoryStore::new(), CacheConfig::default());
/// let client = ring.client(Identity::of_program("invoices"));
/// client.create(&KeyName::new("my-key")?).await?;
/// # Ok(())
/// # }
/// ```
pub struct KeyRing<S> {
    pub(super) cache: Arc<Cache<S>>,
}

impl<S> Clone for KeyRing<S> {
    fn clone(&self) -> Self {
        Self { cache: Arc::clone(&self.cache) }
    }
}

impl<S: KeyStore> KeyRing<S> {
    /// Creates a key ring over `store`.
    ///
    /// Its background work runs on the current tokio runtime: it removes old keys, refreshes those in use, and watches a
    /// store that is away.
    ///
    /// # Panics
    ///
    /// If there is no current tokio runtime.
    pub fn new(store: S, config: CacheConfig) -> Self {
        Self { cache: Cache::start(store, config) }
    }

    /// Returns a handle on this key ring for the caller `identity`.
    pub fn client(&self, identity: Identity) -> Client {
        Client::new(Arc::new(self.clone()), identity)
    }

    /// Returns the store.
    pub fn store(&self) -> &S {
        &self.cache.backend.store
    }

    /// Returns the counters of the cache.
    pub fn counters(&self) -> CacheCounters {
        self.cache.counters.numbers()
    }

    /// Reads and decodes all keys of the store past the cache, 16 at once, and remembers the unreadable ones.
    ///
    /// [`status`](Kms::status) names the unreadable keys from then on.
    ///
    /// # Errors
    ///
    /// The error of [`KeyStore::list`], if the keys cannot be listed. A key that cannot be read is no error: it is in
    /// [`Survey::unusable`].
    pub async fn check_all(&self) -> Result<Survey> {
        survey::walk(&*self.cache).await
    }

    /// Stores `record`, and succeeds only if this very record is in the store afterwards.
    async fn store_new(&self, request: &Request, name: &KeyName, record: KeyRecord) -> Result<()> {
        let (cache, name) = (Arc::clone(&self.cache), name.clone());
        let create = async move { store_new(&cache, &name, record).await };
        self.cache.backend.writes.run(request, create).await
    }

    /// Opens `ciphertext`; fails as not authentic only if the key is known to be the current one.
    ///
    /// Another server may have deleted the key and made it anew since this key ring read it.
    async fn open(
        &self,
        request: &Request,
        name: &KeyName,
        ciphertext: &[u8],
        context: &[u8],
    ) -> Result<SecretBytes> {
        let key = self.cache.key(request, name).await?;
        let error = match key.sealing.open_any_form(ciphertext, context) {
            Ok(plaintext) => return Ok(plaintext),
            Err(error) => error,
        };
        let explained =
            |error, key: &CachedKey| self.cache.report.former.explain(error, name, key.fingerprint());
        if self.store().capabilities().sole_writer || key.began() >= request.received {
            return Err(explained(error, &key));
        }
        let current = Box::pin(self.cache.fetch(request, name, Some(request.received))).await?;
        if current.fingerprint() == key.fingerprint() {
            return Err(explained(error, &key));
        }
        current.sealing.open_any_form(ciphertext, context).map_err(|error| explained(error, &current))
    }
}

/// Stores `record`, and succeeds only if this very record is in the store afterwards.
///
/// It never succeeds over an entry that was there before. It never fails with `NotFound`, which means nothing to the
/// caller of a create.
async fn store_new<S: KeyStore>(cache: &Cache<S>, name: &KeyName, record: KeyRecord) -> Result<()> {
    let operation = || format!("create key '{name}'");
    let entry = EntryName::from(name);
    let encoded = record.encode();
    let place = cache.place(name);
    let written = cache.backend.write(cache.backend.store.create(&entry, &encoded)).await;
    match &written {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotAuthentic) => {
            // A create neither finds nor opens anything, so the backend means something of its own.
            return Err(Error::with_source(ErrorKind::Internal, operation(), error.clone()));
        }
        Err(error) if !error.kind().leaves_outcome_unknown() => return written,
        _ => {}
    }
    // The write was acknowledged, or its outcome is unknown: the record that is read back decides. A create is never
    // sent twice.
    let (stored, began) = match (cache.read_entry(name).await, written) {
        (Ok(read), _) => read,
        (Err(read), Ok(())) if read.kind() == ErrorKind::NotFound => {
            let detail = "it was acknowledged and is not there: it was deleted at once, or the store lost it";
            return Err(Error::with_source(ErrorKind::Internal, operation(), detail));
        }
        (Err(read), Ok(())) => return Err(read),
        // The outcome of the write is unknown, and the entry holds something else.
        (Err(read), Err(_)) if read.kind() == ErrorKind::Corrupt => {
            return Err(Error::with_source(ErrorKind::AlreadyExists, operation(), read));
        }
        (Err(_), Err(written)) => return Err(written),
    };
    if stored != encoded {
        let detail = "another record was read back";
        return Err(Error::with_source(ErrorKind::AlreadyExists, operation(), detail));
    }
    cache.publish_new(name, &place, cache.ready(record), began);
    Ok(())
}

#[async_trait]
impl<S: KeyStore> Kms for KeyRing<S> {
    fn capabilities(&self) -> Capabilities {
        let store = self.store().capabilities();
        Capabilities { durable: store.durable, ..Capabilities::all(store.name) }
    }

    async fn create(&self, request: &Request, name: &KeyName) -> Result<()> {
        let record = KeyRecord::new(SecretKey::random()?, Cipher::preferred(), request.identity.to_string())?;
        self.store_new(request, name, record).await
    }

    async fn import(&self, request: &Request, name: &KeyName, key: ImportedKey) -> Result<()> {
        let record = KeyRecord::new(key.key, key.cipher, request.identity.to_string())?;
        self.store_new(request, name, record).await
    }

    async fn describe(&self, request: &Request, name: &KeyName) -> Result<KeyInfo> {
        let key = self.cache.key(request, name).await?;
        Ok(KeyInfo {
            name: name.clone(),
            cipher: key.sealing.cipher(),
            created_at: key.created_at,
            created_by: key.created_by.to_string(),
            fingerprint: Some(*key.fingerprint()),
        })
    }

    async fn list(&self, request: &Request, query: &ListQuery<'_>) -> Result<Page> {
        let ListQuery { prefix, after, limit } = *query;
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        let (backend, deadline) = (Arc::clone(&self.cache.backend), request.deadline);
        let list = async move {
            let query = ListQuery { prefix: &prefix, after: after.as_deref(), limit };
            backend.list_until(&query, deadline).await
        };
        self.cache.backend.reads.run(request, list).await
    }

    async fn delete(&self, request: &Request, name: &KeyName) -> Result<()> {
        // An unreadable key can be mended, and a deleted one cannot: so only a readable key is deleted. If there is nothing
        // to read, the store still decides, since it may hold the rest of a key that was deleted in the backend.
        let fingerprint = match self.cache.try_key_past(request, name).await {
            Ok(fingerprint) => Some(fingerprint),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let (cache, name) = (Arc::clone(&self.cache), name.clone());
        let delete = async move {
            let deleted = cache.backend.write(cache.backend.store.delete(&EntryName::from(&name))).await;
            // Whatever the outcome, the cached key is no longer known to be in the store.
            cache.forget(&name);
            if let Some(fingerprint) = fingerprint {
                cache.report.former.note(&name, fingerprint);
            }
            if deleted.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::NotFound) {
                cache.report.unreadable.clear(&name);
            }
            deleted
        };
        self.cache.backend.writes.run(request, delete).await
    }

    async fn generate(&self, request: &Request, name: &KeyName, context: &[u8]) -> Result<DataKey> {
        self.cache.key(request, name).await?.sealing.generate(context)
    }

    async fn encrypt(
        &self,
        request: &Request,
        name: &KeyName,
        plaintext: &[u8],
        context: &[u8],
    ) -> Result<Vec<u8>> {
        self.cache.key(request, name).await?.sealing.seal(plaintext, context)
    }

    async fn decrypt(
        &self,
        request: &Request,
        name: &KeyName,
        ciphertext: &[u8],
        context: &[u8],
    ) -> Result<SecretBytes> {
        self.open(request, name, ciphertext, context).await
    }

    async fn hmac(&self, request: &Request, name: &KeyName, message: &[u8]) -> Result<[u8; 32]> {
        let key = self.cache.key(request, name).await?;
        key.hmac(message)
            .ok_or_else(|| Error::new(ErrorKind::NoHmacKey, format!("compute an HMAC with key '{name}'")))
    }

    fn counters(&self) -> Option<CacheCounters> {
        Some(Self::counters(self))
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.cache.status().await
    }
}
