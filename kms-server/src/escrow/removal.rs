//! Deletions, restores and purges of a key in escrow.

use std::sync::Arc;
use std::time::Duration;

use kms_core::primitives::{Fingerprint, SecretBytes};
use kms_core::store::{EntryName, KeyStore as _};
use kms_core::{Error, ErrorKind, KeyName, Result};
use tracing::{error, warn};

use super::escrowed::{Escrowed, Kind, NoEscrow, key_of, kind};
use super::known::Digest;
use super::line::{Says, Subject};
use super::seal;
use super::writer::Draft;
use crate::settings::EscrowFailure;

/// The longest wait for the store, and for a line before it is asked, though the caller may have gone. No caller waits for longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The operation in errors of a task.
const CHANGE: &str = "change the key store and the escrow file";

/// How an entry is removed.
pub(super) enum How {
    /// The backend may keep it for a time.
    Deletes,
    /// For ever.
    Erases,
    /// For ever, and this note with this record is left.
    Notes(EntryName, SecretBytes),
}

impl How {
    fn may_keep(&self) -> bool {
        matches!(self, Self::Deletes)
    }
}

impl Escrowed {
    /// Returns the store for a task of its own.
    pub(super) fn this(&self) -> Result<Arc<Self>> {
        let closed = || Error::with_source(ErrorKind::Internal, CHANGE, "the key store was closed");
        self.this.upgrade().ok_or_else(closed)
    }

    /// Removes an entry, and notes what that means for escrow.
    pub(super) async fn take_out(&self, name: &EntryName, how: How) -> Result<()> {
        if matches!(kind(name), Kind::Other) {
            return self.ask_to_remove(name, &how).await;
        }
        let name = name.clone();
        let this = self.this()?;
        to_its_end(async move {
            match kind(&name) {
                Kind::Record => this.remove_record(&name, &how).await,
                Kind::Deleted(key, subject) => this.remove_marker(&name, &how, &key, &subject).await,
                Kind::Other => this.ask_to_remove(&name, &how).await,
            }
        })
        .await
    }

    async fn ask_to_remove(&self, name: &EntryName, how: &How) -> Result<()> {
        match how {
            How::Deletes => self.inner.delete(name).await,
            How::Erases => self.inner.erase(name).await,
            How::Notes(gone, record) => self.inner.remove(name, gone, record).await,
        }
    }

    /// Asks the store to remove an entry. Returns its answer, and whether the entry is gone.
    async fn ask_and_look(&self, name: &EntryName, how: &How) -> (Result<()>, bool) {
        let removed = within(self.ask_to_remove(name, how)).await;
        let is_gone = match &removed {
            Ok(()) => true,
            Err(error) if error.kind().leaves_outcome_unknown() => match self.inner.get(name).await {
                Ok(_) => false,
                Err(error) => {
                    let is_kept = error.kind() == ErrorKind::Deleted && how.may_keep();
                    is_kept || error.kind() == ErrorKind::NotFound
                }
            },
            Err(_) => false,
        };
        (removed, is_gone)
    }

