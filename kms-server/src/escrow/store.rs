//! A key store whose keys are in escrow before anybody hears that they are there.

use std::sync::Arc;

use async_trait::async_trait;
use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyStore, StoreCapabilities};
use kms_core::{Error, ErrorKind, KeyName, ListQuery, Page, Result, StoreStatus};
use tracing::{error, warn};

use super::known::{Digest, Known, Pending, Standing};
use super::line::{Says, Subject};
use super::seal;
use super::writer::{Draft, Unwritten, Writer};
use crate::recipients::Recipients;
use crate::settings::EscrowFailure;

/// What of a store an entry is.
enum Kind {
    /// A key or a later version, which are kept in escrow.
    Record,
    /// The mark of a deleted key, and that key.
    Deleted(Subject),
    /// Anything else.
    Other,
}

/// A key store in which each key, and each later version of one, is sealed into the escrow file first.
///
/// The order makes each cut harmless: the sealed record is on the disk before the store is asked, and the mark that the store
/// has it is on the disk before anybody hears yes. A deletion is noted after the store's.
pub struct Escrowed {
    pub(super) inner: Arc<dyn KeyStore>,
    pub(super) writer: Writer,
    pub(super) recipients: Recipients,
    pub(super) on_failure: EscrowFailure,
    pub(super) known: Arc<Known>,
}

/// The reason why a key was not stored: it cannot be put into escrow.
#[derive(Debug, thiserror::Error)]
#[error("the escrow file cannot be written: {0}")]
pub struct NoEscrow(Unwritten);

impl NoEscrow {
    /// Returns whether this is the reason of an error.
    pub fn is_under(error: &Error) -> bool {
        let mut next = std::error::Error::source(error);
        while let Some(source) = next {
            if source.is::<Self>() {
                return true;
            }
            next = source.source();
        }
        false
    }
}

impl Escrowed {
    /// Seals a record, and writes it into the escrow file as one that the store has.
    pub(super) fn in_store(&self, name: &str, record: &SecretBytes) -> Result<(Subject, Draft)> {
        let subject = Subject::new(name, seal::fingerprint(name, record).as_deref());
        let sealed = self.seal(name, record)?;
        Ok((subject.clone(), Draft::InStore { subject, sealed }))
    }

    fn seal(&self, name: &str, record: &SecretBytes) -> Result<Vec<u8>> {
        let failed =
            |why| Error::with_source(ErrorKind::Internal, format!("put entry '{name}' into escrow"), why);
        seal::seal(&self.recipients, name, record).map_err(failed)
    }

    /// Marks a record as stored. Until that is on the disk, nobody may hear that it is there.
    async fn mark(&self, pending: Pending, record: Digest) -> Result<()> {
        let Pending { place, subject } = pending;
        let says = Says::Stored { entry: place, subject: subject.clone() };
        let written = self.writer.write(vec![Draft::Line(says)]).await;
        self.settle(&subject, record, written.map(drop))
    }

    /// Puts a record into escrow that the store has and that an earlier process began to put there.
    async fn complete(&self, name: &str, content: &SecretBytes, record: Digest) -> Result<()> {
        let (subject, draft) = self.in_store(name, content)?;
        let written = self.writer.write(vec![draft]).await;
        self.settle(&subject, record, written.map(drop))
    }

    /// Takes in whether a record of the store is in escrow now.
    fn settle(
        &self,
        subject: &Subject,
        record: Digest,
        written: std::result::Result<(), Unwritten>,
    ) -> Result<()> {
        let Err(why) = written else {
            self.known.add_stored(subject, record);
            return Ok(());
        };
        let Subject { name, fingerprint } = subject;
        match self.on_failure {
            EscrowFailure::Refuse => {
                let operation = format!("mark entry '{name}' in escrow, which the key store has");
                Err(Error::with_source(ErrorKind::ReadOnly, operation, NoEscrow(why)))
            }
            EscrowFailure::Warn => {
                warn!(entry = %name, %fingerprint, "escrow: this entry is not marked as stored yet: {why}");
                self.lacks(name);
                Ok(())
            }
        }
    }

