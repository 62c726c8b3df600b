//! A key with all that belongs to it, as it is stored.

use std::collections::BTreeMap;

use crate::error::{Error, ErrorKind, Result};
use crate::name::KeyName;
use crate::primitives::{Fingerprint, SealingKey, SecretBytes};
use crate::store::belonging::EntryMac;
use crate::store::entry::MAX_VERSIONS;
use crate::store::{EntryName, KeyRecord};

/// A key with its versions and markers, as the records of a store hold them.
///
/// It holds secrets. It has no `Debug`, and is wiped when it is dropped.
pub struct StoredKey {
    pub(super) name: KeyName,
    pub(super) first: SealingKey,
    /// The record of version 1, as it is stored.
    pub(super) record: SecretBytes,
    /// The slots of the later versions: the first is that of version 2.
    pub(super) slots: Vec<Slot>,
    /// The markers of disabled versions.
    pub(super) disabled: BTreeMap<u32, SecretBytes>,
    /// The marker of the deletion.
    pub(super) deleted: Option<SecretBytes>,
}

/// The entry of a later version.
pub(super) struct Slot {
    /// The signed record, as it is stored.
    pub bytes: SecretBytes,
    pub key: SealingKey,
}

impl StoredKey {
    /// Puts a key together from its entries, such as those of an archive, in any order.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Corrupt`]: the entries are not those of one whole key: an entry is missing, is one of another key, cannot
    ///   be decoded, or is not signed with the key.
    pub fn from_entries(
        name: &KeyName,
        entries: impl IntoIterator<Item = (String, SecretBytes)>,
    ) -> Result<Self> {
        let corrupt =
            |why: String| Error::with_source(ErrorKind::Corrupt, format!("put key '{name}' together"), why);
        let mut entries: BTreeMap<String, SecretBytes> = entries.into_iter().collect();
        let record = entries.remove(name.as_str());
        let record = record.ok_or_else(|| corrupt("the entry of its first version is missing".into()))?;
        let mut key = Self::of_first(name.clone(), record, || format!("entry '{name}'"))?;
        let fingerprint = key.fingerprint();
        for number in 2..=MAX_VERSIONS {
            let entry = EntryName::version(name, &fingerprint, number);
            let Some(bytes) = entries.remove(entry.as_str()) else { break };
            key.push_slot(&entry, bytes)?;
        }
        for number in 1..=key.versions() {
            let entry = EntryName::disabled(name, &fingerprint, number);
            if let Some(bytes) = entries.remove(entry.as_str()) {
                key.verify(&entry, &bytes)?;
                key.disabled.insert(number, bytes);
            }
        }
        let entry = EntryName::deleted(name, &fingerprint);
        if let Some(bytes) = entries.remove(entry.as_str()) {
            key.verify(&entry, &bytes)?;
            key.deleted = Some(bytes);
        }
        match entries.keys().next() {
            Some(other) => Err(corrupt(format!("the entry '{other}' does not belong to it"))),
            None => Ok(key),
        }
    }

    /// Begins with the record of the first version, which was read from `place`.
    pub(super) fn of_first(
        name: KeyName,
        record: SecretBytes,
        place: impl FnOnce() -> String,
    ) -> Result<Self> {
        let decoded = KeyRecord::decode_at(record.expose(), place)?;
        let first = SealingKey::new(decoded.key, decoded.cipher);
        Ok(Self { name, first, record, slots: Vec::new(), disabled: BTreeMap::new(), deleted: None })
    }

    /// Appends the entry of the next version.
    pub(super) fn push_slot(&mut self, entry: &EntryName, bytes: SecretBytes) -> Result<()> {
        let record = KeyRecord::decode_at(self.verify(entry, &bytes)?, || format!("entry '{entry}'"))?;
        self.slots.push(Slot { bytes, key: SealingKey::new(record.key, record.cipher) });
        Ok(())
    }

