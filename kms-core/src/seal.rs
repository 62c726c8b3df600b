//! Envelope encryption in the raw form of KES: the only place where anything is sealed.
//!
//! A seal draws 28 random bytes, iv (16) ‖ nonce (12), derives a key for this one seal from the iv, and
//! appends them to the ciphertext: `ciphertext ‖ tag (16) ‖ iv (16) ‖ nonce (12)`. The derived key makes a
//! master key safe for far more than the 2^32 seals of plain AES-GCM with random nonces.
//! Source: KES 0.24 and MinIO's built-in key write this form.

use std::array;
use std::fmt;

use aes::cipher::BlockCipherEncrypt;
use aes_gcm::Aes256Gcm;
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::legacy::{self, Algorithm, Parts};
use crate::lock::lock;
use crate::{DataKey, Error, ErrorKind, Result, SecretBytes, SecretKey, fill_random};

pub(crate) const IV_LEN: usize = 16;
pub(crate) const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
/// The random bytes of one seal.
const SEAL_RANDOM_LEN: usize = IV_LEN + NONCE_LEN;

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

    /// Returns the name by which KES's API calls it: `AES256` or `ChaCha20`.
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

/// What tells keys apart without telling them: the first 16 bytes of HMAC-SHA256(key, "kms key fingerprint v1").
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// Takes 16 bytes for a fingerprint.
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

/// A key made ready to seal and open.
///
/// It implements no `Debug`. The key bytes and what is derived from them are wiped when it is dropped.
pub struct SealingKey {
    cipher: Cipher,
    key: SecretKey,
    /// HMAC-SHA256 with the key already taken in, from which the keys of seals are derived.
    mac: Box<Hmac<Sha256>>,
}

impl SealingKey {
    /// Makes `key` ready to seal with `cipher`.
    pub fn new(key: SecretKey, cipher: Cipher) -> Self {
        let mac = Box::new(keyed_hmac(&key));
        lock(key.expose());
        lock(mac.as_ref());
        Self { cipher, key, mac }
    }

    /// Returns the cipher it seals with.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Lends the key itself.
    pub fn key(&self) -> &SecretKey {
        &self.key
    }

    /// Computes the fingerprint of the key.
    pub fn fingerprint(&self) -> Fingerprint {
        let tag: [u8; 32] =
            Hmac::clone(&self.mac).chain_update(b"kms key fingerprint v1").finalize().into_bytes().into();
        Fingerprint(array::from_fn(|n| tag[n]))
    }

    /// Encrypts `plaintext` and binds it to `context`, the associated data.
    ///
    /// The result is 44 bytes longer than the plaintext. Fails as `Internal` when the system has no random
    /// bytes, and for a plaintext beyond the cipher's limit of 64 GiB.
    pub fn seal(&self, plaintext: &[u8], context: &[u8]) -> Result<Vec<u8>> {
        let mut random = [0; SEAL_RANDOM_LEN];
        fill_random(&mut random)?;
        self.seal_with(&random, plaintext, context)
    }

    /// Makes a fresh data key, and seals it as [`seal`](Self::seal) does.
    pub fn generate(&self, context: &[u8]) -> Result<DataKey> {
        // One call to the system's generator for the data key and for its seal: each costs 0.4 µs.
        let mut random = [0; 32 + SEAL_RANDOM_LEN];
        fill_random(&mut random)?;
        let (mut key, mut seal) = ([0; 32], [0; SEAL_RANDOM_LEN]);
        key.copy_from_slice(&random[..32]);
        seal.copy_from_slice(&random[32..]);
        random.zeroize();
        let plaintext = SecretKey::take(&mut key);
        let ciphertext = self.seal_with(&seal, plaintext.expose(), context)?;
        Ok(DataKey { plaintext, ciphertext })
    }

    /// Seals with random bytes that the caller has drawn, for this one seal.
    fn seal_with(&self, random: &[u8; SEAL_RANDOM_LEN], plaintext: &[u8], context: &[u8]) -> Result<Vec<u8>> {
        let (iv, nonce) = split(random);
        let mut sealed = Vec::with_capacity(plaintext.len() + TAG_LEN + random.len());
        sealed.extend_from_slice(plaintext);
        let outcome = match self.cipher {
            Cipher::Aes256 => self.aes(&iv).encrypt_in_place(&nonce.into(), context, &mut sealed),
            Cipher::ChaCha20 => self.chacha(&iv).encrypt_in_place(&nonce.into(), context, &mut sealed),
        };
        if outcome.is_err() {
            sealed.zeroize();
            return Err(Error::new(ErrorKind::Internal, "seal a plaintext"));
        }
        sealed.extend_from_slice(random);
        Ok(sealed)
    }

    /// Decrypts what [`seal`](Self::seal) made with this key, this cipher and this context.
    ///
    /// Fails with `NotAuthentic` otherwise.
    pub fn open(&self, sealed: &[u8], context: &[u8]) -> Result<SecretBytes> {
        let not_authentic = || Error::new(ErrorKind::NotAuthentic, "open a ciphertext");
        let (sealed, random) = sealed.split_last_chunk::<SEAL_RANDOM_LEN>().ok_or_else(not_authentic)?;
        let (iv, nonce) = split(random);
        self.open_parts(self.cipher, sealed, &iv, &nonce, context).ok_or_else(not_authentic)
    }

