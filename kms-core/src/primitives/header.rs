//! The header of a ciphertext that names the version of a key.
//!
//! Version 1 seals as KES does, without a header. A ciphertext of a later version begins with magic (4 bytes), kind (1
//! byte), fingerprint of version 1 (16 bytes), version (4 bytes, big-endian). The raw form of a seal follows. The
//! associated data is the whole header followed by the context, so no byte of the header can be changed.

use super::cipher::Fingerprint;

/// The first bytes of every ciphertext with a header. Neither form of KES's structured ciphertexts begins with them.
pub const MAGIC: [u8; 4] = [0x6b, 0x6d, 0x73, 0x01];

/// The kind of a ciphertext that a version of a key sealed. `kms-aws` has others.
const VERSION: u8 = 1;

/// The length of a header.
pub const HEADER_LEN: usize = MAGIC.len() + 1 + 16 + 4;

/// The header of a ciphertext under a later version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The fingerprint of the key's first version.
    pub first: Fingerprint,
    /// The version that sealed.
    pub version: u32,
}

impl Header {
    /// Returns the bytes.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5..21].copy_from_slice(self.first.as_bytes());
        bytes[21..].copy_from_slice(&self.version.to_be_bytes());
        bytes
    }

    /// Parses the header of `ciphertext`, and returns what follows it. `None` for what does not begin with a header.
    ///
    /// A raw ciphertext may happen to begin like one.
    pub fn parse(ciphertext: &[u8]) -> Option<(Self, &[u8])> {
        let rest = ciphertext.strip_prefix(&MAGIC)?.strip_prefix(&[VERSION])?;
        let (first, rest) = rest.split_first_chunk::<16>()?;
        let (version, sealed) = rest.split_first_chunk::<4>()?;
        let header = Self { first: Fingerprint::from_bytes(*first), version: u32::from_be_bytes(*version) };
        Some((header, sealed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_no_less() {
        let header = Header { first: Fingerprint::from_bytes([7; 16]), version: 0x0102_0304 };
        let bytes = header.to_bytes();
        assert_eq!(hex::encode(bytes), format!("6b6d730101{}01020304", "07".repeat(16)));
        assert_eq!(
            Header::parse(&[&bytes, b"sealed".as_slice()].concat()),
            Some((header, b"sealed".as_slice()))
        );
        for len in 0..bytes.len() {
            assert_eq!(Header::parse(&bytes[..len]), None);
        }
    }
}
