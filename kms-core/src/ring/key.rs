//! A master key in memory, ready for use.

use std::sync::Arc;

use jiff::Timestamp;

use crate::primitives::lock::lock;
use crate::primitives::{Fingerprint, SealingKey, SecretKey, mac};
use crate::store::KeyRecord;

/// A master key as it was read from a store, with all that is derived from it once.
///
/// It implements no `Debug`. Its secrets are wiped when the last user drops it.
pub struct CachedKey {
    pub sealing: SealingKey,
    /// Few keys compute HMACs. So only the key is kept, and not what [`SealingKey`] derives from its own.
    hmac_key: Option<SecretKey>,
    fingerprint: Fingerprint,
    pub created_at: Option<Timestamp>,
    pub created_by: Arc<str>,
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
        }
    }

    /// Computes HMAC-SHA256 of `message`; `None` without an HMAC key.
    pub fn hmac(&self, message: &[u8]) -> Option<[u8; 32]> {
        Some(mac::tag(self.hmac_key.as_ref()?, message).into())
    }

    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }
}