    /// Decrypts a ciphertext of any form that a KES release wrote, raw or structured.
    ///
    /// A structured one names its cipher, which need not be that of the key. What does not open so is tried as
    /// raw, since a raw ciphertext may begin like a structured one. Fails with `NotAuthentic`.
    pub fn open_any_form(&self, ciphertext: &[u8], context: &[u8]) -> Result<SecretBytes> {
        if let Some(parts) = legacy::parse(ciphertext)
            && let Some(plaintext) = self.open_structured(&parts, context)
        {
            return Ok(plaintext);
        }
        self.open(ciphertext, context)
    }

    fn open_structured(&self, parts: &Parts, context: &[u8]) -> Option<SecretBytes> {
        let Parts { algorithm, iv, nonce, sealed } = parts;
        match *algorithm {
            Algorithm::Current(cipher) => self
                .open_parts(cipher, sealed, iv, nonce, context)
                // Changed or not, the name of the cipher is not authenticated; KES 0.24 goes by the key.
                .or_else(|| self.open_parts(self.cipher, sealed, iv, nonce, context)),
            Algorithm::AesDerived => {
                let mut derived = self.derive_with_aes(iv);
                let aes = Aes256Gcm::new(&derived.into());
                derived.zeroize();
                open_in(&aes, sealed, nonce, context)
            }
        }
    }

    /// Derives a key as KES did until early 2020: two AES blocks over either part of the iv, xored.
    fn derive_with_aes(&self, iv: &[u8; IV_LEN]) -> [u8; 32] {
        let aes = aes::Aes256::new(&(*self.key.expose()).into());
        let block = |counter: u8, part: &[u8]| {
            let mut block = aes::Block::default();
            block[0] = counter;
            block[4..].copy_from_slice(part);
            aes.encrypt_block(&mut block);
            block
        };
        let mut derived = [0; 32];
        for (half, counters) in derived.chunks_exact_mut(16).zip([(0, 1), (2, 3)]) {
            let (first, second) = (block(counters.0, &iv[..12]), block(counters.1, &iv[4..]));
            for (byte, (a, b)) in half.iter_mut().zip(first.iter().zip(second.iter())) {
                *byte = a ^ b;
            }
        }
        derived
    }

    /// Decrypts `sealed`, a ciphertext with its tag, that was sealed with `cipher` under this iv and nonce.
    fn open_parts(
        &self,
        cipher: Cipher,
        sealed: &[u8],
        iv: &[u8; IV_LEN],
        nonce: &[u8; NONCE_LEN],
        context: &[u8],
    ) -> Option<SecretBytes> {
        match cipher {
            Cipher::Aes256 => open_in(&self.aes(iv), sealed, nonce, context),
            Cipher::ChaCha20 => open_in(&self.chacha(iv), sealed, nonce, context),
        }
    }

    /// Derives the AES-256-GCM key of one seal: HMAC-SHA256(key, iv).
    fn aes(&self, iv: &[u8; IV_LEN]) -> Aes256Gcm {
        let mut derived = Hmac::clone(&self.mac).chain_update(iv).finalize().into_bytes();
        let aes = Aes256Gcm::new(&derived);
        derived.as_mut_slice().zeroize();
        aes
    }

    /// Derives the ChaCha20-Poly1305 key of one seal: HChaCha20(key, iv).
    fn chacha(&self, iv: &[u8; IV_LEN]) -> ChaCha20Poly1305 {
        let mut derived = chacha20::hchacha::<chacha20::R20>(&(*self.key.expose()).into(), &(*iv).into());
        let cipher = ChaCha20Poly1305::new(&derived);
        derived.as_mut_slice().zeroize();
        cipher
    }
}

/// Makes HMAC-SHA256 ready under `key`, padded to the block of the hash as RFC 2104 says.
pub(crate) fn keyed_hmac(key: &SecretKey) -> Hmac<Sha256> {
    let mut block = Zeroizing::new([0; 64]);
    block[..32].copy_from_slice(key.expose());
    <Hmac<Sha256> as hmac::KeyInit>::new((&*block).into())
}

fn open_in<A: AeadInOut>(
    aead: &A,
    sealed: &[u8],
    nonce: &[u8; NONCE_LEN],
    context: &[u8],
) -> Option<SecretBytes> {
    let mut buffer = Zeroizing::new(sealed.to_vec());
    let nonce = nonce.as_slice().try_into().ok()?;
    aead.decrypt_in_place(nonce, context, &mut *buffer).ok()?;
    Some(SecretBytes::new(std::mem::take(&mut *buffer)))
}

fn split(random: &[u8; SEAL_RANDOM_LEN]) -> ([u8; IV_LEN], [u8; NONCE_LEN]) {
    (array::from_fn(|n| random[n]), array::from_fn(|n| random[IV_LEN + n]))
}
