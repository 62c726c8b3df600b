//! Writing a key with all that belongs to it, so that a key that can be used is whole.

use super::parts::StoredKey;
use crate::error::{Error, ErrorKind, Result};
use crate::primitives::{Fingerprint, SecretBytes};
use crate::store::{EntryName, KeyStore};

/// What became of a key that was to be written to a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Written {
    /// The key was not there, and is there now.
    Stored,
    /// The key was there.
    There {
        /// The number of versions that were added.
        added: u32,
        /// What is different there and was left as it is, in words for an operator.
        differs: Option<String>,
    },
    /// Another key has the name, with this fingerprint. Nothing was written.
    Other(Fingerprint),
}

impl StoredKey {
    /// Writes the key to `store`. Nothing is overwritten, and the same call completes what was cut off.
    ///
    /// If the key is there already, versions that are newer than all of the store's are added. Its markers stay as they are.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Conflict`]: the store has a version, a marker or an HMAC key of this very key that differs from ours, so
    ///   that something that opens here would not open there; or it is purging the key. Nothing was written, or nothing that
    ///   can be used.
    /// - [`ErrorKind::Internal`]: what was acknowledged does not read back.
    /// - Every other error of [`KeyStore::get`] and [`KeyStore::create`].
    pub async fn write(&self, store: &(impl KeyStore + ?Sized)) -> Result<Written> {
        self.write_or_look(store, true).await
    }

    /// Says what [`write`](Self::write) would do, and changes nothing.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Conflict`]: as [`write`](Self::write) returns it.
    /// - Every other error of [`KeyStore::get`].
    pub async fn would_write(&self, store: &(impl KeyStore + ?Sized)) -> Result<Written> {
        self.write_or_look(store, false).await
    }

    async fn write_or_look(&self, store: &(impl KeyStore + ?Sized), writes: bool) -> Result<Written> {
        match Self::read(store, &self.name).await {
            Ok(there) => self.add_to(store, &there, writes).await,
            Err(error) if error.kind() == ErrorKind::NotFound => self.write_anew(store, writes).await,
            Err(error) => Err(error),
        }
    }

    /// Adds the versions that the store does not have.
    async fn add_to(&self, store: &(impl KeyStore + ?Sized), there: &Self, writes: bool) -> Result<Written> {
        if there.fingerprint() != self.fingerprint() {
            return Ok(Written::Other(there.fingerprint()));
        }
        if let Some(why) = self.differs(there)? {
            return Err(self.conflict(why));
        }
        // Whatever opens where it comes from has to open there.
        let name = &self.name;
        if there.is_deleted() && !self.is_deleted() {
            return Err(
                self.conflict(format!("the key is deleted there: 'kms key restore {name}' brings it back"))
            );
        }
        let disabled_there: Vec<_> = there.disabled().filter(|number| *number <= self.versions()).collect();
        if let Some(number) = disabled_there.iter().find(|number| !self.disabled.contains_key(number)) {
            return Err(self.conflict(format!(
                "version {number} is disabled there, and not where it comes from: 'kms key enable {name} --version {number}' enables it"
            )));
        }
        let added = self.versions().saturating_sub(there.versions());
        if added > 0 {
            let missing = self.belongings(there.versions() + 1);
            self.refuse_differing(store, &missing).await?;
            if writes {
                create_all(store, &missing, &self.gone()).await?;
                self.read_back(store).await?;
            }
        }
        let ours: Vec<_> = self.disabled().filter(|number| *number <= there.versions()).collect();
        let differs = if self.is_deleted() && !there.is_deleted() {
            Some("the key is deleted where it comes from, and not there".to_owned())
        } else {
            (ours != disabled_there).then(|| {
                "it has disabled versions where it comes from that are not disabled there".to_owned()
            })
        };
        Ok(Written::There { added, differs })
    }

    async fn write_anew(&self, store: &(impl KeyStore + ?Sized), writes: bool) -> Result<Written> {
        let entries = self.entries();
        self.refuse_differing(store, &entries[..entries.len() - 1]).await?;
        self.refuse_surplus(store).await?;
        if !writes {
            return Ok(Written::Stored);
        }
        if let Err(error) = create_all(store, &entries, &self.gone()).await {
            // Somebody else may have made a key of this name.
            return match Self::read(store, &self.name).await {
                Ok(there) if there.fingerprint() != self.fingerprint() => {
                    Ok(Written::Other(there.fingerprint()))
                }
                _ => Err(error),
            };
        }
        // A purge of the same key, which was there before, may have gone on since the look.
        self.refuse_surplus(store).await?;
        self.read_back(store).await?;
        Ok(Written::Stored)
    }

