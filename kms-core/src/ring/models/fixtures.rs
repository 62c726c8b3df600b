//! The key, the clients and the records of all models.

use std::time::Duration;

use super::super::key::CachedKey;
use crate::identity::{Identity, Request};
use crate::name::KeyName;
use crate::primitives::{Cipher, SecretKey};
use crate::store::KeyRecord;

/// Later than anything that a model waits for.
pub const FAR: Duration = Duration::from_secs(86_400);

pub fn name() -> KeyName {
    KeyName::new("key").unwrap()
}

pub fn request(who: &str) -> Request {
    Request::new(Identity::of_public_key(who.as_bytes()), FAR)
}

pub fn record() -> KeyRecord {
    KeyRecord::new(SecretKey::random().unwrap(), Cipher::Aes256, "model").unwrap()
}

pub fn key() -> CachedKey {
    CachedKey::new(record())
}
