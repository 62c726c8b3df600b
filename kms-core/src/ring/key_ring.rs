//! The key ring itself: the operations of a [`Kms`], over the cache.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::cache::Cache;
use super::change;
use super::config::CacheConfig;
use super::export::Entries;
use super::losses::lost;
use super::slot::HeldKey;
use super::{deleted, deletion, lost_restore, news, notes, purge};
use crate::client::Client;
use crate::counters::CacheCounters;
use crate::deletion::{DeletedPage, Deletion, Purge, Purged};
use crate::error::{Error, ErrorKind, Result};
use crate::identity::{Identity, Request};
use crate::kms::{Capabilities, ImportedKey, KeyInfo, Kms, Rotation, VersionInfo, VersionUse};
use crate::listing::{ListQuery, OwnedQuery, Page};
use crate::name::KeyName;
use crate::primitives::seal::DataKey;
use crate::primitives::{Cipher, SecretBytes, SecretKey};
use crate::status::StoreStatus;
use crate::store::survey;
use crate::store::{KeyRecord, KeyStore, Survey};
use crate::sync::spawn;
use crate::transfer::StoredKey;

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
        Self::keeping_deleted(store, config, Duration::ZERO)
    }

    /// Creates a key ring over `store` that keeps deleted keys for `grace`, in which they can be restored.
    ///
    /// The grace is never shorter than [`CacheConfig::offline`]. Zero deletes keys for ever, as [`new`](Self::new) does.
    ///
    /// # Panics
    ///
    /// If there is no current tokio runtime.
    pub fn keeping_deleted(store: S, config: CacheConfig, grace: Duration) -> Self {
        let cache = Cache::start(store, config, grace);
        if let Some(changes) = cache.backend.store.changes() {
            spawn(news::follow(Arc::downgrade(&cache), changes, cache.ring.subscribe()));
        }
        if cache.notes_removals() {
            spawn(notes::clean_for_ever(Arc::downgrade(&cache), cache.ring.subscribe()));
        }
        Self { cache }
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
        self.cache.counters.numbers(self.cache.slots.pin().len())
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

    async fn store_new(&self, request: &Request, name: &KeyName, record: KeyRecord) -> Result<()> {
        let (cache, name) = (Arc::clone(&self.cache), name.clone());
        let create = async move { change::create(&cache, &name, record, None).await };
        self.cache.backend.writes.run(request, create).await
    }

    /// Opens `ciphertext`; fails as not authentic only if the key is known to be the current one.
    ///
    /// Another server may have deleted the key and made it anew since this key ring read it, or made a version.
    async fn open(
        &self,
        request: &Request,
        name: &KeyName,
        ciphertext: &[u8],
        context: &[u8],
    ) -> Result<SecretBytes> {
        let key = self.cache.key_to_use(request, name).await?;
        if let Some((plaintext, state)) = key.open(ciphertext, context) {
            let Some(state) = state else { return Ok(plaintext) };
            if !self.cache.check_in_memory(name, &key, &state)? {
                Box::pin(self.cache.check(request, name, &key, &state)).await?;
            }
            return Ok(plaintext);
        }
        // Boxed, because it is rare: the future of a hit has no room for a wait in it.
        Box::pin(self.open_slowly(request, name, key, ciphertext, context)).await
    }

    /// Opens what did not open under what is in memory.
    async fn open_slowly(
        &self,
        request: &Request,
        name: &KeyName,
        mut key: HeldKey,
        ciphertext: &[u8],
        context: &[u8],
    ) -> Result<SecretBytes> {
        loop {
            let named = |key: &HeldKey| key.named_by(ciphertext).map(|(number, _)| number);
            if named(&key).is_some_and(|number| number > key.newest())
                && let Some(current) = self.current(request, name, &key).await?
            {
                key = current;
            }
            if let Some(number) = named(&key).filter(|number| *number <= key.newest()) {
                self.cache.version(request, name, &key, number).await?;
            }
            if let Some((plaintext, state)) = key.open(ciphertext, context) {
                if let Some(state) = state {
                    self.cache.check(request, name, &key, &state).await?;
                }
                return Ok(plaintext);
            }
            if let Some((number, sealed)) =
                key.named_by(ciphertext).filter(|(number, _)| *number > key.newest())
                && let Some(version) = self.cache.stray(request, name, &key, number).await?
                && let Ok(plaintext) = version.open(sealed, context)
            {
                self.cache.check(request, name, &key, &version.state).await?;
                return Ok(plaintext);
            }
            match self.current(request, name, &key).await? {
                // This one was read after the request came. So the next turn is the last.
                Some(current) if current.fingerprint() != key.fingerprint() => key = current,
                // A replica may show a key that another one has followed.
                _ if self.cache.of_replica.has(name) => {
                    let why = "it does not open, and only a replica was read, which may lack a newer key or version";
                    return Err(Error::with_source(ErrorKind::Behind, format!("read key '{name}'"), why));
                }
                _ => {
                    let error = Error::new(ErrorKind::NotAuthentic, "open a ciphertext");
                    return Err(self.cache.report.former.explain(error, name, key.fingerprint()));
                }
            }
        }
    }

    /// Reads the key anew, unless `key` is known to be the current one: it was read after the request came, or nobody
    /// else writes to the store.
    async fn current(&self, request: &Request, name: &KeyName, key: &HeldKey) -> Result<Option<HeldKey>> {
        if self.store().capabilities().sole_writer || key.began() >= request.received {
            return Ok(None);
        }
        self.cache.fetch(request, name, Some(request.received)).await.map(Some)
    }

    /// Reads all versions of `key` that are not in memory, and describes them.
    async fn describe_versions(
        &self,
        request: &Request,
        name: &KeyName,
        key: &HeldKey,
    ) -> Result<Vec<VersionInfo>> {
        let mut versions = vec![VersionInfo {
            version: 1,
            cipher: Some(key.sealing.cipher()),
            created_at: key.created_at,
            created_by: key.created_by.as_str().to_owned(),
            fingerprint: Some(*key.fingerprint()),
            unreadable: None,
            is_disabled: false,
            used: None,
        }];
        let Some(known) = &key.versions else { return Ok(versions) };
        for number in 2..=key.newest() {
            versions.push(match self.cache.version(request, name, key, number).await {
                Ok(version) => version.info(),
                Err(error) if error.kind() == ErrorKind::Corrupt => VersionInfo::unreadable(number, &error),
                Err(error) => return Err(error),
            });
        }
        for info in &mut versions {
            info.used = Some(known.uses.counted(info.version));
            let state = match known.get(info.version) {
                Some(version) => Arc::clone(&version.state),
                None if info.version == 1 => Arc::clone(&known.first),
                None => continue,
            };
            info.is_disabled = match self.cache.check(request, name, key, &state).await {
                Ok(()) => false,
                Err(error) if error.kind() == ErrorKind::Conflict => true,
                Err(error) => return Err(error),
            };
        }
        Ok(versions)
    }
}

