//! The trait of storage backends.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::changes::Changes;
use super::entry::EntryName;
use super::gone::Notes;
use crate::error::{Error, ErrorKind, Result};
use crate::listing::{ListQuery, Page};
use crate::primitives::SecretBytes;
use crate::status::StoreStatus;

/// A durable map from names to small immutable records.
///
/// A store keeps bytes and does not interpret them. Nothing is ever overwritten: only create-if-absent has to be
/// atomic. [`MemoryStore`](super::MemoryStore) is the shortest implementation, and the contract suite
/// (`kms_core::contract`, feature `contract`) checks every rule of this trait.
///
/// # Errors of every method
///
/// Beside the errors that a method lists, each may fail with:
///
/// - [`ErrorKind::Unreachable`]: no connection to the backend, or it answered with a server error.
/// - [`ErrorKind::Sealed`]: the backend is sealed, or not initialised yet.
/// - [`ErrorKind::NotSetUp`]: the place of the records is not there, such as a table.
/// - [`ErrorKind::Behind`]: a replica answered and does not have it, and others may.
/// - [`ErrorKind::Throttled`]: the backend, or a limit of the store, asks the caller to come back later.
/// - [`ErrorKind::Timeout`]: the backend did not answer in time.
/// - [`ErrorKind::Denied`]: the backend refuses this operation.
/// - [`ErrorKind::LoginRefused`]: the backend refuses the credentials, or there are none.
/// - [`ErrorKind::Internal`]: a defect of the store.
///
/// The first six are outages ([`ErrorKind::is_outage`]): a [`KeyRing`](crate::KeyRing) goes on with the keys that it
/// has. The others are answers.
///
/// # Cancellation
///
/// A caller may drop the future of any method. A write that was sent may then still happen.
///
/// [`ErrorKind::Unreachable`]: crate::ErrorKind::Unreachable
/// [`ErrorKind::Sealed`]: crate::ErrorKind::Sealed
/// [`ErrorKind::NotSetUp`]: crate::ErrorKind::NotSetUp
/// [`ErrorKind::Behind`]: crate::ErrorKind::Behind
/// [`ErrorKind::Throttled`]: crate::ErrorKind::Throttled
/// [`ErrorKind::Timeout`]: crate::ErrorKind::Timeout
/// [`ErrorKind::Denied`]: crate::ErrorKind::Denied
/// [`ErrorKind::LoginRefused`]: crate::ErrorKind::LoginRefused
/// [`ErrorKind::Internal`]: crate::ErrorKind::Internal
/// [`ErrorKind::is_outage`]: crate::ErrorKind::is_outage
#[async_trait]
pub trait KeyStore: Send + Sync + 'static {
    /// Returns what this store can do, and its name for messages.
    fn capabilities(&self) -> StoreCapabilities;

    /// Stores `record` under `name` if there is no such entry. The record is durable when the method returns.
    ///
    /// Exactly one of several concurrent callers succeeds. After an error for which
    /// [`ErrorKind::leaves_outcome_unknown`](crate::ErrorKind::leaves_outcome_unknown) holds, only a read of the entry
    /// tells whether it was stored.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists): there is an entry, even an unreadable one. It is
    ///   left as it is.
    /// - [`ErrorKind::ReadOnly`](crate::ErrorKind::ReadOnly), [`ErrorKind::DiskFull`](crate::ErrorKind::DiskFull): the store
    ///   cannot take writes now.
    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()>;

    /// Reads the record under `name`.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no entry. No other state may be reported so: a
    ///   client would make the key anew, and everything sealed under the old key would be lost.
    /// - [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt): the entry does not hold what was stored.
    /// - [`ErrorKind::Disabled`](crate::ErrorKind::Disabled): the backend has disabled the entry.
    /// - [`ErrorKind::Deleted`](crate::ErrorKind::Deleted): the entry was deleted, and the backend can undo that
    ///   ([`restore`](KeyStore::restore)).
    /// - [`ErrorKind::Denied`](crate::ErrorKind::Denied): the backend does not reveal whether there is an entry.
    async fn get(&self, name: &EntryName) -> Result<SecretBytes>;

    /// Deletes the entry `name`. The deletion is durable when the method returns.
    ///
    /// Of a key, the backend may keep what was deleted for a time, and restore it
    /// ([`StoreCapabilities::keeps_deleted`]). Of what belongs to a key ([`EntryName::is_hidden`]) it keeps nothing.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no entry.
    /// - [`ErrorKind::ReadOnly`](crate::ErrorKind::ReadOnly), [`ErrorKind::DiskFull`](crate::ErrorKind::DiskFull): the store
    ///   cannot take writes now.
    async fn delete(&self, name: &EntryName) -> Result<()>;

    /// Deletes the entry `name` for ever, also where [`delete`](KeyStore::delete) would keep it for a time.
    ///
    /// # Errors
    ///
    /// Those of [`delete`](KeyStore::delete).
    async fn erase(&self, name: &EntryName) -> Result<()> {
        self.delete(name).await
    }

    /// Deletes the entry `name` of a key for ever, and leaves the note `gone` with `record` behind.
    ///
    /// A store with [`StoreCapabilities::notes_removals`] does both at once: whoever finds neither the entry nor the note
    /// knows that nobody removed the key. There the note is made, in the place of an older one of the same key. Every other
    /// store only erases the entry.
    ///
    /// # Errors
    ///
    /// Those of [`erase`](KeyStore::erase). Without an entry no note is made.
    async fn remove(&self, name: &EntryName, gone: &EntryName, record: &SecretBytes) -> Result<()> {
        let _ = (gone, record);
        self.erase(name).await
    }

    /// Stores `record` under `name` as [`create`](KeyStore::create) does, for a key that is brought back: by an import, a
    /// move or a restore.
    ///
    /// A store with [`StoreCapabilities::notes_removals`] removes the note `gone` of this very key at once with it. That the
    /// note is absent is no error, and a refused creation leaves it as it is.
    ///
    /// # Errors
    ///
    /// Those of [`create`](KeyStore::create).
    async fn bring_back(&self, name: &EntryName, record: &SecretBytes, gone: &EntryName) -> Result<()> {
        let _ = gone;
        self.create(name, record).await
    }

    /// Puts `record` in the place of the entry `name`, which is erased. The record is durable when the method returns.
    ///
    /// This is for a tool that has the store to itself. Unless the backend changes both at once, the entry is absent for a
    /// moment, and stays so if the process ends there. After an error only a read tells what is there. A store with
    /// [`StoreCapabilities::notes_removals`] makes the note of the key that goes, and removes that of the key that comes.
    ///
    /// # Errors
    ///
    /// Those of [`remove`](KeyStore::remove) and [`bring_back`](KeyStore::bring_back). Without an entry nothing is made.
    async fn replace(&self, name: &EntryName, record: &SecretBytes, notes: &Notes<'_>) -> Result<()> {
        self.remove(name, notes.gone, notes.record).await?;
        self.bring_back(name, record, notes.back).await
    }

    /// Restores an entry whose read fails as [`ErrorKind::Deleted`](crate::ErrorKind::Deleted).
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): there is no entry any more.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the backend restores nothing.
    async fn restore(&self, name: &EntryName) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, format!("restore entry '{name}'")))
    }

    /// Lists the names of keys that match `query`, in byte order. Slots ([`EntryName::is_hidden`]) are left out.
    ///
    /// # Errors
    ///
    /// Only the errors of every method.
    async fn list(&self, query: &ListQuery<'_>) -> Result<Page>;

    /// Lists the next segments of the names of all entries whose names begin with `directory`, in byte order and each once.
    ///
    /// The directory begins with a dot and ends with a slash, such as `.d/` or `.d/my-key/`. A segment ends before the next
    /// slash or at the end of the name. If there is no such entry, the list is empty.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the store cannot list such entries. Deleted keys are
    ///   then listed like others.
    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        Err(Error::new(ErrorKind::Unsupported, format!("list '{directory}'")))
    }

    /// Returns the changes that others make to keys, as they happen. `None` if nobody notifies.
    ///
    /// The stream tells of each key that was removed, marked or unmarked, and not of one that was created. It may tell of what
    /// this process changed, too, or of what did not change. It ends only with the store. A key ring takes it once, at its
    /// start; whether a second call returns another stream is up to the store.
    ///
    /// Changes make the news of a removal faster. How long a key may be used without them is the same with and without.
    fn changes(&self) -> Option<Changes> {
        None
    }

    /// Asks the backend whether it can serve.
    ///
    /// # Errors
    ///
    /// Only the errors of every method. The error says why the backend cannot serve.
    async fn status(&self) -> Result<StoreStatus>;

    /// Returns when the login of the store ends unless it is renewed before, and 1970 while there is none.
    ///
    /// `None` if there is no login, or one without an end. Of several logins, the one that ends first counts.
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

    /// Returns the command that frees the name of an entry that was destroyed in the backend; `None` if such a name is free.
    fn freed_by(&self, _name: &EntryName) -> Option<String> {
        None
    }

    /// Returns the place of the entry `name` for messages: a file, a path, a secret.
    fn place(&self, name: &EntryName) -> String {
        format!("entry '{name}' in {}", self.capabilities().name)
    }
}

