//! The trait of key management services.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::counters::CacheCounters;
use crate::deletion::{DeletedPage, Deletion, Purge, Purged};
use crate::error::{Error, ErrorKind, Result};
use crate::identity::Request;
use crate::listing::{ListQuery, Page};
use crate::name::KeyName;
use crate::primitives::seal::DataKey;
use crate::primitives::{Cipher, Fingerprint, SecretBytes, SecretKey};
use crate::status::StoreStatus;
use crate::transfer::StoredKey;

/// A key management service: named master keys that never leave it, and the operations under them.
///
/// [`KeyRing`](crate::KeyRing) implements it in process over any [`KeyStore`](crate::store::KeyStore). A
/// [`Client`](crate::Client) calls it without a [`Request`] for each call.
///
/// # Errors of every method
///
/// Beside the errors that a method lists, each may fail with:
///
/// - [`ErrorKind::Unreachable`]: no connection to the backend, or it answered with a server error.
/// - [`ErrorKind::Sealed`]: the backend is sealed, or not initialised yet.
/// - [`ErrorKind::NotSetUp`]: the place of the records is not there, such as a table.
/// - [`ErrorKind::Behind`]: a replica answered and does not have it, and others may.
/// - [`ErrorKind::Throttled`]: the backend, or a limit of the service, asks the caller to come back later.
/// - [`ErrorKind::Timeout`]: the answer did not come within the request's deadline.
/// - [`ErrorKind::Denied`]: the backend refuses this operation to the service.
/// - [`ErrorKind::LoginRefused`]: the backend refuses the service's credentials, or there are none.
/// - [`ErrorKind::Disabled`]: the key is disabled, or the root key above it is disabled or will be deleted.
/// - [`ErrorKind::Deleted`]: the key was deleted and can be restored.
/// - [`ErrorKind::Corrupt`]: the stored key is damaged, or sealed under another root key.
/// - [`ErrorKind::Unsupported`]: the service does not have this operation.
/// - [`ErrorKind::Abandoned`]: the caller left before the operation began ([`Request::awaited`]).
/// - [`ErrorKind::Internal`]: a defect of the service.
///
/// The first six are outages ([`ErrorKind::is_outage`]).
///
/// [`ErrorKind::Unreachable`]: crate::ErrorKind::Unreachable
/// [`ErrorKind::Sealed`]: crate::ErrorKind::Sealed
/// [`ErrorKind::NotSetUp`]: crate::ErrorKind::NotSetUp
/// [`ErrorKind::Behind`]: crate::ErrorKind::Behind
/// [`ErrorKind::Throttled`]: crate::ErrorKind::Throttled
/// [`ErrorKind::Timeout`]: crate::ErrorKind::Timeout
/// [`ErrorKind::Denied`]: crate::ErrorKind::Denied
/// [`ErrorKind::LoginRefused`]: crate::ErrorKind::LoginRefused
/// [`ErrorKind::Disabled`]: crate::ErrorKind::Disabled
/// [`ErrorKind::Deleted`]: crate::ErrorKind::Deleted
/// [`ErrorKind::Corrupt`]: crate::ErrorKind::Corrupt
/// [`ErrorKind::Unsupported`]: crate::ErrorKind::Unsupported
/// [`ErrorKind::Abandoned`]: crate::ErrorKind::Abandoned
/// [`ErrorKind::Internal`]: crate::ErrorKind::Internal
/// [`ErrorKind::is_outage`]: crate::ErrorKind::is_outage
#[async_trait]
pub trait Kms: Send + Sync + 'static {
    /// Returns what this service can do, and its name for messages.
    fn capabilities(&self) -> Capabilities;

    /// Makes a new master key.
    ///
    /// When the method returns, the key is stored durably and was read back.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists): there is a key of that name, even an unreadable
    ///   one. It is left as it is.
    /// - [`ErrorKind::ReadOnly`](crate::ErrorKind::ReadOnly), [`ErrorKind::DiskFull`](crate::ErrorKind::DiskFull): the store
    ///   cannot take writes now.
    async fn create(&self, request: &Request, name: &KeyName) -> Result<()>;

    /// Stores the caller's key bytes as a new master key.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists): there is a key of that name, even an unreadable
    ///   one. It is left as it is.
    /// - [`ErrorKind::Conflict`](crate::ErrorKind::Conflict): a purge of a key with these bytes is under way.
    /// - [`ErrorKind::ReadOnly`](crate::ErrorKind::ReadOnly), [`ErrorKind::DiskFull`](crate::ErrorKind::DiskFull): the store
    ///   cannot take writes now.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the service imports no keys
    ///   ([`Capabilities::import`]).
    async fn import(&self, request: &Request, name: &KeyName, key: ImportedKey) -> Result<()>;

    /// Returns the public facts about a key.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key.
    async fn describe(&self, request: &Request, name: &KeyName) -> Result<KeyInfo>;

    /// Lists key names, in byte order.
    ///
    /// # Errors
    ///
    /// Only the errors of every method.
    async fn list(&self, request: &Request, query: &ListQuery<'_>) -> Result<Page>;

    /// Deletes a key, and with it everything that was encrypted under it.
    ///
    /// A service that [keeps deleted keys](Capabilities::keeps_deleted) can [restore](Kms::restore) it for a time. Any other
    /// deletes it for ever.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key.
    /// - [`ErrorKind::Conflict`](crate::ErrorKind::Conflict): a restore of the key is under way.
    /// - [`ErrorKind::ReadOnly`](crate::ErrorKind::ReadOnly), [`ErrorKind::DiskFull`](crate::ErrorKind::DiskFull): the store
    ///   cannot take writes now.
    async fn delete(&self, request: &Request, name: &KeyName) -> Result<Deletion>;

    /// Lists the deleted keys, in byte order of their names, as far as the service knows them.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the service cannot list deleted keys.
    async fn deleted(&self, _: &Request, _: &ListQuery<'_>) -> Result<DeletedPage> {
        Err(Error::new(ErrorKind::Unsupported, "list deleted keys"))
    }

    /// Restores a deleted key. It is then as it was. A key that the store lost, and that the service has in memory, is written
    /// back; if another key has its name by then, under the name that [`former_name`](crate::transfer::former_name) returns.
    ///
    /// With `resume` the server of a restore or purge that is under way is dead, by the word of an operator.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key any more.
    /// - [`ErrorKind::Conflict`](crate::ErrorKind::Conflict): the key is not deleted, or a restore or a purge is under way.
    /// - [`ErrorKind::ReadOnly`](crate::ErrorKind::ReadOnly), [`ErrorKind::DiskFull`](crate::ErrorKind::DiskFull): the store
    ///   cannot take writes now.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the service restores no keys.
    async fn restore(&self, _: &Request, name: &KeyName, _resume: bool) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, format!("restore key '{name}'")))
    }

    /// Removes a deleted key for ever.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key any more.
    /// - [`ErrorKind::Conflict`](crate::ErrorKind::Conflict): the key is not deleted, it is kept for longer, other servers may
    ///   still use it, or a restore or a purge is under way.
    /// - [`ErrorKind::ReadOnly`](crate::ErrorKind::ReadOnly), [`ErrorKind::DiskFull`](crate::ErrorKind::DiskFull): the store
    ///   cannot take writes now.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the backend alone removes deleted keys.
    async fn purge(&self, _: &Request, name: &KeyName, _purge: &Purge) -> Result<Purged> {
        Err(Error::new(ErrorKind::Unsupported, format!("purge key '{name}'")))
    }

    /// Returns when this process used a key last, as far as it remembers.
    fn last_use(&self, _: &KeyName) -> Option<Timestamp> {
        None
    }

    /// Makes a new version of a key.
    ///
    /// Everything that was sealed before stays readable, and HMACs stay the same. The new version opens at once. It seals
    /// after [`Rotation::seals_after`], so that every server can open it by then.
    ///
    /// With `newest` the key is rotated only if that is its newest version. Of several servers that rotate a key for the
    /// same reason, one succeeds.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key.
    /// - [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists): there is a newer version than `newest`.
    /// - [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput): the key has 1,000 versions already.
    /// - [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt): the newest version is there and cannot be read.
    /// - [`ErrorKind::ReadOnly`](crate::ErrorKind::ReadOnly), [`ErrorKind::DiskFull`](crate::ErrorKind::DiskFull): the store
    ///   cannot take writes now.
    /// - [`ErrorKind::Conflict`](crate::ErrorKind::Conflict): the backend does not rotate the key now, or not again.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the service rotates no keys, or the store denies the path
    ///   of versions.
    async fn rotate(&self, _: &Request, name: &KeyName, _newest: Option<u32>) -> Result<Rotation> {
        Err(Error::new(ErrorKind::Unsupported, format!("rotate key '{name}'")))
    }

    /// Describes the versions of a key, the oldest first.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the service has no versions.
    async fn versions(&self, _: &Request, name: &KeyName) -> Result<Vec<VersionInfo>> {
        Err(Error::new(ErrorKind::Unsupported, format!("list the versions of key '{name}'")))
    }

    /// Disables a version of a key. Nothing is destroyed, and [`enable`](Kms::enable) brings it back.
    ///
    /// What is sealed under a disabled version does not open. Other servers of the same store follow within their
    /// [`CacheConfig::any`](crate::CacheConfig::any).
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key.
    /// - [`ErrorKind::Conflict`](crate::ErrorKind::Conflict): there is no such version, or it may still seal: a newer one has
    ///   to be twice as old as a server may take to see it.
    /// - [`ErrorKind::ReadOnly`](crate::ErrorKind::ReadOnly), [`ErrorKind::DiskFull`](crate::ErrorKind::DiskFull): the store
    ///   cannot take writes now.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the service has no versions, or the store denies the path
    ///   of markers.
    async fn retire(&self, _: &Request, name: &KeyName, version: u32) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, format!("retire version {version} of key '{name}'")))
    }

    /// Enables a version of a key that was disabled. It is no error if the version is enabled already.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key.
    /// - [`ErrorKind::Conflict`](crate::ErrorKind::Conflict): there is no such version.
    /// - [`ErrorKind::ReadOnly`](crate::ErrorKind::ReadOnly), [`ErrorKind::DiskFull`](crate::ErrorKind::DiskFull): the store
    ///   cannot take writes now.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the service has no versions, or the store denies the path
    ///   of markers.
    async fn enable(&self, _: &Request, name: &KeyName, version: u32) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, format!("enable version {version} of key '{name}'")))
    }

    /// Lists the names of all keys that [`export`](Kms::export) may return, in byte order. Deleted keys that can be restored are
    /// among them.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): keys never leave the service.
    async fn exportable(&self, _: &Request, _: &ListQuery<'_>) -> Result<Page> {
        Err(Error::new(ErrorKind::Unsupported, "list the keys for a backup"))
    }

    /// Returns a key as it is stored, with its secrets and all that belongs to it, for a backup.
    ///
    /// It is read from the backend, past any cache. A server has to seal it before it hands it to anybody.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key.
    /// - [`ErrorKind::Conflict`](crate::ErrorKind::Conflict): a restore or a purge of the key is under way, or was cut off.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): keys never leave the service.
    async fn export(&self, _: &Request, name: &KeyName) -> Result<StoredKey> {
        Err(Error::new(ErrorKind::Unsupported, format!("read key '{name}' for a backup")))
    }

    /// Returns how often the versions of rotated keys were used by this process.
    fn version_uses(&self) -> Vec<(KeyName, u32, VersionUse)> {
        Vec::new()
    }

    /// Opens a ciphertext and seals its plaintext under the version that seals now, and under the same context.
    ///
    /// # Errors
    ///
    /// Those of [`decrypt`](Kms::decrypt) and [`encrypt`](Kms::encrypt).
    async fn rewrap(
        &self,
        request: &Request,
        name: &KeyName,
        ciphertext: &[u8],
        context: &[u8],
    ) -> Result<Vec<u8>> {
        let plaintext = self.decrypt(request, name, ciphertext, context).await?;
        self.encrypt(request, name, plaintext.expose(), context).await
    }

    /// Makes a random data encryption key, and seals it under the master key and `context`.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key.
    async fn generate(&self, request: &Request, name: &KeyName, context: &[u8]) -> Result<DataKey>;

    /// Seals `plaintext` under the master key and `context`.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key.
    async fn encrypt(
        &self,
        request: &Request,
        name: &KeyName,
        plaintext: &[u8],
        context: &[u8],
    ) -> Result<Vec<u8>>;

    /// Opens a ciphertext of [`generate`](Kms::generate) or [`encrypt`](Kms::encrypt).
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key.
    /// - [`ErrorKind::NotAuthentic`](crate::ErrorKind::NotAuthentic): key, context and ciphertext do not belong together.
    async fn decrypt(
        &self,
        request: &Request,
        name: &KeyName,
        ciphertext: &[u8],
        context: &[u8],
    ) -> Result<SecretBytes>;

    /// Computes HMAC-SHA256 of `message` under the key's HMAC key.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no such key.
    /// - [`ErrorKind::NoHmacKey`](crate::ErrorKind::NoHmacKey): the key has no HMAC key.
    /// - [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput): the HMAC key is the key itself, and the message has exactly 16 bytes.
    async fn hmac(&self, request: &Request, name: &KeyName, message: &[u8]) -> Result<[u8; 32]>;

    /// Asks the backend whether it can serve.
    ///
    /// # Errors
    ///
    /// Only the errors of every method. The error says why the service cannot serve.
    async fn status(&self) -> Result<StoreStatus>;

    /// Returns the counters of the cache since the start; `None` if there is no cache.
    fn counters(&self) -> Option<CacheCounters> {
        None
    }

    /// Returns whether the backend is known to be away: it did not answer the last call. `None` if that is not watched.
    fn is_away(&self) -> Option<bool> {
        None
    }

    /// Returns when the login of the backend ends unless it is renewed before, and 1970 while there is none.
    ///
    /// `None` if there is no login, or one without an end.
    fn login_ends(&self) -> Option<Timestamp> {
        None
    }

    /// Returns the number of configured roots that do not open the store now; `None` if it has no roots.
    fn closed_roots(&self) -> Option<usize> {
        None
    }

    /// Returns the id of each configured root, and when this process last saw it open the store; empty if it has no roots.
    fn roots_opened(&self) -> Vec<(String, Option<Timestamp>)> {
        Vec::new()
    }
}

