//! The key ring: a [`Kms`] in this process over any key store.

mod away;
mod backend;
mod cache;
mod config;
mod counters;
mod former;
mod gate;
mod key;
#[cfg(test)]
#[cfg(feature = "model")]
mod models;
pub mod policy;
mod report;
mod slot;
mod unreadable;

use std::sync::Arc;

use async_trait::async_trait;

pub use self::away::{Away, Outage};
use self::cache::Cache;
pub use self::config::CacheConfig;
pub use self::counters::{CacheCounters, Counter, Counters};
pub use self::gate::{Gate, Pass};
use self::key::CachedKey;
pub use self::unreadable::Unreadable;
use crate::survey;
use crate::{
    Capabilities, Cipher, DataKey, EntryName, Error, ErrorKind, ImportedKey, KeyInfo, KeyName, KeyRecord,
    KeyStore, Kms, ListQuery, Page, Request, Result, SecretBytes, SecretKey, StoreStatus, Survey,
};

/// A [`Kms`] that holds the keys of a [`KeyStore`] in memory for a while and works with them in process.
///
/// Cached keys are found without a lock and used inline. One read serves all that wait for the same key, reads
/// are bounded in number, and a key in use is read again in the background before it ends, so hits never
/// wait; see [`CacheConfig`].
pub struct KeyRing<S> {
    cache: Arc<Cache<S>>,
}

impl<S: KeyStore> KeyRing<S> {
    /// Creates a key ring over `store`.
    ///
    /// Background work (ending and refreshing keys, watching a store that is away) is spawned on the tokio
    /// runtime that is current here, and ends when the key ring is dropped.
    pub fn new(store: S, config: CacheConfig) -> Self {
        Self { cache: Cache::start(store, config) }
    }

    /// Returns the store.
    pub fn store(&self) -> &S {
        &self.cache.backend.store
    }

    /// Returns how the cache did so far.
    pub fn counters(&self) -> CacheCounters {
        self.cache.counters.numbers()
    }

    /// Reads and decodes every key of the store past the cache, 16 at once, and takes in which of them cannot be read:
    /// [`status`](Kms::status) tells of them from then on.
    ///
    /// Fails only when the keys cannot be listed.
    pub async fn check_all(&self) -> Result<Survey> {
        survey::walk(&*self.cache).await
    }

    /// Stores `record` and makes sure that this very record is there before it says yes.
    async fn store_new(&self, request: &Request, name: &KeyName, record: KeyRecord) -> Result<()> {
        let (cache, name) = (Arc::clone(&self.cache), name.clone());
        let create = async move { store_new(&cache, &name, record).await };
        self.cache.backend.writes.run(request, create).await
    }

    /// Opens `ciphertext`, and says that it is not authentic only when the key is known to be the current one.
    ///
    /// Another server may have deleted the key and made it anew since this one read it.
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

/// Stores `record` and makes sure that this very record is there before it says yes.
///
/// Whatever comes of it: no yes over something that was there before, and no `NotFound`, by which a client would know
/// nothing.
async fn store_new<S: KeyStore>(cache: &Cache<S>, name: &KeyName, record: KeyRecord) -> Result<()> {
    let operation = || format!("create key '{name}'");
    let entry = EntryName::from(name);
    let encoded = record.encode();
    let place = cache.place(name);
    let written = cache.backend.write(cache.backend.store.create(&entry, &encoded)).await;
    match &written {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotAuthentic) => {
            // A create has nothing to find and nothing to open: the backend speaks of something of its own.
            return Err(Error::with_source(ErrorKind::Internal, operation(), error.clone()));
        }
        Err(error) if !error.kind().leaves_outcome_unknown() => return written,
        _ => {}
    }
    // Acknowledged or of unknown outcome: what is read back decides. A create is never sent twice.
    let (stored, began) = match (cache.read_entry(name).await, written) {
        (Ok(read), _) => read,
        (Err(read), Ok(())) if read.kind() == ErrorKind::NotFound => {
            let detail = "it was acknowledged and is not there: it was deleted at once, or the store lost it";
            return Err(Error::with_source(ErrorKind::Internal, operation(), detail));
        }
        (Err(read), Ok(())) => return Err(read),
        // Whether it was written is not known, but what is there is not what was to be written.
        (Err(read), Err(_)) if read.kind() == ErrorKind::Corrupt => {
            return Err(Error::with_source(ErrorKind::AlreadyExists, operation(), read));
        }
        (Err(_), Err(written)) => return Err(written),
    };
    if stored != encoded {
        let detail = "another record was read back";
        return Err(Error::with_source(ErrorKind::AlreadyExists, operation(), detail));
    }
    cache.publish_new(name, &place, CachedKey::new(record), began);
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
            created_by: key.created_by.clone(),
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
        // A key that cannot be read may be mended, and what is removed cannot. Where there is nothing to read, the store
        // still decides: there may be the rest of a key that was deleted in the backend.
        let fingerprint = match self.cache.try_key_past(request, name).await {
            Ok(fingerprint) => Some(fingerprint),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let (cache, name) = (Arc::clone(&self.cache), name.clone());
        let delete = async move {
            let deleted = cache.backend.write(cache.backend.store.delete(&EntryName::from(&name))).await;
            // Whatever came of it, the cached key is no longer known to be in the store.
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
