//! The contents of entries that belong to a key.

use subtle::ConstantTimeEq as _;

use super::entry::EntryName;
use crate::error::{Error, ErrorKind, Result};
use crate::primitives::{SealingKey, SecretBytes, SecretKey, mac};

/// A marker of a key, read.
pub enum Marker {
    Absent,
    /// What it says.
    There(Vec<u8>),
    /// Somebody made it who does not know the key, or it cannot be read. It has no effect.
    Foreign(Error),
    /// The store denies its path.
    Denied(Error),
}

impl Marker {
    /// Sorts the outcome of a read of `marker`.
    ///
    /// # Errors
    ///
    /// An outage, or a refused login: nothing is known of the marker.
    pub fn of_read(
        marker: &EntryName,
        read: Result<SecretBytes>,
        first: &SealingKey,
        place: impl FnOnce() -> String,
    ) -> Result<Self> {
        match read {
            Ok(bytes) => Ok(if let Some(content) = EntryMac::of(first).verify(marker, bytes.expose()) {
                Self::There(content.to_vec())
            } else {
                let why = "it was made or changed by somebody who does not know the key";
                Self::Foreign(Error::with_source(ErrorKind::Corrupt, format!("verify {}", place()), why))
            }),
            Err(error) => match error.kind() {
                ErrorKind::NotFound => Ok(Self::Absent),
                ErrorKind::Denied => Ok(Self::Denied(error)),
                // It does not hold what was stored, or it was deleted in the backend, or it is under another root than the
                // key, which was read.
                ErrorKind::Corrupt | ErrorKind::Deleted | ErrorKind::Disabled => Ok(Self::Foreign(error)),
                // It may be a marker that counts.
                _ => Err(error),
            },
        }
    }
}

/// The hexadecimal digits of a tag.
const TAG_LEN: usize = 64;

/// Authenticates the entries that belong to one key: HMAC-SHA256 over name and content of an entry.
///
/// The key of the HMAC is derived from the first version: HMAC-SHA256(key, "kms entry mac v1"). So whoever can only
/// create entries in the store cannot make one that counts. The content of an entry is the tag in hexadecimal, a space,
/// and what is authenticated.
pub struct EntryMac(SecretKey);

impl EntryMac {
    /// Derives the HMAC key from the first version of a key.
    pub fn of(first: &SealingKey) -> Self {
        Self(SecretKey::take(&mut first.derive(b"kms entry mac v1")))
    }

    /// Returns the content of the entry `name` that says `content`.
    pub fn sign(&self, name: &EntryName, content: &[u8]) -> SecretBytes {
        let tag = self.tag(name, content);
        // The capacity suffices from the start: a vector that grows leaves its old bytes behind.
        let mut bytes = Vec::with_capacity(TAG_LEN + 1 + content.len());
        bytes.extend_from_slice(hex::encode(tag).as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(content);
        SecretBytes::new(bytes)
    }

    /// Returns what the entry `name` says; `None` if someone made it who does not know the key.
    pub fn verify<'a>(&self, name: &EntryName, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (tag, rest) = bytes.split_at_checked(TAG_LEN)?;
        let content = rest.strip_prefix(b" ")?;
        let expected = hex::encode(self.tag(name, content));
        bool::from(expected.as_bytes().ct_eq(tag)).then_some(content)
    }

    fn tag(&self, name: &EntryName, content: &[u8]) -> [u8; 32] {
        let name = name.as_str().as_bytes();
        let mut message = zeroize::Zeroizing::new(Vec::with_capacity(8 + name.len() + content.len()));
        message.extend_from_slice(&(name.len() as u64).to_be_bytes());
        message.extend_from_slice(name);
        message.extend_from_slice(content);
        mac::tag(&self.0, &message).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::KeyName;
    use crate::primitives::Cipher;

    fn key(byte: u8) -> SealingKey {
        SealingKey::new(SecretKey::take(&mut [byte; 32]), Cipher::Aes256)
    }

    #[test]
    fn an_entry_counts_under_its_name_and_key_and_as_it_was_made() {
        let (mac, fingerprint) = (EntryMac::of(&key(1)), key(1).fingerprint());
        let names = ["a", "b"].map(|name| KeyName::new(name).unwrap());
        let [entry, other_name] = names.each_ref().map(|name| EntryName::version(name, &fingerprint, 2));
        let entry_bytes = mac.sign(&entry, b"content");
        assert_eq!(mac.verify(&entry, entry_bytes.expose()), Some(b"content".as_slice()));
        assert_eq!(mac.verify(&other_name, entry_bytes.expose()), None);
        assert_eq!(EntryMac::of(&key(2)).verify(&entry, entry_bytes.expose()), None);
        for at in 0..entry_bytes.len() {
            for bit in 0..8 {
                let mut changed = entry_bytes.expose().to_vec();
                changed[at] ^= 1 << bit;
                assert_eq!(mac.verify(&entry, &changed), None, "{at}, {bit}");
            }
            assert_eq!(mac.verify(&entry, &entry_bytes.expose()[..at]), None, "{at}");
        }
    }
}
