//! A key store whose keys are in escrow before anybody hears that they are there.

use async_trait::async_trait;
use jiff::Timestamp;
use kms_core::primitives::SecretBytes;
use kms_core::store::{Changes, EntryName, KeyStore, StoreCapabilities};
use kms_core::{Error, ErrorKind, ListQuery, Page, Result, StoreStatus};
use tracing::warn;

use super::escrowed::{Escrowed, Kind, NoEscrow, key_of, kind};
use super::known::{Digest, Pending, Standing};
use super::line::{Says, Subject};
use super::removal::{How, to_its_end};
use super::seal;
use super::writer::{Draft, Unwritten};
use crate::settings::EscrowFailure;

impl Escrowed {
    /// Seals a record, and writes it into the escrow file as one that the store has.
    pub(super) fn in_store(&self, subject: &Subject, record: &SecretBytes) -> Result<Draft> {
        let sealed = self.seal(&subject.name, record)?;
        Ok(Draft::InStore { subject: subject.clone(), sealed })
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
    async fn complete(&self, subject: &Subject, content: &SecretBytes, record: Digest) -> Result<()> {
        let draft = self.in_store(subject, content)?;
        let written = self.writer.write(vec![draft]).await;
        self.settle(subject, record, written.map(drop))
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
        let Subject { name, fingerprint, .. } = subject;
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
    async fn see(&self, entry: &EntryName, content: &SecretBytes) -> Result<()> {
        let name = entry.as_str();
        let record = Digest::of(name, content.expose());
        let subject = match self.known.standing(record) {
            Standing::Seen => return Ok(()),
            Standing::Pending(pending) => {
                let subject = pending.subject.clone();
                self.mark(pending, record).await?;
                subject
            }
            Standing::New => {
                let subject = seal::subject(name, content);
                if !self.known.is_unmarked(&subject) {
                    if !self.known.is_stored(&subject) || self.known.is_deleted(&subject) {
                        self.lacks(name);
                    }
                    self.known.add_seen(record);
                    return Ok(());
                }
                self.complete(&subject, content, record).await?;
                subject
            }
        };
        self.look_again(entry, &subject, record).await;
        Ok(())
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

    /// Creates an entry. `gone` is the note of a key that is brought back.
    async fn put_in(&self, name: &EntryName, record: &SecretBytes, gone: Option<&EntryName>) -> Result<()> {
        match kind(name) {
            Kind::Record => {}
            Kind::Deleted(key, subject) => {
                let (name, mark) = (name.clone(), SecretBytes::from(record.expose()));
                let this = self.this()?;
                let change = async move { this.mark_deleted(&name, &mark, &key, subject).await };
                return to_its_end(change).await;
            }
            Kind::Other => return self.ask_to_create(name, record, gone).await,
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
        let subject = seal::subject(text, record);
        let digest = Digest::of(text, record.expose());
        let pending = self.write(&subject, record).await?;
        // The caller may stop waiting at any moment, and read the entry back.
        if let Some(pending) = &pending {
            self.known.add_pending(digest, pending.clone());
        }
        match (self.ask_to_create(name, record, gone).await, pending) {
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

    async fn ask_to_create(
        &self,
        name: &EntryName,
        record: &SecretBytes,
        gone: Option<&EntryName>,
    ) -> Result<()> {
        match gone {
            None => self.inner.create(name, record).await,
            Some(gone) => self.inner.bring_back(name, record, gone).await,
        }
    }
}

#[async_trait]
impl KeyStore for Escrowed {
    fn capabilities(&self) -> StoreCapabilities {
        self.inner.capabilities()
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        self.put_in(name, record, None).await
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        let content = self.inner.get(name).await?;
        if matches!(kind(name), Kind::Record) {
            self.see(name, &content).await?;
        }
        Ok(content)
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.take_out(name, How::Deletes).await
    }

    async fn erase(&self, name: &EntryName) -> Result<()> {
        self.take_out(name, How::Erases).await
    }

    async fn remove(&self, name: &EntryName, gone: &EntryName, record: &SecretBytes) -> Result<()> {
        let note = SecretBytes::from(record.expose());
        self.take_out(name, How::Notes(gone.clone(), note)).await
    }

    async fn bring_back(&self, name: &EntryName, record: &SecretBytes, gone: &EntryName) -> Result<()> {
        self.put_in(name, record, Some(gone)).await
    }

    async fn restore(&self, name: &EntryName) -> Result<()> {
        // Which key it is cannot be read yet. All keys of this name count as restored.
        let key = Subject::new(name.as_str(), None);
        self.note_restored(name, &key).await?;
        let restored = self.inner.restore(name).await;
        if restored.is_err()
            && matches!(self.inner.get(name).await, Err(error) if error.kind() == ErrorKind::Deleted)
        {
            self.note(name, Says::Deleted(key)).await;
        }
        self.lacks(name.as_str());
        restored
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.inner.list(query).await
    }

    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        self.inner.segments(directory).await
    }

    fn changes(&self) -> Option<Changes> {
        self.inner.changes()
    }

    fn login_ends(&self) -> Option<Timestamp> {
        self.inner.login_ends()
    }

    fn closed_roots(&self) -> Option<usize> {
        self.inner.closed_roots()
    }

    fn roots_opened(&self) -> Vec<(String, Option<Timestamp>)> {
        self.inner.roots_opened()
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
