//! A master key in memory, ready for use.

use std::sync::Arc;

use jiff::Timestamp;

use crate::primitives::mac::KeyedMac;
use crate::primitives::{Fingerprint, SealingKey};
use crate::store::KeyRecord;

/// A master key as it was read from a store, with all that is derived from it once.
///
/// It implements no `Debug`. Its secrets are wiped when the last user drops it.
pub struct CachedKey {
    pub sealing: SealingKey,
    mac: Option<KeyedMac>,
    fingerprint: Fingerprint,
    pub created_at: Option<Timestamp>,
    pub created_by: Arc<str>,
}

impl CachedKey {
    /// Makes a record ready for use.
    pub fn new(record: KeyRecord) -> Self {
        let sealing = SealingKey::new(record.key, record.cipher);
        let mac = record.hmac_key.map(|key| KeyedMac::new(&key.0));
        Self {
            fingerprint: sealing.fingerprint(),
            sealing,
            mac,
            created_at: record.created_at,
            created_by: record.created_by.into(),
        }
    }

    /// Computes HMAC-SHA256 of `message`; `None` without an HMAC key.
    pub fn hmac(&self, message: &[u8]) -> Option<[u8; 32]> {
        Some(self.mac.as_ref()?.tag(message).into())
    }

    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }
}