/// The capabilities of a [`Kms`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each is a capability of its own")]
pub struct Capabilities {
    /// The name of the backend in messages.
    pub backend: &'static str,
    /// Whether keys can be imported.
    pub import: bool,
    /// Whether keys have versions that are listed, retired and enabled.
    ///
    /// Without them a key may be rotated all the same, by a backend that keeps its versions to itself.
    pub versions: bool,
    /// Whether keys outlive the process.
    pub durable: bool,
    /// Whether a deleted key keeps its name for a time, in which [`Kms::restore`] brings it back.
    ///
    /// In that time its uses and a second delete fail with [`ErrorKind::Deleted`](crate::ErrorKind::Deleted), and a create of
    /// its name fails with [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists). It is listed only if the backend
    /// cannot tell deleted keys from others there.
    pub keeps_deleted: bool,
}

impl Capabilities {
    /// Creates the capabilities of a service that can do everything, keeps its keys, and forgets deleted ones.
    pub const fn all(backend: &'static str) -> Self {
        Self { backend, import: true, versions: true, durable: true, keeps_deleted: false }
    }
}

/// The public facts about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyInfo {
    /// The name of the key.
    pub name: KeyName,
    /// The cipher that seals under the key.
    pub cipher: Cipher,
    /// The time of creation; `None` in records of old KES releases.
    pub created_at: Option<Timestamp>,
    /// The creator, as the store records it; empty in records of old KES releases.
    pub created_by: String,
    /// The fingerprint of the key, if the service knows the key's bytes.
    pub fingerprint: Option<Fingerprint>,
}