#[async_trait]
impl<S: KeyStore> Kms for KeyRing<S> {
    fn capabilities(&self) -> Capabilities {
        let store = self.store().capabilities();
        let keeps_deleted = store.keeps_deleted || !self.cache.grace.is_zero();
        Capabilities { durable: store.durable, keeps_deleted, ..Capabilities::all(store.name) }
    }

    async fn create(&self, request: &Request, name: &KeyName) -> Result<()> {
        let record = KeyRecord::new(SecretKey::random()?, Cipher::preferred(), request.identity.to_string())?;
        self.store_new(request, name, record).await
    }

    async fn import(&self, request: &Request, name: &KeyName, key: ImportedKey) -> Result<()> {
        let record = KeyRecord::new(key.key, key.cipher, request.identity.to_string())?;
        let (cache, caller, name) = (Arc::clone(&self.cache), request.identity, name.clone());
        let import = async move { deletion::import(&cache, caller, &name, record).await };
        self.cache.backend.writes.run(request, import).await
    }

    async fn describe(&self, request: &Request, name: &KeyName) -> Result<KeyInfo> {
        let key = self.cache.key(request, name).await?;
        Ok(KeyInfo {
            name: name.clone(),
            cipher: key.sealing.cipher(),
            created_at: key.created_at,
            created_by: key.created_by.as_str().to_owned(),
            fingerprint: Some(*key.fingerprint()),
        })
    }

    async fn list(&self, request: &Request, query: &ListQuery<'_>) -> Result<Page> {
        let (cache, asked, deadline) = (Arc::clone(&self.cache), OwnedQuery::of(query), request.deadline);
        let list = async move { deleted::list(&cache, &asked.query(), deadline).await };
        self.cache.backend.reads.run(request, list).await
    }

    async fn delete(&self, request: &Request, name: &KeyName) -> Result<Deletion> {
        if self.cache.is_lost(name).await? {
            return Err(lost(name));
        }
        // An unreadable key can be mended, and a deleted one cannot: so only a readable key is deleted. If there is nothing
        // to read, the store still decides, since it may hold the rest of a key that was deleted in the backend.
        let key = match self.cache.try_key_past(request, name).await {
            Ok(key) => Some(key),
            // A key that is made at this moment would be lost for ever, and without a note others would take it for lost.
            Err(error)
                if error.kind() == ErrorKind::NotFound
                    && self.cache.grace.is_zero()
                    && !self.cache.notes_removals() =>
            {
                None
            }
            Err(error) => return Err(error),
        };
        let (cache, caller, name) = (Arc::clone(&self.cache), request.identity, name.clone());
        let delete = async move { deletion::delete(&cache, caller, &name, key).await };
        self.cache.backend.writes.run(request, delete).await
    }