    /// Notes that the file lacks an entry.
    fn lacks(&self, entry: &str) {
        if let Some(name) = key_of(entry) {
            self.known.add_lacking(name);
        }
    }

    /// Sees to it that a record that was read is in escrow.
    ///
    /// What this or an earlier process began to write is completed before the read is answered. Everything else is added
    /// in the background.
    async fn see(&self, name: &str, content: &SecretBytes) -> Result<()> {
        let record = Digest::of(name, content.expose());
        match self.known.standing(record) {
            Standing::Seen => Ok(()),
            Standing::Pending(pending) => self.mark(pending, record).await,
            Standing::New => {
                let subject = Subject::new(name, seal::fingerprint(name, content).as_deref());
                if self.known.is_unmarked(&subject) {
                    return self.complete(name, content, record).await;
                }
                if !self.known.is_stored(&subject) {
                    self.lacks(name);
                }
                self.known.add_seen(record);
                Ok(())
            }
        }
    }

    /// Writes the record of a new entry. `None` says that there is none in escrow, and that this is allowed.
    async fn write(&self, subject: &Subject, record: &SecretBytes) -> Result<Option<Pending>> {
        let sealed = self.seal(&subject.name, record)?;
        let draft = Draft::Entry { subject: subject.clone(), sealed };
        let why = match self.writer.write(vec![draft]).await {
            Ok(places) => {
                let pending = |place: &_| Pending { place: *place, subject: subject.clone() };
                match places.first().map(pending) {
                    Some(pending) => return Ok(Some(pending)),
                    None => Unwritten::from("it was not told where the entry is"),
                }
            }
            Err(why) => why,
        };
        match self.on_failure {
            EscrowFailure::Refuse => {
                let operation = format!("create entry '{}'", subject.name);
                Err(Error::with_source(ErrorKind::ReadOnly, operation, NoEscrow(why)))
            }
            EscrowFailure::Warn => {
                warn!(entry = %subject.name, "escrow: this entry is stored without escrow: {why}");
                Ok(None)
            }
        }
    }

    /// Removes an entry, and notes that afterwards. Until then a restore from escrow would bring it back.
    async fn remove(&self, name: &EntryName, for_ever: bool) -> Result<()> {
        let kind = kind(name);
        let before = match kind {
            Kind::Record => self.inner.get(name).await.ok(),
            Kind::Deleted(_) | Kind::Other => None,
        };
        let removed = if for_ever { self.inner.erase(name).await } else { self.inner.delete(name).await };
        if let Err(error) = &removed
            && !(error.kind().leaves_outcome_unknown() && self.is_gone(name).await)
        {
            return removed;
        }
        let text = name.as_str();
        let before = before.and_then(|content| {
            let fingerprint = seal::fingerprint(text, &content)?;
            Some((Subject::new(text, Some(&fingerprint)), Digest::of(text, content.expose())))
        });
        let says = match (kind, before) {
            (Kind::Deleted(key), _) => Says::Restored(key),
            (Kind::Record, Some((subject, record))) => {
                let keeps = self.inner.capabilities().keeps_deleted && !for_ever && !name.is_hidden();
                if keeps {
                    Says::Deleted(subject)
                } else {
                    self.known.drop_stored(&subject, record);
                    Says::Gone(subject)
                }
            }
            // It may stand in the place of a key that is in escrow.
            (Kind::Record, None) => {
                warn!(
                    entry = %name,
                    "escrow: which key was removed is not known, since it could not be read: what is in escrow of it stays"
                );
                return removed;
            }
            (Kind::Other, _) => return removed,
        };
        self.note(name, says).await;
        removed
    }

    /// Notes what happened to an entry, now or when that is possible again.
    async fn note(&self, entry: &EntryName, says: Says) {
        if let Err(why) = self.writer.write_sometime(vec![Draft::Line(says)]).await {
            error!(
                %entry, "escrow: a deletion or a restore is noted only when the file can be written again: {why}"
            );
        }
    }

    async fn is_gone(&self, name: &EntryName) -> bool {
        matches!(self.inner.get(name).await, Err(error) if error.kind() == ErrorKind::NotFound)
    }
}

