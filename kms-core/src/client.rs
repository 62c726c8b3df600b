//! A handle on a key management service, for one caller.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::counters::CacheCounters;
use crate::deletion::{Deletion, Purge, Purged};
use crate::error::Result;
use crate::identity::{Identity, Request};
use crate::kms::{Capabilities, ImportedKey, KeyInfo, Kms, Rotation, VersionInfo};
use crate::listing::{ListQuery, Page};
use crate::name::KeyName;
use crate::primitives::SecretBytes;
use crate::primitives::seal::DataKey;
use crate::status::StoreStatus;

/// A handle on a [`Kms`] with the caller's [`Identity`] and a timeout for each call.
///
/// [`KeyRing::client`](crate::KeyRing::client) makes one; [`Client::new`] makes one for any other service. Clones are
/// cheap and share the service. A server that passes on the requests of many callers calls the [`Kms`] itself.
///
/// Every operation has the errors that the method of the same name of [`Kms`] lists. A call ends with
/// [`ErrorKind::Timeout`] or [`ErrorKind::Throttled`] when its time is over.
///
/// ```
/// use std::time::Duration;
/// use kms_core::store::MemoryStore;
/// use kms_core::{CacheConfig, Identity, KeyName, KeyRing};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ring = KeyRing::new(MemoryStore::new(), CacheConfig::default());
/// let client = ring.client(Identity::of_program("invoices")).with_timeout(Duration::from_secs(2));
///
/// let name = KeyName::new("my-key")?;
/// client.create(&name).await?;
/// let sealed = client.encrypt(&name, b"text", b"context").await?;
/// assert_eq!(client.decrypt(&name, &sealed, b"context").await?.expose(), b"text");
/// # Ok(())
/// # }
/// ```
///
/// [`ErrorKind::Timeout`]: crate::ErrorKind::Timeout
/// [`ErrorKind::Throttled`]: crate::ErrorKind::Throttled
#[derive(Clone)]
pub struct Client {
    kms: Arc<dyn Kms>,
    identity: Identity,
    timeout: Duration,
}

impl Client {
    /// The timeout of a call, unless [`with_timeout`](Self::with_timeout) sets another: 5 seconds.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

    /// Creates a handle on `kms` for the caller `identity`.
    pub fn new(kms: Arc<dyn Kms>, identity: Identity) -> Self {
        Self { kms, identity, timeout: Self::DEFAULT_TIMEOUT }
    }

    /// Sets the timeout of each call.
    ///
    /// A create, import or delete that has begun is followed to its outcome, even if that takes longer.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Returns the service.
    pub fn kms(&self) -> &Arc<dyn Kms> {
        &self.kms
    }

    /// Returns the identity of the caller.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Returns the timeout of each call.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns what the service can do. See [`Kms::capabilities`].
    pub fn capabilities(&self) -> Capabilities {
        self.kms.capabilities()
    }