    async fn deleted(&self, request: &Request, query: &ListQuery<'_>) -> Result<DeletedPage> {
        let (cache, asked) = (Arc::clone(&self.cache), OwnedQuery::of(query));
        let list = async move { deleted::deleted(&cache, &asked.query()).await };
        self.cache.backend.reads.run(request, list).await
    }

    async fn restore(&self, request: &Request, name: &KeyName, resume: bool) -> Result<()> {
        let (cache, caller, name) = (Arc::clone(&self.cache), request.identity, name.clone());
        let restore = async move {
            if lost_restore::restore(&cache, &name).await? {
                return Ok(());
            }
            deletion::restore(&cache, caller, &name, resume).await
        };
        self.cache.backend.writes.run(request, restore).await
    }

    async fn purge(&self, request: &Request, name: &KeyName, purge: &Purge) -> Result<Purged> {
        let (cache, caller, name, asked) = (Arc::clone(&self.cache), request.identity, name.clone(), *purge);
        let purge = async move { purge::purge(&cache, caller, &name, &asked).await };
        self.cache.backend.writes.run(request, purge).await
    }

    fn last_use(&self, name: &KeyName) -> Option<Timestamp> {
        self.cache.last_use(name)
    }

    async fn rotate(&self, request: &Request, name: &KeyName, newest: Option<u32>) -> Result<Rotation> {
        let (cache, caller, name) = (Arc::clone(&self.cache), request.clone(), name.clone());
        let rotate = async move {
            let rotation = change::rotate(&cache, &caller, &name, newest).await;
            unless_lost(&cache, &name, rotation).await
        };
        self.cache.backend.writes.run(request, rotate).await
    }

    async fn retire(&self, request: &Request, name: &KeyName, version: u32) -> Result<()> {
        let (cache, caller, name) = (Arc::clone(&self.cache), request.identity, name.clone());
        let retire = async move {
            let retired = change::retire(&cache, caller, &name, version).await;
            unless_lost(&cache, &name, retired).await
        };
        self.cache.backend.writes.run(request, retire).await
    }

    async fn enable(&self, request: &Request, name: &KeyName, version: u32) -> Result<()> {
        let (cache, name) = (Arc::clone(&self.cache), name.clone());
        let enable = async move {
            let enabled = change::enable(&cache, &name, version).await;
            unless_lost(&cache, &name, enabled).await
        };
        self.cache.backend.writes.run(request, enable).await
    }

    async fn exportable(&self, request: &Request, query: &ListQuery<'_>) -> Result<Page> {
        let (cache, asked, deadline) = (Arc::clone(&self.cache), OwnedQuery::of(query), request.deadline);
        let list = async move { cache.backend.list_until(&asked.query(), deadline).await };
        self.cache.backend.reads.run(request, list).await
    }

    async fn export(&self, request: &Request, name: &KeyName) -> Result<StoredKey> {
        let (entries, name) = (Entries::of(&self.cache.backend), name.clone());
        let read = async move { StoredKey::read(&entries, &name).await };
        self.cache.backend.reads.run(request, read).await
    }

    fn version_uses(&self) -> Vec<(KeyName, u32, VersionUse)> {
        self.cache.uses.all()
    }

    async fn versions(&self, request: &Request, name: &KeyName) -> Result<Vec<VersionInfo>> {
        let key = self.cache.key(request, name).await?;
        Box::pin(self.describe_versions(request, name, &key)).await
    }

    async fn generate(&self, request: &Request, name: &KeyName, context: &[u8]) -> Result<DataKey> {
        self.cache.key_to_use(request, name).await?.generate(context)
    }

    async fn encrypt(
        &self,
        request: &Request,
        name: &KeyName,
        plaintext: &[u8],
        context: &[u8],
    ) -> Result<Vec<u8>> {
        self.cache.key_to_use(request, name).await?.seal(plaintext, context)
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
        let key = self.cache.key_to_use(request, name).await?;
        let operation = || format!("compute an HMAC with key '{name}'");
        match key.hmac(message) {
            None => Err(Error::new(ErrorKind::NoHmacKey, operation())),
            Some(mac) => mac.map_err(|why| Error::with_source(ErrorKind::InvalidInput, operation(), why)),
        }
    }

    fn counters(&self) -> Option<CacheCounters> {
        Some(Self::counters(self))
    }

    fn is_away(&self) -> Option<bool> {
        Some(self.cache.backend.away.is_away())
    }

    fn login_ends(&self) -> Option<Timestamp> {
        self.store().login_ends()
    }

    fn closed_roots(&self) -> Option<usize> {
        self.store().closed_roots()
    }

    fn roots_opened(&self) -> Vec<(String, Option<Timestamp>)> {
        self.store().roots_opened()
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.cache.status().await
    }
}

/// Says of what was not found that the store lost it, if that is so.
async fn unless_lost<S: KeyStore, T>(cache: &Cache<S>, name: &KeyName, outcome: Result<T>) -> Result<T> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::NotFound && cache.is_lost(name).await? => Err(lost(name)),
        outcome => outcome,
    }
}
