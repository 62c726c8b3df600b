//! Secret bytes: they are wiped when dropped, never printed, and compared in constant time.

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use super::random::fill_random;
use crate::error::Result;

/// A key: 32 secret bytes.
///
/// The bytes are on the heap, so that a move of the value leaves no copy behind. They are wiped when the value is
/// dropped, and compared in constant time. The type has no `Debug`, `Display`, `Serialize` or `Clone`.
pub struct SecretKey(Box<Zeroizing<[u8; 32]>>);

impl SecretKey {
    /// Creates a key from `bytes`, and wipes the caller's copy.
    pub fn take(bytes: &mut [u8; 32]) -> Self {
        let key = Self(Box::new(Zeroizing::new(*bytes)));
        bytes.zeroize();
        key
    }

    /// Creates a key from a copy of `bytes`; returns `None` unless there are exactly 32.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut key = Box::new(Zeroizing::new([0; 32]));
        if bytes.len() != key.len() {
            return None;
        }
        key.copy_from_slice(bytes);
        Some(Self(key))
    }

    /// Creates a random key from the operating system's generator.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Internal`](crate::ErrorKind::Internal): the generator failed.
    pub fn random() -> Result<Self> {
        let mut key = Box::new(Zeroizing::new([0; 32]));
        fill_random(key.as_mut_slice())?;
        Ok(Self(key))
    }

    /// Returns another copy, for a key that the store lost: one is served, and one is kept until it was written back.
    pub(crate) fn copy(&self) -> Self {
        Self(self.0.clone())
    }

    /// Returns the bytes.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for SecretKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for SecretKey {}

/// Secret bytes of any length, such as a plaintext or a key record.
///
/// They are wiped when the value is dropped, and compared in constant time. The type has no `Debug`, `Display`,
/// `Serialize` or `Clone`.
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Creates a value that owns `bytes`, without a copy.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns `true` if there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&[u8]> for SecretBytes {
    fn from(bytes: &[u8]) -> Self {
        Self::new(bytes.to_vec())
    }
}

impl PartialEq for SecretBytes {
    fn eq(&self, other: &Self) -> bool {
        self.expose().ct_eq(other.expose()).into()
    }
}

impl Eq for SecretBytes {}
