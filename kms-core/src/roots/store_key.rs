//! The store key: what roots wrap, and what seals records.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, ErrorKind, Result};
use crate::primitives::{Cipher, Fingerprint, SealingKey, SecretBytes, SecretKey, fill_random};
use crate::store::EntryName;

/// The random id of a store.
pub type StoreId = [u8; 16];

/// The first bytes of a record that is sealed under a store key. The rest is base64, since K/V engines keep text.
///
/// No earlier form begins so: transit's begins with `vault:v`, that of AWS KMS and the records of KES are base64 or JSON.
const SEALED: &[u8] = b"kms:sealed:v1:";

/// The beginning of the associated data of each record: the format.
const FORMAT: &[u8] = b"kms store record v1\0";

/// The first byte of what a root wraps: the version of its form.
const WRAPPED_VERSION: u8 = 1;

/// The random key under which the records of a store are sealed, and the id of that store.
///
/// Clones share one key. It is wiped when the last of them is dropped, and nothing prints it.
#[derive(Clone)]
pub struct StoreKey(Arc<Inner>);

struct Inner {
    key: SealingKey,
    store_id: StoreId,
}

impl StoreKey {
    /// Creates the key of the store with this id.
    pub fn new(key: SecretKey, store_id: StoreId) -> Self {
        Self(Arc::new(Inner { key: SealingKey::new(key, Cipher::Aes256), store_id }))
    }

    /// Creates a random key for a new store with a random id.
    pub(super) fn random() -> Result<Self> {
        let mut store_id = [0; 16];
        fill_random(&mut store_id)?;
        Ok(Self::new(SecretKey::random()?, store_id))
    }

    /// Returns the id of the store.
    pub fn store_id(&self) -> &StoreId {
        &self.0.store_id
    }

    /// Returns the key itself.
    pub fn key(&self) -> &SecretKey {
        self.0.key.key()
    }

    /// Returns the fingerprint of the key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.key.fingerprint()
    }

    /// Returns what a root wraps: a version (1 byte) ‖ the store id (16 bytes) ‖ the key (32 bytes).
    pub(super) fn to_wrap(&self) -> SecretBytes {
        let mut bytes = Vec::with_capacity(1 + 16 + 32);
        bytes.push(WRAPPED_VERSION);
        bytes.extend_from_slice(self.store_id());
        bytes.extend_from_slice(self.key().expose());
        SecretBytes::new(bytes)
    }

    /// Reads what a root unwrapped.
    pub(super) fn of_unwrapped(bytes: &SecretBytes) -> std::result::Result<Self, &'static str> {
        let (version, rest) = bytes.expose().split_first().ok_or("it is empty")?;
        if *version != WRAPPED_VERSION {
            return Err("a newer release wrote it");
        }
        let (store_id, key) = rest.split_first_chunk::<16>().ok_or("it is too short")?;
        let key = SecretKey::from_slice(key).ok_or("it holds no key of 32 bytes")?;
        Ok(Self::new(key, *store_id))
    }

    /// Returns `true` if a record is sealed under a store key, this one or another.
    pub(super) fn sealed_so(record: &[u8]) -> bool {
        record.starts_with(SEALED)
    }

    /// Seals the record of the entry `name`.
    pub(super) fn seal(&self, name: &EntryName, record: &SecretBytes) -> Result<Vec<u8>> {
        let sealed = self.0.key.seal(record.expose(), &self.context(name))?;
        let mut text = String::with_capacity(SEALED.len() + sealed.len().div_ceil(3) * 4);
        text.push_str("kms:sealed:v1:");
        STANDARD.encode_string(sealed, &mut text);
        Ok(text.into_bytes())
    }

    /// Opens the record of the entry `name`.
    pub(super) fn open(&self, name: &EntryName, sealed: &[u8]) -> Result<SecretBytes> {
        let sealed = sealed.strip_prefix(SEALED).and_then(|text| STANDARD.decode(text).ok());
        let opened = sealed.and_then(|sealed| self.0.key.open(&sealed, &self.context(name)).ok());
        opened.ok_or_else(|| {
            let why = "it was not sealed under the key of this store and this name, or was changed";
            Error::with_source(ErrorKind::Corrupt, format!("open the record of entry '{name}'"), why)
        })
    }

    /// Returns the associated data of a record. The parts before the name have fixed lengths, so no two names give the same.
    fn context(&self, name: &EntryName) -> Vec<u8> {
        [FORMAT, self.store_id(), name.as_str().as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::KeyName;

    #[test]
    fn a_record_opens_in_its_store_under_its_name_and_as_it_was_sealed() {
        let names = ["a", "b"].map(|name| EntryName::from(&KeyName::new(name).unwrap()));
        let key = StoreKey::new(SecretKey::take(&mut [1; 32]), [1; 16]);
        let other_store = StoreKey::new(SecretKey::take(&mut [1; 32]), [2; 16]);
        let other_key = StoreKey::new(SecretKey::take(&mut [2; 32]), [1; 16]);
        let record = SecretBytes::from(b"record".as_slice());
        let sealed = key.seal(&names[0], &record).unwrap();
        assert!(StoreKey::sealed_so(&sealed) && std::str::from_utf8(&sealed).is_ok());
        assert!(key.open(&names[0], &sealed).is_ok_and(|opened| opened == record));
        for (key, name) in [(&key, &names[1]), (&other_store, &names[0]), (&other_key, &names[0])] {
            assert_eq!(key.open(name, &sealed).err().map(|error| error.kind()), Some(ErrorKind::Corrupt));
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 4;
            assert!(key.open(&names[0], &changed).is_err(), "{at}");
        }
    }

    #[test]
    fn what_a_root_wraps_reads_as_it_was_written() {
        let key = StoreKey::random().unwrap();
        let bytes = key.to_wrap();
        let read = StoreKey::of_unwrapped(&bytes).ok().unwrap();
        assert!(read.key() == key.key() && read.store_id() == key.store_id());
        for end in 0..bytes.len() {
            assert!(StoreKey::of_unwrapped(&SecretBytes::from(&bytes.expose()[..end])).is_err(), "{end}");
        }
        let newer = [&[2], &bytes.expose()[1..]].concat();
        assert_eq!(StoreKey::of_unwrapped(&SecretBytes::new(newer)).err(), Some("a newer release wrote it"));
    }
}
