//! Secret bytes: wiped when dropped, never printed, compared in constant time.

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::{Error, ErrorKind, Result};

/// 32 secret bytes: a key.
///
/// The bytes live on the heap, so that moving the value leaves no copy behind, and are wiped when it is
/// dropped. There is no `Debug`, `Display`, `Serialize` or `Clone`.
pub struct SecretKey(Box<Zeroizing<[u8; 32]>>);

impl SecretKey {
    /// Takes over `bytes` and wipes the caller's copy.
    pub fn take(bytes: &mut [u8; 32]) -> Self {
        let key = Self(Box::new(Zeroizing::new(*bytes)));
        bytes.zeroize();
        key
    }

    /// Copies a slice of exactly 32 bytes; `None` if it has another length.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut key = Box::new(Zeroizing::new([0; 32]));
        if bytes.len() != key.len() {
            return None;
        }
        key.copy_from_slice(bytes);
        Some(Self(key))
    }

    /// Makes a key of 32 bytes from the operating system's random generator.
    ///
    /// Fails as [`ErrorKind::Internal`] when the generator does.
    pub fn random() -> Result<Self> {
        let mut key = Box::new(Zeroizing::new([0; 32]));
        fill_random(key.as_mut_slice())?;
        Ok(Self(key))
    }

    /// Lends the bytes.
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

/// Secret bytes of any length: a plaintext, or a key record.
///
/// Wiped when dropped; there is no `Debug`, `Display`, `Serialize` or `Clone`.
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes over `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Lends the bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether there are none.
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

/// Fills `bytes` from the operating system's random generator.
pub fn fill_random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|source| {
        Error::with_source(ErrorKind::Internal, "read the system's random generator", source.to_string())
    })
}
