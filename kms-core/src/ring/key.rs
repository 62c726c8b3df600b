//! A master key in memory, ready for use.

use hmac::{Hmac, Mac};
use jiff::Timestamp;
use sha2::Sha256;

use crate::primitives::lock::lock;
use crate::primitives::seal::keyed_hmac;
use crate::primitives::{Fingerprint, SealingKey};
use crate::store::KeyRecord;

/// A master key as it was read from a store, with all that is derived from it once.
///
/// It implements no `Debug`. Its secrets are wiped when the last user drops it.
pub struct CachedKey {
    pub sealing: SealingKey,
    mac: Option<Box<Hmac<Sha256>>>,
    fingerprint: Fingerprint,
    pub created_at: Option<Timestamp>,
    pub created_by: String,
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

    /// Computes HMAC-SHA256 of `message`; `None` without an HMAC key.
    pub fn hmac(&self, message: &[u8]) -> Option<[u8; 32]> {
        let mac = Hmac::clone(self.mac.as_ref()?);
        Some(mac.chain_update(message).finalize().into_bytes().into())
    }

    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }
}