/// The capabilities of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each is a capability of its own")]
pub struct StoreCapabilities {
    /// The name of the store in messages, such as `sled` or `vault`.
    pub name: &'static str,
    /// Whether only this process can change the entries. A key ring then trusts a key that it has read, and does not
    /// read it again to be sure.
    pub sole_writer: bool,
    /// Whether entries outlive the process.
    pub durable: bool,
    /// Whether [`get`](KeyStore::get) mostly answers from memory, at its first poll and in some microseconds. A key ring
    /// then reads in the task of the request, and only goes on in a task of its own if the read waits after all.
    pub reads_at_once: bool,
    /// Whether [`delete`](KeyStore::delete) keeps keys for a time in which the backend can restore them.
    pub keeps_deleted: bool,
    /// Whether [`remove`](KeyStore::remove) leaves a note, at once with the removal. A key that is gone without one, and
    /// without the marker of a deletion, was lost then: nobody deleted it.
    pub notes_removals: bool,
    /// The time after which every read shows a change. Zero if reads are never behind.
    pub settle: Duration,
}

impl StoreCapabilities {
    /// Creates the capabilities of a durable store that other processes write to as well.
    pub const fn shared(name: &'static str) -> Self {
        Self {
            name,
            sole_writer: false,
            durable: true,
            reads_at_once: false,
            keeps_deleted: false,
            notes_removals: false,
            settle: Duration::ZERO,
        }
    }

