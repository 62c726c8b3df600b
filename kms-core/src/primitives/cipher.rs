//! The ciphers that seal, their sizes, and the fingerprint of a key.

use std::fmt;

/// The length of the iv from which the key of one seal is derived.
pub const IV_LEN: usize = 16;
/// The length of the AEAD's nonce.
pub const NONCE_LEN: usize = 12;
/// The length of the AEAD's tag.
pub const TAG_LEN: usize = 16;

/// The AEAD that seals under a master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// AES-256-GCM under HMAC-SHA256(key, iv).
    Aes256,
    /// ChaCha20-Poly1305 (RFC 8439) under HChaCha20(key, iv), as in XChaCha20.
    ChaCha20,
}

impl Cipher {
    /// Returns the cipher for new keys: AES where the CPU has instructions for it.
    pub fn preferred() -> Self {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        let has_aes = std::arch::is_x86_feature_detected!("aes");
        #[cfg(target_arch = "aarch64")]
        let has_aes = std::arch::is_aarch64_feature_detected!("aes");
        #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
        let has_aes = false;
        if has_aes { Self::Aes256 } else { Self::ChaCha20 }
    }

    /// Returns the cipher's name in KES's API: `AES256` or `ChaCha20`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes256 => "AES256",
            Self::ChaCha20 => "ChaCha20",
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A value that tells two keys apart and reveals neither.
///
/// It is the first 16 bytes of HMAC-SHA256(key, "kms key fingerprint v1").
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// Creates a fingerprint from its 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
