//! The store key, under which the records of a store are sealed.

use std::time::Duration;

use async_trait::async_trait;
use kms_core::primitives::{Cipher, SealingKey, SecretBytes, SecretKey};
use kms_core::roots;
use kms_core::store::{EntryName, KeyRecord, Wrapper};
use kms_core::{Error, ErrorKind, Result, StoreStatus};

/// The length in bytes of the random id of a store.
pub const STORE_ID_LEN: usize = 16;

/// The id of a store.
pub type StoreId = [u8; STORE_ID_LEN];

/// A [`Wrapper`] with the random key of a store, which the root key wraps.
///
/// The associated data is the format, the store's id and the entry's name, so a record opens nowhere else.
pub struct StoreKey {
    key: SealingKey,
    store_id: StoreId,
}

impl StoreKey {
    pub(crate) fn new(key: SealingKey, store_id: StoreId) -> Self {
        Self { key, store_id }
    }

    /// Creates the wrapper of the store key that a root of the store opened.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Internal`]: the key cannot be copied.
    pub fn of_roots(key: &roots::StoreKey) -> Result<Self> {
        let none = || Error::new(ErrorKind::Internal, "copy the store key");
        let copy = SecretKey::from_slice(key.key().expose()).ok_or_else(none)?;
        Ok(Self::new(SealingKey::new(copy, Cipher::Aes256), *key.store_id()))
    }

    /// Returns the store key as roots wrap it.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Internal`]: the key cannot be copied.
    pub fn to_roots(&self) -> Result<roots::StoreKey> {
        let none = || Error::new(ErrorKind::Internal, "copy the store key");
        let copy = SecretKey::from_slice(self.key.key().expose()).ok_or_else(none)?;
        Ok(roots::StoreKey::new(copy, self.store_id))
    }

    pub(crate) fn key(&self) -> &SecretKey {
        self.key.key()
    }

    /// Returns whether the record of the entry `name` opens, and decodes as the record of a key.
    pub(crate) fn opens(&self, name: &str, record: &[u8]) -> bool {
        let opened = self.key.open(record, &self.context(name));
        opened.is_ok_and(|record| KeyRecord::decode(record.expose()).is_ok())
    }

    /// Returns the associated data of a record.
    ///
    /// The parts before the name have fixed lengths, so no two names give the same data.
    fn context(&self, name: &str) -> Vec<u8> {
        [b"kms-fs record v1\0".as_slice(), &self.store_id, name.as_bytes()].concat()
    }
}

#[async_trait]
impl Wrapper for StoreKey {
    fn binds_name(&self) -> bool {
        true
    }

    fn is_local(&self) -> bool {
        true
    }

    async fn wrap(&self, name: &EntryName, record: &SecretBytes) -> Result<Vec<u8>> {
        self.key.seal(record.expose(), &self.context(name.as_str()))
    }

    async fn unwrap(&self, name: &EntryName, wrapped: &[u8]) -> Result<SecretBytes> {
        self.key.open(wrapped, &self.context(name.as_str())).map_err(|_| {
            let why = "the record was not sealed in this store under this name, or was changed";
            Error::with_source(ErrorKind::Corrupt, format!("open the record of entry '{name}'"), why)
        })
    }

    async fn status(&self) -> Result<StoreStatus> {
        Ok(StoreStatus::ok(Duration::ZERO))
    }
}