    /// Removes a key or a version, and notes that afterwards. Until then a restore from escrow would bring it back.
    async fn remove_record(&self, name: &EntryName, how: &How) -> Result<()> {
        let text = name.as_str();
        let before = match self.inner.get(name).await {
            Ok(content) => Some((seal::subject(text, &content), Digest::of(text, content.expose())))
                .filter(|(subject, _)| subject.is_known()),
            Err(error) if error.kind().is_outage() => return Err(error),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return self.ask_to_remove(name, how).await;
            }
            Err(_) => None,
        };
        if let Some((subject, _)) = before.as_ref().filter(|_| !name.is_hidden()) {
            self.note_removing(subject).await;
        }
        let (removed, is_gone) = self.ask_and_look(name, how).await;
        if !is_gone {
            if let Some((subject, _)) = before.filter(|_| !name.is_hidden()) {
                self.note_kept(name, subject, removed.as_ref().err()).await;
            }
            return removed;
        }
        let Some((subject, record)) = before else {
            // It may stand in the place of a key that is in escrow.
            warn!(
                entry = %name,
                "escrow: which key was removed is not known, since it could not be read: what is in escrow of it stays"
            );
            return removed;
        };
        self.known.set_in_doubt(&subject, false);
        let keeps = self.inner.capabilities().keeps_deleted && how.may_keep() && !name.is_hidden();
        let says = if keeps {
            self.known.set_deleted(&subject, true);
            Says::Deleted(subject)
        } else {
            self.known.drop_stored(&subject, Some(record));
            Says::Gone(subject)
        };
        self.note(name, says).await;
        removed
    }

    /// Notes that the store will be asked to remove a key. What comes of it is noted afterwards; if that is lost, a restore from
    /// escrow asks whether the key is to come back.
    async fn note_removing(&self, subject: &Subject) {
        // A deletion does not wait for a file that cannot be written, nor for one on a disk that hangs: done when that goes on, it
        // would take a key of which everybody believes by then that it stayed.
        let written = self.writer.write(vec![Draft::Line(Says::Removing(subject.clone()))]);
        let written = tokio::time::timeout(PATIENCE, written).await;
        if let Err(why) = written.unwrap_or_else(|_| Err("the write is still under way".into())) {
            warn!(entry = %subject.name, "escrow: it is not noted that this entry will be removed: {why}");
        }
    }

    /// Notes that a key was not removed after all, or has that found out if it is not known.
    async fn note_kept(&self, name: &EntryName, subject: Subject, error: Option<&Error>) {
        match error.map(Error::kind) {
            Some(kind) if kind.leaves_outcome_unknown() => self.known.set_in_doubt(&subject, true),
            // Another program was faster, or the store lost the key.
            Some(ErrorKind::NotFound | ErrorKind::Deleted) => {
                self.known.set_in_doubt(&subject, true);
                if let Err(error) = self.settle_doubt(&subject).await {
                    let why = error.chain();
                    warn!(entry = %name, "escrow: whether this entry was removed is not known yet, trying again: {why}");
                }
            }
            _ => self.note(name, Says::Kept(subject)).await,
        }
    }

    /// Finds out whether a key was removed of which only is noted that it would be. Fails if the store does not say so now.
    pub(super) async fn settle_doubt(&self, subject: &Subject) -> Result<()> {
        // Only of keys is it noted that they will be removed.
        let name = KeyName::new(&*subject.name)
            .map_err(|error| Error::with_source(ErrorKind::InvalidInput, CHANGE, error))?;
        let name = EntryName::from(&name);
        let says = match self.inner.get(&name).await {
            Ok(there) if subject.may_be(&seal::subject(&subject.name, &there)) => Says::Kept(subject.clone()),
            Ok(there) if !seal::subject(&subject.name, &there).is_known() => {
                let why = "it is no key";
                return Err(Error::with_source(ErrorKind::Corrupt, format!("read entry '{name}'"), why));
            }
            Err(error) if error.kind() == ErrorKind::Deleted => Says::Deleted(subject.clone()),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            // A store that settles may not show yet what is there.
            Ok(_) | Err(_) => {
                tokio::time::sleep(self.inner.capabilities().settle).await;
                if !self.is_other(&name, subject).await {
                    return Err(Error::new(ErrorKind::Unreachable, format!("read entry '{name}' again")));
                }
                Says::Gone(subject.clone())
            }
        };
        let written = self.writer.write(vec![Draft::Line(says.clone())]).await;
        written.map_err(|why| Error::with_source(ErrorKind::ReadOnly, CHANGE, NoEscrow(why)))?;
        match says {
            Says::Gone(_) => self.known.drop_stored(subject, None),
            Says::Deleted(_) => self.known.set_deleted(subject, true),
            _ => {}
        }
        self.known.set_in_doubt(subject, false);
        Ok(())
    }

    /// Removes the mark of a deleted key: that is the end of a restore if the key is there, and of a purge if it is not.
    ///
    /// A restore is noted before: a live key of which escrow says that it is deleted would be lost with the store. It is noted
    /// once more afterwards, because in between somebody may have noted that the key is deleted, as the store says.
    async fn remove_marker(
        &self,
        name: &EntryName,
        how: &How,
        key: &KeyName,
        subject: &Subject,
    ) -> Result<()> {
        let is_restore = match self.inner.get(&EntryName::from(key)).await {
            Ok(there) => {
                let there = seal::subject(key.as_str(), &there);
                !there.is_known() || there.fingerprint == subject.fingerprint
            }
            Err(error) if error.kind().is_outage() => return Err(error),
            Err(error) => error.kind() != ErrorKind::NotFound,
        };
        if is_restore {
            self.note_restored(name, subject).await?;
        }
        let (removed, is_gone) = self.ask_and_look(name, how).await;
        if is_gone && is_restore {
            self.known.set_deleted(subject, false);
            self.note(name, Says::Restored(subject.clone())).await;
        } else if is_gone {
            self.known.drop_stored(subject, None);
            self.note(name, Says::Gone(subject.clone())).await;
        } else {
            // What came of it is compared with the file.
            self.known.add_lacking(key.clone());
        }
        removed
    }

    /// Notes a restore before it is done.
    pub(super) async fn note_restored(&self, entry: &EntryName, key: &Subject) -> Result<()> {
        let says = || vec![Draft::Line(Says::Restored(key.clone()))];
        let Err(why) = self.writer.write(says()).await else {
            self.known.set_deleted(key, false);
            return Ok(());
        };
        match self.on_failure {
            EscrowFailure::Refuse => {
                let operation = format!("restore key '{}'", key.name);
                Err(Error::with_source(ErrorKind::ReadOnly, operation, NoEscrow(why)))
            }
            EscrowFailure::Warn => {
                warn!(%entry, "escrow: a restore is noted only when the file can be written again: {why}");
                self.writer.write_later(says());
                Ok(())
            }
        }
    }

    /// Marks a key as deleted, and notes that afterwards.
    pub(super) async fn mark_deleted(
        &self,
        name: &EntryName,
        mark: &SecretBytes,
        key: &KeyName,
        subject: Subject,
    ) -> Result<()> {
        let made = within(self.inner.create(name, mark)).await;
        let is_made = match &made {
            Ok(()) => true,
            Err(error) if error.kind().leaves_outcome_unknown() => {
                self.inner.get(name).await.is_ok_and(|there| there == *mark)
            }
            Err(_) => false,
        };
        if is_made {
            self.known.set_deleted(&subject, true);
            self.note(name, Says::Deleted(subject)).await;
        } else if made.is_err() {
            self.known.add_lacking(key.clone());
        }
        made
    }

    /// Notes what happened to an entry, now or when that is possible again.
    pub(super) async fn note(&self, entry: &EntryName, says: Says) {
        if let Err(why) = self.writer.write_sometime(vec![Draft::Line(says)]).await {
            error!(
                %entry, "escrow: a deletion or a restore is noted only when the file can be written again: {why}"
            );
        }
    }

    /// Notes that an entry is gone if it was removed before it was marked as stored.
    pub(super) async fn look_again(&self, entry: &EntryName, subject: &Subject, record: Digest) {
        if !self.is_other(entry, subject).await {
            return;
        }
        // A store that settles may show for a while what was there before.
        tokio::time::sleep(self.inner.capabilities().settle).await;
        if self.is_other(entry, subject).await {
            self.known.drop_stored(subject, Some(record));
            self.note(entry, Says::Gone(subject.clone())).await;
        }
    }

    /// Returns whether the store has no such entry, or another key there.
    async fn is_other(&self, entry: &EntryName, subject: &Subject) -> bool {
        match self.inner.get(entry).await {
            Ok(there) => {
                let there = seal::subject(entry.as_str(), &there);
                there.is_known() && !subject.is_about(&there)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => self.was_removed(entry, subject).await,
            Err(_) => false,
        }
    }

    /// Returns whether somebody removed an entry that is gone. What the store lost has to come back from escrow.
    async fn was_removed(&self, entry: &EntryName, subject: &Subject) -> bool {
        if !self.inner.capabilities().notes_removals {
            return true;
        }
        // A version belongs to the key whose fingerprint stands in its name.
        let first = entry.as_str().split('/').nth(2).unwrap_or(&subject.fingerprint);
        let mut bytes = [0; 16];
        let first = hex::decode_to_slice(first, &mut bytes).map(|()| Fingerprint::from_bytes(bytes));
        match (key_of(entry.as_str()), first) {
            (Some(key), Ok(first)) => self.inner.get(&EntryName::gone(&key, &first)).await.is_ok(),
            _ => false,
        }
    }
}

/// Runs a change to its end. The caller may stop waiting before, and what the store did has to be noted all the same.
pub(super) async fn to_its_end(change: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
    let ended = tokio::spawn(change).await;
    ended.unwrap_or_else(|error| Err(Error::with_source(ErrorKind::Internal, CHANGE, error)))
}

/// Waits for an answer of the store, and not for ever.
async fn within(call: impl Future<Output = Result<()>>) -> Result<()> {
    let answer = tokio::time::timeout(PATIENCE, call).await;
    answer.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "wait for the key store")))
}