    /// Makes a new master key. See [`Kms::create`].
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists): there is a key of that name.
    /// - [`ErrorKind::ReadOnly`](crate::ErrorKind::ReadOnly), [`ErrorKind::DiskFull`](crate::ErrorKind::DiskFull): the store
    ///   cannot take writes now.
    /// - The [errors of every method](Kms#errors-of-every-method).
    pub async fn create(&self, name: &KeyName) -> Result<()> {
        self.kms.create(&self.request(), name).await
    }

    /// Stores the caller's key bytes as a new master key. See [`Kms::import`].
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists): there is a key of that name.
    /// - [`ErrorKind::ReadOnly`](crate::ErrorKind::ReadOnly), [`ErrorKind::DiskFull`](crate::ErrorKind::DiskFull): the store
    ///   cannot take writes now.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the service imports no keys.
    /// - The [errors of every method](Kms#errors-of-every-method).
    pub async fn import(&self, name: &KeyName, key: ImportedKey) -> Result<()> {
        self.kms.import(&self.request(), name, key).await
    }

    /// Returns the public facts about a key. See [`Kms::describe`].
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key.
    /// - The [errors of every method](Kms#errors-of-every-method).
    pub async fn describe(&self, name: &KeyName) -> Result<KeyInfo> {
        self.kms.describe(&self.request(), name).await
    }

    /// Lists key names, in byte order. See [`Kms::list`].
    ///
    /// # Errors
    ///
    /// The [errors of every method](Kms#errors-of-every-method).
    pub async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.kms.list(&self.request(), query).await
    }

    /// Deletes a key, and with it everything that was encrypted under it. See [`Kms::delete`].
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key.
    /// - [`ErrorKind::ReadOnly`](crate::ErrorKind::ReadOnly), [`ErrorKind::DiskFull`](crate::ErrorKind::DiskFull): the store
    ///   cannot take writes now.
    /// - The [errors of every method](Kms#errors-of-every-method).
    pub async fn delete(&self, name: &KeyName) -> Result<Deletion> {
        self.kms.delete(&self.request(), name).await
    }

    /// Restores a deleted key. See [`Kms::restore`].
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key any more.
    /// - [`ErrorKind::Conflict`](crate::ErrorKind::Conflict): the key is not deleted, or a restore or a purge is under way.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the service restores no keys.
    /// - The [errors of every method](Kms#errors-of-every-method).
    pub async fn restore(&self, name: &KeyName) -> Result<()> {
        self.kms.restore(&self.request(), name, false).await
    }

    /// Removes a deleted key for ever. See [`Kms::purge`].
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key any more.
    /// - [`ErrorKind::Conflict`](crate::ErrorKind::Conflict): the key may not be purged now. The source says why.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the backend alone removes deleted keys.
    /// - The [errors of every method](Kms#errors-of-every-method).
    pub async fn purge(&self, name: &KeyName, purge: &Purge) -> Result<Purged> {
        self.kms.purge(&self.request(), name, purge).await
    }

    /// Makes a new version of a key. See [`Kms::rotate`].
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the service has no versions.
    /// - Those that [`Kms::rotate`] lists, and the [errors of every method](Kms#errors-of-every-method).
    pub async fn rotate(&self, name: &KeyName) -> Result<Rotation> {
        self.kms.rotate(&self.request(), name, None).await
    }

    /// Describes the versions of a key, the oldest first. See [`Kms::versions`].
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the service has no versions.
    /// - The [errors of every method](Kms#errors-of-every-method).
    pub async fn versions(&self, name: &KeyName) -> Result<Vec<VersionInfo>> {
        self.kms.versions(&self.request(), name).await
    }

    /// Seals a ciphertext anew, under the version that seals. See [`Kms::rewrap`].
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key.
    /// - [`ErrorKind::NotAuthentic`](crate::ErrorKind::NotAuthentic): key, context and ciphertext do not belong together.
    /// - The [errors of every method](Kms#errors-of-every-method).
    pub async fn rewrap(&self, name: &KeyName, ciphertext: &[u8], context: &[u8]) -> Result<Vec<u8>> {
        self.kms.rewrap(&self.request(), name, ciphertext, context).await
    }

    /// Makes a random data encryption key, and seals it under the master key and `context`. See [`Kms::generate`].
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key.
    /// - The [errors of every method](Kms#errors-of-every-method).
    pub async fn generate(&self, name: &KeyName, context: &[u8]) -> Result<DataKey> {
        self.kms.generate(&self.request(), name, context).await
    }

    /// Seals `plaintext` under the master key and `context`. See [`Kms::encrypt`].
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key.
    /// - The [errors of every method](Kms#errors-of-every-method).
    pub async fn encrypt(&self, name: &KeyName, plaintext: &[u8], context: &[u8]) -> Result<Vec<u8>> {
        self.kms.encrypt(&self.request(), name, plaintext, context).await
    }

    /// Opens a ciphertext of [`generate`](Self::generate) or [`encrypt`](Self::encrypt). See [`Kms::decrypt`].
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key.
    /// - [`ErrorKind::NotAuthentic`](crate::ErrorKind::NotAuthentic): key, context and ciphertext do not belong together.
    /// - The [errors of every method](Kms#errors-of-every-method).
    pub async fn decrypt(&self, name: &KeyName, ciphertext: &[u8], context: &[u8]) -> Result<SecretBytes> {
        self.kms.decrypt(&self.request(), name, ciphertext, context).await
    }

    /// Computes HMAC-SHA256 of `message` under the key's HMAC key. See [`Kms::hmac`].
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key.
    /// - [`ErrorKind::NoHmacKey`](crate::ErrorKind::NoHmacKey): the key has no HMAC key.
    /// - [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput): the HMAC key is the key itself, and the message has exactly 16 bytes.
    /// - The [errors of every method](Kms#errors-of-every-method).
    pub async fn hmac(&self, name: &KeyName, message: &[u8]) -> Result<[u8; 32]> {
        self.kms.hmac(&self.request(), name, message).await
    }

    /// Asks the backend whether it can serve. See [`Kms::status`].
    ///
    /// # Errors
    ///
    /// The [errors of every method](Kms#errors-of-every-method).
    pub async fn status(&self) -> Result<StoreStatus> {
        self.kms.status().await
    }

    /// Returns the counters of the cache; `None` if there is no cache. See [`Kms::counters`].
    pub fn counters(&self) -> Option<CacheCounters> {
        self.kms.counters()
    }

    fn request(&self) -> Request {
        Request::new(self.identity, self.timeout)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("backend", &self.kms.capabilities().backend)
            .field("identity", &self.identity)
            .field("timeout", &self.timeout)
            .finish()
    }
}