impl KeyInfo {
    /// Creates the facts about a key of unknown origin.
    pub fn new(name: KeyName, cipher: Cipher) -> Self {
        Self { name, cipher, created_at: None, created_by: String::new(), fingerprint: None }
    }

    /// Sets the time of creation and the creator.
    #[must_use]
    pub fn created(self, at: Option<Timestamp>, by: impl Into<String>) -> Self {
        Self { created_at: at, created_by: by.into(), ..self }
    }

    /// Sets the fingerprint.
    #[must_use]
    pub fn with_fingerprint(self, fingerprint: Fingerprint) -> Self {
        Self { fingerprint: Some(fingerprint), ..self }
    }
}

/// A new version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rotation {
    /// The number of the version; `None` if the service has no numbers for them.
    pub version: Option<u32>,
    /// The time after which it seals.
    pub seals_after: Duration,
}

impl Rotation {
    /// Creates the description of a version that has a number if the service gives them one.
    pub fn new(version: Option<u32>, seals_after: Duration) -> Self {
        Self { version, seals_after }
    }
}

/// The public facts about a version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionInfo {
    /// The number of the version, from 1.
    pub version: u32,
    /// The cipher that seals under the version; `None` if it cannot be read.
    pub cipher: Option<Cipher>,
    /// The time of creation; `None` in records of old KES releases.
    pub created_at: Option<Timestamp>,
    /// The creator, as the store records it; empty in records of old KES releases.
    pub created_by: String,
    /// The fingerprint of this version; `None` if it cannot be read.
    pub fingerprint: Option<Fingerprint>,
    /// Why the version cannot be read.
    pub unreadable: Option<String>,
    /// Whether the version is disabled.
    pub is_disabled: bool,
    /// How often the version was used; `None` for a key that was never rotated.
    pub used: Option<VersionUse>,
}

/// How often, and when last, one process used a version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionUse {
    /// When this process began to count.
    pub since: Timestamp,
    /// How often it was asked to open a ciphertext of this version.
    pub opened: u64,
    /// When it was asked so last.
    pub last_opened: Option<Timestamp>,
    /// How often it sealed under this version.
    pub sealed: u64,
    /// When it did so last.
    pub last_sealed: Option<Timestamp>,
}

impl VersionInfo {
    /// Creates the facts about a version that cannot be read.
    pub(crate) fn unreadable(version: u32, error: &Error) -> Self {
        Self {
            version,
            cipher: None,
            created_at: None,
            created_by: String::new(),
            fingerprint: None,
            unreadable: Some(error.chain().to_string()),
            is_disabled: false,
            used: None,
        }
    }
}

/// The key bytes of an [import](Kms::import).
#[non_exhaustive]
pub struct ImportedKey {
    /// The 32 bytes.
    pub key: SecretKey,
    /// The cipher that will seal under the key.
    pub cipher: Cipher,
}

impl ImportedKey {
    /// Creates a key for an import.
    pub fn new(key: SecretKey, cipher: Cipher) -> Self {
        Self { key, cipher }
    }
}
