//! Reading a key with all that belongs to it.

use super::parts::StoredKey;
use crate::error::{Error, ErrorKind, Result};
use crate::name::KeyName;
use crate::primitives::SecretBytes;
use crate::store::belonging::{EntryMac, Marker};
use crate::store::entry::MAX_VERSIONS;
use crate::store::{EntryName, KeyStore};

/// What it means that the store denies the path of a version or of a marker.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IfDenied {
    /// Nobody knows whether there is one.
    Fail,
    /// There is none.
    IsAbsent,
}

impl StoredKey {
    /// Reads the key `name` from `store`.
    ///
    /// Markers of somebody who does not know the key have no effect, and are left out.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`]: there is no such key.
    /// - [`ErrorKind::Deleted`]: the backend keeps the deleted key. It can be restored there, and read then.
    /// - [`ErrorKind::Corrupt`]: the key or one of its versions cannot be read, or a version before the newest is missing or
    ///   was changed. The error names the place.
    /// - [`ErrorKind::Conflict`]: a restore or a purge of the key is under way, or was cut off.
    /// - [`ErrorKind::Denied`]: the store denies the key, or the path of its versions or markers. Whether it has some is then not
    ///   known; [`read_without_hidden`](Self::read_without_hidden) takes it that there are none.
    /// - Every other error of [`KeyStore::get`].
    pub async fn read(store: &(impl KeyStore + ?Sized), name: &KeyName) -> Result<Self> {
        Self::read_as(store, name, IfDenied::Fail).await
    }

    /// Reads the key `name` as [`read`](Self::read) does. Where the store denies the paths of versions and markers, there are
    /// none, as under a policy that is older than they are.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    pub async fn read_without_hidden(store: &(impl KeyStore + ?Sized), name: &KeyName) -> Result<Self> {
        Self::read_as(store, name, IfDenied::IsAbsent).await
    }

    async fn read_as(store: &(impl KeyStore + ?Sized), name: &KeyName, if_denied: IfDenied) -> Result<Self> {
        let entry = EntryName::from(name);
        let record = store.get(&entry).await?;
        let mut key = Self::of_first(name.clone(), record, || store.place(&entry))?;
        key.read_slots(store, if_denied).await?;
        key.read_markers(store, if_denied).await?;
        Ok(key)
    }

    async fn read_slots(&mut self, store: &(impl KeyStore + ?Sized), if_denied: IfDenied) -> Result<()> {
        let fingerprint = self.fingerprint();
        for number in 2..=MAX_VERSIONS {
            let entry = EntryName::version(&self.name, &fingerprint, number);
            let why = match store.get(&entry).await {
                Ok(bytes) if self.is_foreign(&entry, &bytes) => {
                    "it was made or changed by somebody who does not know the key, and a newer version is there"
                }
                Ok(bytes) => {
                    self.push_slot(&entry, bytes)?;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    "it is missing, and a newer version is there"
                }
                Err(error) if error.kind() == ErrorKind::Denied && if_denied == IfDenied::IsAbsent => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            if self.is_followed(store, number).await? {
                // A server may have made several versions since the first look.
                match store.get(&entry).await {
                    Ok(bytes) if !self.is_foreign(&entry, &bytes) => {
                        self.push_slot(&entry, bytes)?;
                        continue;
                    }
                    _ => {
                        let operation = format!("read {}", store.place(&entry));
                        return Err(Error::with_source(ErrorKind::Corrupt, operation, why));
                    }
                }
            }
            return Ok(());
        }
        Ok(())
    }

    /// Returns whether there is a version behind `number`.
    async fn is_followed(&self, store: &(impl KeyStore + ?Sized), number: u32) -> Result<bool> {
        let fingerprint = self.fingerprint();
        let directory = format!(".v/{}/{}/", self.name, hex::encode(fingerprint.as_bytes()));
        let later: Vec<u32> = match store.segments(&directory).await {
            Ok(found) => found.iter().filter_map(|segment| segment.parse().ok()).collect(),
            // Few are lost together. The steps behind those grow, as in the search of a key ring.
            Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Denied) => {
                (1..=16).chain((5..10).map(|power| 1 << power)).map(|step| number + step).collect()
            }
            Err(error) => return Err(error),
        };
        for later in later.into_iter().filter(|later| (number + 1..=MAX_VERSIONS).contains(later)) {
            let entry = EntryName::version(&self.name, &fingerprint, later);
            match store.get(&entry).await {
                Ok(bytes) if !self.is_foreign(&entry, &bytes) => return Ok(true),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    async fn read_markers(&mut self, store: &(impl KeyStore + ?Sized), if_denied: IfDenied) -> Result<()> {
        let fingerprint = self.fingerprint();
        let under_way = EntryName::under_way(&self.name, &fingerprint);
        if self.marker_as(store, &under_way, if_denied).await?.is_some() {
            let why = "a restore or a purge of the key is under way, or was cut off: 'kms key restore' or 'kms key purge' \
                       with --resume ends it";
            return Err(Error::with_source(ErrorKind::Conflict, format!("read key '{}'", self.name), why));
        }
        let deleted = EntryName::deleted(&self.name, &fingerprint);
        self.deleted = self.marker_as(store, &deleted, if_denied).await?;
        for number in 1..=self.versions() {
            // Only a key with several versions can have a disabled one.
            if self.slots.is_empty() {
                break;
            }
            let marker = EntryName::disabled(&self.name, &fingerprint, number);
            if let Some(bytes) = self.marker_as(store, &marker, if_denied).await? {
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
        self.marker_as(store, marker, IfDenied::Fail).await
    }

    async fn marker_as(
        &self,
        store: &(impl KeyStore + ?Sized),
        marker: &EntryName,
        if_denied: IfDenied,
    ) -> Result<Option<SecretBytes>> {
        let mut read = store.get(marker).await;
        let bytes = read.as_mut().ok().map(|bytes| SecretBytes::from(bytes.expose()));
        Ok(match Marker::of_read(marker, read, &self.first, || store.place(marker))? {
            Marker::There(_) => bytes,
            Marker::Denied(error) if if_denied == IfDenied::Fail => return Err(error),
            Marker::Absent | Marker::Foreign(_) | Marker::Denied(_) => None,
        })
    }

    pub(super) fn is_foreign(&self, entry: &EntryName, bytes: &SecretBytes) -> bool {
        EntryMac::of(&self.first).verify(entry, bytes.expose()).is_none()
    }
}