    /// Creates the capabilities of a durable store that only this process can open.
    pub const fn exclusive(name: &'static str) -> Self {
        Self { sole_writer: true, ..Self::shared(name) }
    }

    /// Creates the capabilities of a store in the memory of this process.
    pub const fn in_memory(name: &'static str) -> Self {
        Self { durable: false, reads_at_once: true, ..Self::exclusive(name) }
    }

    /// Notes that reads mostly come from memory.
    #[must_use]
    pub const fn reading_at_once(mut self) -> Self {
        self.reads_at_once = true;
        self
    }

    /// Notes that the backend keeps deleted keys for a time.
    #[must_use]
    pub const fn keeping_deleted(mut self) -> Self {
        self.keeps_deleted = true;
        self
    }

    /// Notes that a removal leaves a note.
    #[must_use]
    pub const fn noting_removals(mut self) -> Self {
        self.notes_removals = true;
        self
    }

    /// Sets the time after which every read shows a change.
    #[must_use]
    pub const fn settling_in(mut self, settle: Duration) -> Self {
        self.settle = settle;
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

    async fn erase(&self, name: &EntryName) -> Result<()> {
        (**self).erase(name).await
    }

    async fn remove(&self, name: &EntryName, gone: &EntryName, record: &SecretBytes) -> Result<()> {
        (**self).remove(name, gone, record).await
    }

    async fn bring_back(&self, name: &EntryName, record: &SecretBytes, gone: &EntryName) -> Result<()> {
        (**self).bring_back(name, record, gone).await
    }

    async fn replace(&self, name: &EntryName, record: &SecretBytes, notes: &Notes<'_>) -> Result<()> {
        (**self).replace(name, record, notes).await
    }

    async fn restore(&self, name: &EntryName) -> Result<()> {
        (**self).restore(name).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        (**self).list(query).await
    }

    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        (**self).segments(directory).await
    }

    fn changes(&self) -> Option<Changes> {
        (**self).changes()
    }

    async fn status(&self) -> Result<StoreStatus> {
        (**self).status().await
    }

    fn login_ends(&self) -> Option<Timestamp> {
        (**self).login_ends()
    }

    fn closed_roots(&self) -> Option<usize> {
        (**self).closed_roots()
    }

    fn roots_opened(&self) -> Vec<(String, Option<Timestamp>)> {
        (**self).roots_opened()
    }

    fn freed_by(&self, name: &EntryName) -> Option<String> {
        (**self).freed_by(name)
    }

    fn place(&self, name: &EntryName) -> String {
        (**self).place(name)
    }
}
