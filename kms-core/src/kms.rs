//! What clients ask for: the trait that the server holds.

use async_trait::async_trait;
use jiff::Timestamp;

use crate::{
    CacheCounters, Cipher, Fingerprint, KeyName, ListQuery, Page, Request, Result, SecretBytes, SecretKey,
    StoreStatus,
};

/// A key management service: named master keys that never leave it, and what can be done with them.
///
/// [`KeyRing`](crate::KeyRing) implements it in process over any [`KeyStore`](crate::KeyStore).
/// Every method may fail with the kinds of an outage, `Denied`, `LoginRefused`, `Corrupt` and `Internal`;
/// what a service cannot do at all fails with `Unsupported`.
#[async_trait]
pub trait Kms: Send + Sync + 'static {
    /// Tells what this service can do, and a name for messages.
    fn capabilities(&self) -> Capabilities;

    /// Makes a new master key; it is stored durably, and was read back, when this returns.
    ///
    /// Fails with `AlreadyExists`, or `ReadOnly`.
    async fn create(&self, request: &Request, name: &KeyName) -> Result<()>;

    /// Stores key bytes that the caller brings as a new master key.
    ///
    /// Fails with `AlreadyExists`, or `ReadOnly`.
    async fn import(&self, request: &Request, name: &KeyName, key: ImportedKey) -> Result<()>;

    /// Describes a key. Fails with `NotFound`.
    async fn describe(&self, request: &Request, name: &KeyName) -> Result<KeyInfo>;

    /// Lists key names in byte order.
    async fn list(&self, request: &Request, query: &ListQuery<'_>) -> Result<Page>;

    /// Removes a key for ever, and with it all that was encrypted under it; what
    /// [`keeps_deleted`](Capabilities::keeps_deleted) does so after a time in which it can be restored.
    ///
    /// Fails with `NotFound`, or `ReadOnly`.
    async fn delete(&self, request: &Request, name: &KeyName) -> Result<()>;

    /// Makes a fresh data encryption key, in the clear and sealed under the master key and `context`.
    ///
    /// Fails with `NotFound`.
    async fn generate(&self, request: &Request, name: &KeyName, context: &[u8]) -> Result<DataKey>;

    /// Seals `plaintext` under the master key and `context`. Fails with `NotFound`.
    async fn encrypt(
        &self,
        request: &Request,
        name: &KeyName,
        plaintext: &[u8],
        context: &[u8],
    ) -> Result<Vec<u8>>;

    /// Opens what [`generate`](Kms::generate) or [`encrypt`](Kms::encrypt) sealed.
    ///
    /// Fails with `NotFound`, and with `NotAuthentic` when key, context and ciphertext do not belong together.
    async fn decrypt(
        &self,
        request: &Request,
        name: &KeyName,
        ciphertext: &[u8],
        context: &[u8],
    ) -> Result<SecretBytes>;

    /// Computes HMAC-SHA256 of `message` under the key's HMAC key. Fails with `NotFound`, or `NoHmacKey`.
    async fn hmac(&self, request: &Request, name: &KeyName, message: &[u8]) -> Result<[u8; 32]>;

    /// Asks the backend whether it can serve.
    async fn status(&self) -> Result<StoreStatus>;

    /// Tells what the cache has counted since the start, where there is one.
    fn counters(&self) -> Option<CacheCounters> {
        None
    }
}

/// What a [`Kms`] can do, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// What the backend is called in messages.
    pub backend: &'static str,
    /// Whether keys can be imported.
    pub import: bool,
    /// Whether keys outlive the process.
    pub durable: bool,
    /// Whether a deleted key keeps its name until the backend erases it, and can be restored there until then: it is
    /// listed, uses and a second delete of it fail with `Disabled`, creating it with `AlreadyExists`.
    pub keeps_deleted: bool,
}

impl Capabilities {
    /// Describes a service that can do everything, keeps its keys, and forgets the deleted ones.
    pub const fn all(backend: &'static str) -> Self {
        Self { backend, import: true, durable: true, keeps_deleted: false }
    }
}

/// What may be told about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// The name asked for.
    pub name: KeyName,
    /// The cipher that seals under it.
    pub cipher: Cipher,
    /// When it was made; `None` in records of old KES releases.
    pub created_at: Option<Timestamp>,
    /// Who made it, as the store tells; empty in records of old KES releases.
    pub created_by: String,
    /// Its fingerprint, where the service knows the key's bytes.
    pub fingerprint: Option<Fingerprint>,
}

/// A data encryption key: 32 bytes in the clear, and the same sealed.
pub struct DataKey {
    /// The key, to encrypt one object with and forget.
    pub plaintext: SecretKey,
    /// The key sealed under the master key, to be kept with the object.
    pub ciphertext: Vec<u8>,
}

/// Key bytes that a client brings.
pub struct ImportedKey {
    /// The 32 bytes.
    pub key: SecretKey,
    /// The cipher to seal with.
    pub cipher: Cipher,
}