#[async_trait]
impl KeyStore for Escrowed {
    fn capabilities(&self) -> StoreCapabilities {
        self.inner.capabilities()
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        match kind(name) {
            Kind::Record => {}
            Kind::Deleted(key) => {
                let made = self.inner.create(name, record).await;
                let is_made = match &made {
                    Ok(()) => true,
                    Err(error) if error.kind().leaves_outcome_unknown() => {
                        self.inner.get(name).await.is_ok_and(|there| there == *record)
                    }
                    Err(_) => false,
                };
                if is_made {
                    self.note(name, Says::Deleted(key)).await;
                }
                return made;
            }
            Kind::Other => return self.inner.create(name, record).await,
        }
        let taken = || Error::new(ErrorKind::AlreadyExists, format!("create entry '{name}'"));
        match self.inner.get(name).await {
            Ok(_) => return Err(taken()),
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::Denied => {}
                ErrorKind::Corrupt | ErrorKind::Deleted | ErrorKind::Disabled => return Err(taken()),
                _ => return Err(error),
            },
        }
        let text = name.as_str();
        let subject = Subject::new(text, seal::fingerprint(text, record).as_deref());
        let digest = Digest::of(text, record.expose());
        let pending = self.write(&subject, record).await?;
        // The caller may stop waiting at any moment, and read the entry back.
        if let Some(pending) = &pending {
            self.known.add_pending(digest, pending.clone());
        }
        match (self.inner.create(name, record).await, pending) {
            (Ok(()), Some(pending)) => self.mark(pending, digest).await,
            (Ok(()), None) => {
                self.lacks(text);
                Ok(())
            }
            (Err(error), Some(Pending { place, subject })) if is_no(&error) => {
                self.known.drop_pending(digest);
                self.writer.write_later(vec![Draft::Line(Says::Refused { entry: place, subject })]);
                Err(error)
            }
            // A read decides, and marks the entry if it is there.
            (Err(error), _) => Err(error),
        }
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        let content = self.inner.get(name).await?;
        if matches!(kind(name), Kind::Record) {
            self.see(name.as_str(), &content).await?;
        }
        Ok(content)
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.remove(name, false).await
    }

    async fn erase(&self, name: &EntryName) -> Result<()> {
        self.remove(name, true).await
    }

    async fn restore(&self, name: &EntryName) -> Result<()> {
        self.inner.restore(name).await?;
        // Which key it was may show only after a while. All keys of this name count as restored.
        self.note(name, Says::Restored(Subject::new(name.as_str(), None))).await;
        Ok(())
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.inner.list(query).await
    }

    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        self.inner.segments(directory).await
    }

    fn closed_roots(&self) -> Option<usize> {
        self.inner.closed_roots()
    }

    async fn status(&self) -> Result<StoreStatus> {
        let status = self.inner.status().await?;
        Ok(match self.writer.health.failure() {
            Some(why) => status.degraded(format!("the escrow file cannot be written: {why}")),
            None => status,
        })
    }

    fn place(&self, name: &EntryName) -> String {
        self.inner.place(name)
    }
}

/// Returns whether an error of a create says that the entry was not stored.
fn is_no(error: &Error) -> bool {
    // A create neither finds nor opens anything, so these two mean something of the backend's own.
    let is_odd = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotAuthentic);
    !error.kind().leaves_outcome_unknown() && !is_odd
}

fn kind(name: &EntryName) -> Kind {
    let text = name.as_str();
    if !name.is_hidden() || text.starts_with(".v/") {
        return Kind::Record;
    }
    match text.strip_prefix(".d/").and_then(|rest| rest.split_once('/')) {
        Some((key, fingerprint)) => Kind::Deleted(Subject::new(key, Some(fingerprint))),
        None => Kind::Other,
    }
}

/// Returns the key that an entry belongs to.
fn key_of(entry: &str) -> Option<KeyName> {
    let name = match entry.strip_prefix(".v/") {
        Some(rest) => rest.split('/').next()?,
        None => entry,
    };
    KeyName::new(name).ok()
}
