//! The keys that AWS KMS wraps and that work in this process: one that seals, and one that opens.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use kms_core::primitives::SealingKey;
use kms_core::single_flight::SingleFlight;
use kms_core::{DataKey, Result};

use super::format;

/// A key that seals.
pub struct WorkingKey {
    /// Each ciphertext under the key begins with this.
    pub header: Vec<u8>,
    pub key: Arc<SealingKey>,
    pub uses: AtomicU64,
    /// The time from its fetch until it begins to seal. Its age counts from there, so that there is one key in each
    /// `max_age`.
    pub lead: Duration,
}

impl WorkingKey {
    /// Seals `plaintext` under this key.
    pub fn seal(&self, plaintext: &[u8], context: &[u8]) -> Result<Vec<u8>> {
        let sealed = self.key.seal(plaintext, &format::associated_data(&self.header, context))?;
        Ok([self.header.as_slice(), &sealed].concat())
    }

    /// Creates a fresh data key, and seals it under this key.
    pub fn generate(&self, context: &[u8]) -> Result<DataKey> {
        let DataKey { plaintext, ciphertext } =
            self.key.generate(&format::associated_data(&self.header, context))?;
        Ok(DataKey { plaintext, ciphertext: [self.header.as_slice(), &ciphertext].concat() })
    }
}

/// A key that opens.
#[derive(Default)]
pub struct OpenedKey {
    pub flight: Arc<SingleFlight<Arc<SealingKey>>>,
    /// When it was used last, in milliseconds since the start.
    pub used: AtomicU64,
}