    /// Fails if an entry is there and holds something else. What an earlier call brought is the same.
    pub(super) async fn refuse_differing(
        &self,
        store: &(impl KeyStore + ?Sized),
        entries: &[(EntryName, &SecretBytes)],
    ) -> Result<()> {
        for (entry, bytes) in entries {
            match store.get(entry).await {
                Ok(there) if there == **bytes => {}
                Ok(there) => {
                    let who = if self.is_foreign(entry, &there) {
                        "somebody who does not know the key"
                    } else {
                        "another server"
                    };
                    let place = store.place(entry);
                    return Err(self.conflict(format!(
                        "{place} is there already, and was made by {who}: remove it, or keep that key"
                    )));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Fails if the store has something of this key that would change it.
    pub(super) async fn refuse_surplus(&self, store: &(impl KeyStore + ?Sized)) -> Result<()> {
        let (name, fingerprint) = (&self.name, self.fingerprint());
        let under_way = EntryName::under_way(name, &fingerprint);
        match store.get(&under_way).await {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => {}
            Err(error) if error.kind().is_outage() => return Err(error),
            _ => {
                let why = format!(
                    "the key is being purged there, or that was cut off: 'kms key purge {name} --fingerprint {} --resume' \
                     ends it",
                    hex::encode(fingerprint.as_bytes())
                );
                return Err(self.conflict(why));
            }
        }
        let deleted = Some(EntryName::deleted(name, &fingerprint)).filter(|_| !self.is_deleted());
        let disabled = (1..=self.versions()).filter(|number| !self.disabled.contains_key(number));
        let disabled = disabled.map(|number| EntryName::disabled(name, &fingerprint, number));
        for marker in deleted.into_iter().chain(disabled.filter(|_| !self.slots.is_empty())) {
            if self.marker(store, &marker).await?.is_some() {
                let place = store.place(&marker);
                return Err(self.conflict(format!(
                    "{place} is left there of the same key, which was removed: remove it first"
                )));
            }
        }
        let next = EntryName::version(name, &fingerprint, self.versions() + 1);
        match store.get(&next).await {
            Ok(bytes) if !self.is_foreign(&next, &bytes) => {
                let place = store.place(&next);
                Err(self.conflict(format!(
                    "{place} is there, a version that the key does not have where it comes from"
                )))
            }
            Err(error) if error.kind().is_outage() => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads the key back, and fails unless it is this one with all of its versions.
    async fn read_back(&self, store: &(impl KeyStore + ?Sized)) -> Result<()> {
        let there = Self::read(store, &self.name).await?;
        let why = match self.differs(&there)? {
            Some(why) => why,
            None if there.versions() < self.versions() => "a version is missing".to_owned(),
            None => return Ok(()),
        };
        let operation = format!("read back key '{}'", self.name);
        Err(Error::with_source(ErrorKind::Internal, operation, format!("it was acknowledged, and {why}")))
    }

    pub(super) fn conflict(&self, why: String) -> Error {
        Error::with_source(ErrorKind::Conflict, format!("write key '{}'", self.name), why)
    }
}

/// Creates entries in their order. One that is there already was looked at before, or is looked at now.
///
/// With the entry of the key the note `gone` goes, which says that this very key was removed.
pub(super) async fn create_all(
    store: &(impl KeyStore + ?Sized),
    entries: &[(EntryName, &SecretBytes)],
    gone: &EntryName,
) -> Result<()> {
    for (entry, bytes) in entries {
        let created = if entry.is_hidden() {
            store.create(entry, bytes).await
        } else {
            store.bring_back(entry, bytes, gone).await
        };
        let Err(error) = created else { continue };
        let may_be_there = error.kind() == ErrorKind::AlreadyExists || error.kind().leaves_outcome_unknown();
        if !may_be_there || store.get(entry).await? != **bytes {
            return Err(error);
        }
    }
    Ok(())
}
