//! The content of entries in the durability tests. It follows from their names.

use kms_core::primitives::{SecretBytes, SecretKey};
use kms_core::store::{EntryName, KeyRecord};
use kms_core::{Identity, KeyName};

/// How many bytes a test store reserves on the disk.
pub const BALLAST: u64 = 1 << 20;

/// Returns the record of the entry `name`.
pub fn record(name: &str) -> SecretBytes {
    let mut bytes = *Identity::of_public_key(name.as_bytes()).as_bytes();
    KeyRecord {
        key: SecretKey::take(&mut bytes),
        cipher: kms_core::primitives::Cipher::Aes256,
        hmac_key: None,
        created_at: None,
        created_by: format!("the durability tests, as they made the entry '{name}'"),
    }
    .encode()
}

/// Returns the name of an entry.
pub fn entry(name: &str) -> EntryName {
    EntryName::from(&KeyName::new(name).expect("a valid name"))
}
