//! What the entries of these tests hold: it follows from their names.

use kms_core::{EntryName, Identity, KeyName, KeyRecord, SecretBytes, SecretKey};

/// Bytes set aside on the disk; a test store needs few.
pub const BALLAST: u64 = 1 << 20;

/// Makes the record of the entry `name`.
pub fn record(name: &str) -> SecretBytes {
    let mut bytes = *Identity::of_public_key(name.as_bytes()).as_bytes();
    KeyRecord {
        key: SecretKey::take(&mut bytes),
        cipher: kms_core::Cipher::Aes256,
        hmac_key: None,
        created_at: None,
        created_by: format!("the durability tests, as they made the entry '{name}'"),
    }
    .encode()
}

/// Makes the name of an entry.
pub fn entry(name: &str) -> EntryName {
    EntryName::from(&KeyName::new(name).expect("a valid name"))
}