    /// Returns what an entry of this key says.
    fn verify<'a>(&self, entry: &EntryName, bytes: &'a SecretBytes) -> Result<&'a [u8]> {
        EntryMac::of(&self.first).verify(entry, bytes.expose()).ok_or_else(|| {
            let why = "it was made or changed by somebody who does not know the key";
            Error::with_source(ErrorKind::Corrupt, format!("verify entry '{entry}'"), why)
        })
    }

    /// Returns the name of the key.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// Returns the fingerprint of the first version, which tells the key from others.
    pub fn fingerprint(&self) -> Fingerprint {
        self.first.fingerprint()
    }

    /// Returns the number of versions.
    pub fn versions(&self) -> u32 {
        // A key has at most 1,000 versions.
        1 + u32::try_from(self.slots.len()).unwrap_or(MAX_VERSIONS)
    }

    /// Returns the fingerprint of each version, by number.
    pub fn fingerprints(&self) -> BTreeMap<u32, Fingerprint> {
        let later = (2..).zip(&self.slots).map(|(number, slot)| (number, slot.key.fingerprint()));
        [(1, self.fingerprint())].into_iter().chain(later).collect()
    }

    /// Returns whether the key is deleted, and kept so that it can be restored.
    pub fn is_deleted(&self) -> bool {
        self.deleted.is_some()
    }

    /// Returns the numbers of the disabled versions.
    pub fn disabled(&self) -> impl Iterator<Item = u32> {
        self.disabled.keys().copied()
    }

    /// Returns the entries in the order in which a store gets them: markers, versions, and the entry of the key last.
    pub fn entries(&self) -> Vec<(EntryName, &SecretBytes)> {
        let (name, fingerprint) = (&self.name, self.fingerprint());
        let mut entries = self.belongings(1);
        if let Some(bytes) = &self.deleted {
            entries.insert(0, (EntryName::deleted(name, &fingerprint), bytes));
        }
        entries.push((EntryName::from(name), &self.record));
        entries
    }

    /// Returns the markers and slots of the versions from number `from` on, in the order in which a store gets them.
    pub(super) fn belongings(&self, from: u32) -> Vec<(EntryName, &SecretBytes)> {
        let (name, fingerprint) = (&self.name, self.fingerprint());
        let markers = self.disabled.range(from..);
        let markers =
            markers.map(|(number, bytes)| (EntryName::disabled(name, &fingerprint, *number), bytes));
        let slots = (2..).zip(&self.slots).filter(|(number, _)| *number >= from);
        let slots = slots.map(|(number, slot)| (EntryName::version(name, &fingerprint, number), &slot.bytes));
        markers.chain(slots).collect()
    }

    /// Returns the name of the note that says that this very key was removed for good.
    pub(super) fn gone(&self) -> EntryName {
        EntryName::gone(&self.name, &self.fingerprint())
    }

    /// Returns the same key under another name. What belongs to it is signed anew, since the name is a part of that.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Corrupt`]: an entry is not signed with the key.
    pub fn renamed(&self, name: &KeyName) -> Result<Self> {
        let (fingerprint, mac) = (self.fingerprint(), EntryMac::of(&self.first));
        let anew = |from: &EntryName, to: &EntryName, bytes: &SecretBytes| {
            self.verify(from, bytes).map(|content| mac.sign(to, content))
        };
        let record = SecretBytes::from(self.record.expose());
        let mut key = Self::of_first(name.clone(), record, || format!("entry '{name}'"))?;
        for (number, slot) in (2..).zip(&self.slots) {
            let from = EntryName::version(&self.name, &fingerprint, number);
            let to = EntryName::version(name, &fingerprint, number);
            key.push_slot(&to, anew(&from, &to, &slot.bytes)?)?;
        }
        for (number, bytes) in &self.disabled {
            let from = EntryName::disabled(&self.name, &fingerprint, *number);
            let to = EntryName::disabled(name, &fingerprint, *number);
            key.disabled.insert(*number, anew(&from, &to, bytes)?);
        }
        if let Some(bytes) = &self.deleted {
            let from = EntryName::deleted(&self.name, &fingerprint);
            key.deleted = Some(anew(&from, &EntryName::deleted(name, &fingerprint), bytes)?);
        }
        Ok(key)
    }

    /// Returns the first difference in what the key is: its bytes, its versions and the HMAC key of the first one. `None`
    /// if the one with fewer versions is the beginning of the other.
    pub(super) fn differs(&self, other: &Self) -> Result<Option<String>> {
        let records = [&self.record, &other.record].map(|record| KeyRecord::decode(record.expose()));
        let [ours, theirs] = records;
        let (ours, theirs) = (ours?, theirs?);
        if ours.key != theirs.key || ours.cipher != theirs.cipher {
            return Ok(Some("version 1 is another key".to_owned()));
        }
        let hmac = |record: &KeyRecord| {
            record.hmac_key.as_ref().map(|key| SecretBytes::from(key.0.expose().as_slice()))
        };
        if hmac(&ours) != hmac(&theirs) {
            return Ok(Some("its HMAC key is another one".to_owned()));
        }
        let is_same = |ours: &SealingKey, theirs: &SealingKey| {
            ours.key() == theirs.key() && ours.cipher() == theirs.cipher()
        };
        let mut pairs = (2..).zip(self.slots.iter().zip(&other.slots));
        let differing = pairs.find(|(_, (ours, theirs))| !is_same(&ours.key, &theirs.key));
        Ok(differing.map(|(number, _)| format!("version {number} is another key")))
    }
}
