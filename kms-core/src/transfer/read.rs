//! Reading a key with all that belongs to it.

use super::parts::StoredKey;
use crate::error::{Error, ErrorKind, Result};
use crate::name::KeyName;
use crate::primitives::SecretBytes;
use crate::store::belonging::{EntryMac, Marker};
use crate::store::entry::MAX_VERSIONS;
use crate::store::{EntryName, KeyStore};

/// How many entries behind the newest version may be of somebody who does not know the key, before the walk ends.
const MOST_FOREIGN: usize = 16;

impl StoredKey {
    /// Reads the key `name` from `store`.
    ///
    /// Where the store denies the paths of versions or markers, there are none. Markers of somebody who does not know the key
    /// have no effect, and are left out.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`]: there is no such key.
    /// - [`ErrorKind::Deleted`]: the backend keeps the deleted key. It can be restored there, and read then.
    /// - [`ErrorKind::Corrupt`]: the key or one of its versions cannot be read, or a version before the newest is missing or
    ///   was changed. The error names the place.
    /// - [`ErrorKind::Conflict`]: a restore or a purge of the key is under way, or was cut off.
    /// - Every other error of [`KeyStore::get`].
    pub async fn read(store: &(impl KeyStore + ?Sized), name: &KeyName) -> Result<Self> {
        let entry = EntryName::from(name);
        let record = store.get(&entry).await?;
        let mut key = Self::of_first(name.clone(), record, || store.place(&entry))?;
        key.read_slots(store).await?;
        key.read_markers(store).await?;
        Ok(key)
    }

    async fn read_slots(&mut self, store: &(impl KeyStore + ?Sized)) -> Result<()> {
        let fingerprint = self.fingerprint();
        let entry = |number| EntryName::version(&self.name, &fingerprint, number);
        let mut found: Vec<(EntryName, SecretBytes)> = Vec::new();
        // The first entry that is missing or does not count. It is an error only if a version follows it.
        let mut gap: Option<Error> = None;
        for number in 2..=MAX_VERSIONS + 1 {
            let entry = entry(number);
            let found_gap =
                |why| Error::with_source(ErrorKind::Corrupt, format!("read {}", store.place(&entry)), why);
            match store.get(&entry).await {
                Ok(bytes) if self.is_foreign(&entry, &bytes) => {
                    let why = "it was made or changed by somebody who does not know the key, and a newer version is there";
                    gap.get_or_insert_with(|| found_gap(why));
                }
                Ok(bytes) => match gap {
                    Some(gap) => return Err(gap),
                    None => found.push((entry, bytes)),
                },
                Err(error) if error.kind() == ErrorKind::NotFound && gap.is_none() => {
                    gap = Some(found_gap("it is missing, and a newer version is there"));
                }
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => break,
                Err(error) => return Err(error),
            }
            if found.len() + MOST_FOREIGN < usize::try_from(number).unwrap_or(usize::MAX) {
                break;
            }
        }
        for (entry, bytes) in found {
            self.push_slot(&entry, bytes)?;
        }
        Ok(())
    }

    async fn read_markers(&mut self, store: &(impl KeyStore + ?Sized)) -> Result<()> {
        let fingerprint = self.fingerprint();
        let under_way = EntryName::under_way(&self.name, &fingerprint);
        if self.marker(store, &under_way).await?.is_some() {
            let why = "a restore or a purge of the key is under way, or was cut off: 'kms key restore' or 'kms key purge' \
                       with --resume ends it";
            return Err(Error::with_source(ErrorKind::Conflict, format!("read key '{}'", self.name), why));
        }
        self.deleted = self.marker(store, &EntryName::deleted(&self.name, &fingerprint)).await?;
        for number in 1..=self.versions() {
            // Only a key with several versions can have a disabled one.
            if self.slots.is_empty() {
                break;
            }
            let marker = EntryName::disabled(&self.name, &fingerprint, number);
            if let Some(bytes) = self.marker(store, &marker).await? {
                self.disabled.insert(number, bytes);
            }
        }
        Ok(())
    }

    /// Reads a marker that counts, as it is stored.
    pub(super) async fn marker(
        &self,
        store: &(impl KeyStore + ?Sized),
        marker: &EntryName,
    ) -> Result<Option<SecretBytes>> {
        let mut read = store.get(marker).await;
        let bytes = read.as_mut().ok().map(|bytes| SecretBytes::from(bytes.expose()));
        Ok(match Marker::of_read(marker, read, &self.first, || store.place(marker))? {
            Marker::There(_) => bytes,
            Marker::Absent | Marker::Foreign(_) | Marker::Denied(_) => None,
        })
    }

    pub(super) fn is_foreign(&self, entry: &EntryName, bytes: &SecretBytes) -> bool {
        EntryMac::of(&self.first).verify(entry, bytes.expose()).is_none()
    }
}
