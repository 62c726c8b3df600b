//! A master key in memory, ready for use.

use hmac::{Hmac, Mac};
use jiff::Timestamp;
use sha2::Sha256;

use crate::lock::lock;
use crate::seal::keyed_hmac;
use crate::{Cipher, DataKey, Fingerprint, KeyRecord, Result, SealingKey, SecretBytes};

/// A master key as read from a store, with what is derived from it once.
///
/// It implements no `Debug`; its secrets are wiped when the last user drops it.
pub struct CachedKey {
    sealing: SealingKey,
    mac: Option<Box<Hmac<Sha256>>>,
    fingerprint: Fingerprint,
    created_at: Option<Timestamp>,
    created_by: String,
}

impl CachedKey {
    /// Makes a record ready for use.
    pub fn new(record: KeyRecord) -> Self {
        let sealing = SealingKey::new(record.key, record.cipher);
        let mac = record.hmac_key.map(|key| Box::new(keyed_hmac(&key.0)));
        if let Some(mac) = &mac {
            lock(mac.as_ref());
        }
        Self {
            fingerprint: sealing.fingerprint(),
            sealing,
            mac,
            created_at: record.created_at,
            created_by: record.created_by,
        }
    }

    pub fn seal(&self, plaintext: &[u8], context: &[u8]) -> Result<Vec<u8>> {
        self.sealing.seal(plaintext, context)
    }

    pub fn generate(&self, context: &[u8]) -> Result<DataKey> {
        self.sealing.generate(context)
    }

    pub fn open(&self, ciphertext: &[u8], context: &[u8]) -> Result<SecretBytes> {
        self.sealing.open_any_form(ciphertext, context)
    }

    /// Computes HMAC-SHA256 of `message`; `None` without an HMAC key.
    pub fn hmac(&self, message: &[u8]) -> Option<[u8; 32]> {
        let mac = Hmac::clone(self.mac.as_ref()?);
        Some(mac.chain_update(message).finalize().into_bytes().into())
    }

    pub fn cipher(&self) -> Cipher {
        self.sealing.cipher()
    }

    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    pub fn created_at(&self) -> Option<Timestamp> {
        self.created_at
    }

    pub fn created_by(&self) -> &str {
        &self.created_by
    }
}
