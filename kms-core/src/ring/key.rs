//! A master key in memory, ready for use: its first version, and the later ones.

use std::sync::Arc;

use jiff::Timestamp;

use super::creators::Creator;
use super::versions::{State, Version, Versions};
use crate::error::Result;
use crate::primitives::header::Header;
use crate::primitives::lock::lock;
use crate::primitives::seal::DataKey;
use crate::primitives::{Fingerprint, IV_LEN, SealingKey, SecretBytes, SecretKey, mac};
use crate::store::entry::MAX_VERSIONS;
use crate::store::{HmacKey, KeyRecord};

/// A plaintext, and the version that opened it. `None` if the key has only one.
pub type Opened = (SecretBytes, Option<Arc<State>>);

/// A master key as it was read from a store, with all that is derived from it once.
///
/// It implements no `Debug`. Its secrets are wiped when the last user drops it.
pub struct CachedKey {
    pub sealing: SealingKey,
    /// Few keys compute HMACs. So only the key is kept, and not what [`SealingKey`] derives from its own.
    hmac_key: Option<SecretKey>,
    fingerprint: Fingerprint,
    pub created_at: Option<Timestamp>,
    pub created_by: Creator,
    /// `None` if there is only the first version.
    pub versions: Option<Arc<Versions>>,
}

impl CachedKey {
    /// Makes a record ready for use.
    pub fn new(record: KeyRecord) -> Self {
        let sealing = SealingKey::new(record.key, record.cipher);
        let hmac_key = record.hmac_key.map(|key| key.0);
        if let Some(key) = &hmac_key {
            lock(key.expose());
        }
        Self {
            fingerprint: sealing.fingerprint(),
            sealing,
            hmac_key,
            created_at: record.created_at,
            created_by: record.created_by.into(),
            versions: None,
        }
    }

    /// Returns another copy of the key. The later versions are shared.
    pub fn copy(&self) -> Self {
        let versions = self.versions.clone();
        Self { created_by: self.created_by.clone(), versions, ..Self::new(self.record()) }
    }

    /// Returns the record of the first version.
    pub fn record(&self) -> KeyRecord {
        KeyRecord {
            key: self.sealing.key().copy(),
            cipher: self.sealing.cipher(),
            hmac_key: self.hmac_key.as_ref().map(|key| HmacKey(key.copy())),
            created_at: self.created_at,
            created_by: self.created_by.as_str().to_owned(),
        }
    }

    /// Makes a data key, and seals it under the version that seals.
    pub fn generate(&self, context: &[u8]) -> Result<DataKey> {
        match self.sealer()? {
            None => {
                self.note_sealed();
                self.sealing.generate(context)
            }
            Some(version) => version.generate(context),
        }
    }

    /// Seals under the version that seals.
    pub fn seal(&self, plaintext: &[u8], context: &[u8]) -> Result<Vec<u8>> {
        match self.sealer()? {
            None => {
                self.note_sealed();
                self.sealing.seal(plaintext, context)
            }
            Some(version) => version.seal(plaintext, context),
        }
    }

    fn note_sealed(&self) {
        if let Some(versions) = &self.versions {
            versions.first.used.sealed();
        }
    }

    fn sealer(&self) -> Result<Option<Arc<Version>>> {
        self.versions.as_ref().map_or(Ok(None), |versions| versions.sealer())
    }

    /// Opens a ciphertext under the version that it names, if that is in memory, and else as raw: a raw ciphertext may begin
    /// like a header.
    ///
    /// Returns the version that opened it, too, if there are several.
    pub fn open(&self, ciphertext: &[u8], context: &[u8]) -> Option<Opened> {
        let Some(versions) = &self.versions else {
            return Some((self.sealing.open_any_form(ciphertext, context).ok()?, None));
        };
        let (plaintext, state) = if let Some((number, sealed)) = self.named_by(ciphertext)
            && let Some(version) = versions.get(number)
            && let Ok(plaintext) = version.open(sealed, context)
        {
            (plaintext, &version.state.clone())
        } else {
            (self.sealing.open_any_form(ciphertext, context).ok()?, &versions.first)
        };
        state.used.opened();
        Some((plaintext, Some(Arc::clone(state))))
    }

    /// Returns the number of the newest version.
    pub fn newest(&self) -> u32 {
        self.versions.as_ref().map_or(1, |versions| versions.newest())
    }

    /// Returns the later version that a ciphertext names, with what follows its header. `None` if it names none that this
    /// key may have.
    pub fn named_by<'a>(&self, ciphertext: &'a [u8]) -> Option<(u32, &'a [u8])> {
        let (header, sealed) = Header::parse(ciphertext)?;
        let may_be = header.first == self.fingerprint && (2..=MAX_VERSIONS).contains(&header.version);
        may_be.then_some((header.version, sealed))
    }

    /// Computes HMAC-SHA256 of `message`; `None` without an HMAC key.
    ///
    /// A key that came from MinIO's static key may have its own bytes as HMAC key. Then the HMAC of as many bytes as an IV has
    /// would be the key of a seal, and is refused.
    pub fn hmac(&self, message: &[u8]) -> Option<std::result::Result<[u8; 32], &'static str>> {
        let key = self.hmac_key.as_ref()?;
        if message.len() == IV_LEN && key == self.sealing.key() {
            return Some(Err("the HMAC key is the key itself, so a message of exactly 16 bytes is refused"));
        }
        Some(Ok(mac::tag(key, message).into()))
    }

    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }
}
