//! Where records rest: the trait that a storage backend implements.

use std::time::Duration;

use async_trait::async_trait;

use crate::{EntryName, KeyName, Result, SecretBytes};

/// A durable map of name to small immutable record.
///
/// A store keeps bytes and does not know what they mean. There is no overwriting: create-if-absent is all
/// that must be atomic. Every method may fail with the kinds of an outage ([`ErrorKind::Unreachable`],
/// [`Sealed`], [`Throttled`], [`Timeout`]), with [`Denied`] or [`LoginRefused`] where the backend refuses,
/// and with [`Internal`].
///
/// The contract suite (feature `contract`) tells in executable form what is expected.
///
/// [`ErrorKind::Unreachable`]: crate::ErrorKind::Unreachable
/// [`Sealed`]: crate::ErrorKind::Sealed
/// [`Throttled`]: crate::ErrorKind::Throttled
/// [`Timeout`]: crate::ErrorKind::Timeout
/// [`Denied`]: crate::ErrorKind::Denied
/// [`LoginRefused`]: crate::ErrorKind::LoginRefused
/// [`Internal`]: crate::ErrorKind::Internal
#[async_trait]
pub trait KeyStore: Send + Sync + 'static {
    /// Tells what this store can do, and a name for messages.
    fn capabilities(&self) -> StoreCapabilities;

    /// Stores `record` under `name` if nothing is there; durable when it returns.
    ///
    /// Fails with `AlreadyExists` when there is an entry, one that cannot be read too, which is left as it was; of several
    /// callers at once exactly one succeeds. Fails with `ReadOnly` when writes are not possible now. After a failure
    /// for which [`leaves_outcome_unknown`](crate::ErrorKind::leaves_outcome_unknown) holds, the caller has
    /// to read the entry to know.
    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()>;

    /// Reads the record under `name`.
    ///
    /// Fails with `NotFound` only when there is none: a client may make the key anew then, and all that was sealed under
    /// the old one is lost. Fails with `Corrupt` when what is there is not what was stored, and with `Denied` when
    /// whether something is there may not be known.
    async fn get(&self, name: &EntryName) -> Result<SecretBytes>;

    /// Removes the entry `name` for ever; durable when it returns.
    ///
    /// Fails with `NotFound` when there is none, with `ReadOnly` when writes are not possible now.
    async fn delete(&self, name: &EntryName) -> Result<()>;

    /// Lists the names of keys that begin with `query.prefix`, in byte order, without slots.
    async fn list(&self, query: &ListQuery<'_>) -> Result<Page>;

    /// Asks the backend whether it can serve.
    async fn status(&self) -> Result<StoreStatus>;

    /// Names the place where the entry `name` rests, for messages: a file, a path, a secret.
    fn place(&self, name: &EntryName) -> String {
        format!("entry '{name}' in {}", self.capabilities().name)
    }
}

/// What a store can do, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreCapabilities {
    /// What the store is called in messages: `sled`, `vault`.
    pub name: &'static str,
    /// Nobody but this process can change the entries, so a key once read need not be read again to be
    /// sure of it.
    pub sole_writer: bool,
    /// What is stored outlives the process.
    pub durable: bool,
}

impl StoreCapabilities {
    /// Describes a store that other processes write to as well, and that is durable.
    pub const fn shared(name: &'static str) -> Self {
        Self { name, sole_writer: false, durable: true }
    }

    /// Describes a durable store that this process alone can open.
    pub const fn exclusive(name: &'static str) -> Self {
        Self { name, sole_writer: true, durable: true }
    }

    /// Describes a store in this process's memory.
    pub const fn in_memory(name: &'static str) -> Self {
        Self { name, sole_writer: true, durable: false }
    }
}

/// Which names to list.
#[derive(Clone, Copy, Debug)]
pub struct ListQuery<'a> {
    /// What the names begin with; empty for all.
    pub prefix: &'a str,
    /// The last name of the page before; names up to and including it are left out.
    pub after: Option<&'a str>,
    /// The most names to return, 1 to [`MAX_PAGE_LEN`](crate::name::MAX_PAGE_LEN).
    pub limit: usize,
}

impl<'a> ListQuery<'a> {
    /// Asks for the first page of the names that begin with `prefix`.
    pub fn prefix(prefix: &'a str) -> Self {
        Self { prefix, after: None, limit: crate::name::MAX_PAGE_LEN }
    }

    /// Tells whether `name` is one of those asked for, the limit aside.
    pub fn matches(&self, name: &str) -> bool {
        name.starts_with(self.prefix) && self.after.is_none_or(|after| name > after)
    }
}

/// A part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Names in byte order.
    pub names: Vec<KeyName>,
    /// Whether names are left after the last of these.
    pub more: bool,
}

/// A store's answer to being asked how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStatus {
    /// How long the backend took to answer.
    pub latency: Duration,
    /// Whether the backend answers. A key ring with an offline copy serves also while it does not.
    pub reachable: bool,
    /// What does not stop it from serving but should be known, in a few words.
    pub degraded: Option<String>,
}

impl StoreStatus {
    /// Reports a backend that is well and answered within `latency`.
    pub fn ok(latency: Duration) -> Self {
        Self { latency, reachable: true, degraded: None }
    }

    /// Reports a backend that is away while keys are served from an offline copy.
    pub fn offline(latency: Duration, why: impl Into<String>) -> Self {
        Self { latency, reachable: false, degraded: Some(why.into()) }
    }

    /// Adds what should be known although the backend serves, to what is known already.
    #[must_use]
    pub fn degraded(mut self, why: impl Into<String>) -> Self {
        self.degraded = Some(match self.degraded.take() {
            None => why.into(),
            Some(before) => format!("{before}; {}", why.into()),
        });
        self
    }
}

#[async_trait]
impl<S: KeyStore + ?Sized> KeyStore for std::sync::Arc<S> {
    fn capabilities(&self) -> StoreCapabilities {
        (**self).capabilities()
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        (**self).create(name, record).await
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        (**self).get(name).await
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        (**self).delete(name).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        (**self).list(query).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        (**self).status().await
    }

    fn place(&self, name: &EntryName) -> String {
        (**self).place(name)
    }
}
