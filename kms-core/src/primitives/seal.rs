//! Envelope encryption in the raw form of KES: all sealing happens here.
//!
//! A seal draws 28 random bytes, iv (16) ‖ nonce (12). It derives a key for this one seal from the iv, and appends the
//! random bytes to the ciphertext: `ciphertext ‖ tag (16) ‖ iv (16) ‖ nonce (12)`. Because of the derived key, a master
//! key is safe for far more than the 2^32 seals of plain AES-GCM with random nonces.
//! KES 0.24 and MinIO's built-in key write the same form.

use std::array;
use std::borrow::Cow;

use aes::cipher::BlockCipherEncrypt;
use aes_gcm::Aes256Gcm;
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use zeroize::{Zeroize, Zeroizing};

use super::cipher::{Cipher, Fingerprint, IV_LEN, NONCE_LEN, TAG_LEN};
use super::legacy::{self, Algorithm, Parts};
use super::lock::lock;
use super::mac::KeyedMac;
use super::random::fill_for_seal;
use super::secret::{SecretBytes, SecretKey};
use crate::error::{Error, ErrorKind, Result};

/// The number of random bytes of one seal.
const SEAL_RANDOM_LEN: usize = IV_LEN + NONCE_LEN;

/// A data encryption key: 32 bytes in the clear, and the same bytes sealed.
pub struct DataKey {
    /// The key in the clear: encrypt one object with it, and forget it.
    pub plaintext: SecretKey,
    /// The key sealed under the master key: store it with the object.
    pub ciphertext: Vec<u8>,
}

/// A key that is ready to seal and open.
///
/// The key and everything derived from it are wiped when the value is dropped. The type has no `Debug`.
pub struct SealingKey {
    cipher: Cipher,
    key: SecretKey,
    /// The keys of seals are derived from it.
    mac: KeyedMac,
}

impl SealingKey {
    /// Creates a sealing key that seals with `cipher` under `key`.
    pub fn new(key: SecretKey, cipher: Cipher) -> Self {
        let mac = KeyedMac::new(&key);
        lock(key.expose());
        Self { cipher, key, mac }
    }

    /// Returns the cipher that seals.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Returns the key itself.
    pub fn key(&self) -> &SecretKey {
        &self.key
    }

    /// Computes the fingerprint of the key.
    pub fn fingerprint(&self) -> Fingerprint {
        let tag = self.mac.tag(b"kms key fingerprint v1");
        Fingerprint::from_bytes(array::from_fn(|n| tag[n]))
    }

    /// Derives 32 bytes for another use, which `what` names.
    pub(crate) fn derive(&self, what: &[u8]) -> [u8; 32] {
        self.mac.tag(what).into()
    }

    /// Encrypts `plaintext` and binds it to `context`, the associated data.
    ///
    /// The result is 44 bytes longer than the plaintext.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Internal`]: the system has no random bytes, or the plaintext exceeds the cipher's limit of 64 GiB.
    pub fn seal(&self, plaintext: &[u8], context: &[u8]) -> Result<Vec<u8>> {
        self.seal_behind(&[], plaintext, context)
    }

    /// Seals as [`seal`](Self::seal) does, and puts `header` before the result. The context then begins with it.
    pub(crate) fn seal_behind(&self, header: &[u8], plaintext: &[u8], context: &[u8]) -> Result<Vec<u8>> {
        let mut random = [0; SEAL_RANDOM_LEN];
        fill_for_seal(&mut random)?;
        self.seal_with(&random, header, plaintext, context)
    }

    /// Creates a random data key, and seals it as [`seal`](Self::seal) does.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Internal`]: the system has no random bytes.
    pub fn generate(&self, context: &[u8]) -> Result<DataKey> {
        self.generate_behind(&[], context)
    }

    /// Creates a data key as [`generate`](Self::generate) does, and puts `header` before its ciphertext. The context then
    /// begins with it.
    pub(crate) fn generate_behind(&self, header: &[u8], context: &[u8]) -> Result<DataKey> {
        // One call draws the bytes of the data key and of its seal, since most of the cost of a call does not depend on their number.
        let mut random = [0; 32 + SEAL_RANDOM_LEN];
        fill_for_seal(&mut random)?;
        let (mut key, mut seal) = ([0; 32], [0; SEAL_RANDOM_LEN]);
        key.copy_from_slice(&random[..32]);
        seal.copy_from_slice(&random[32..]);
        random.zeroize();
        let plaintext = SecretKey::take(&mut key);
        let ciphertext = self.seal_with(&seal, header, plaintext.expose(), context)?;
        Ok(DataKey { plaintext, ciphertext })
    }

    /// Seals with random bytes that the caller drew for this one seal.
    fn seal_with(
        &self,
        random: &[u8; SEAL_RANDOM_LEN],
        header: &[u8],
        plaintext: &[u8],
        context: &[u8],
    ) -> Result<Vec<u8>> {
        let (iv, nonce) = split(random);
        let mut sealed = Vec::with_capacity(header.len() + plaintext.len() + TAG_LEN + random.len());
        sealed.extend_from_slice(header);
        sealed.extend_from_slice(plaintext);
        let data = associated_data(header, context);
        let text = (&mut sealed[header.len()..]).into();
        let tag = match self.cipher {
            Cipher::Aes256 => self.aes(&iv).encrypt_inout_detached(&nonce.into(), &data, text),
            Cipher::ChaCha20 => self.chacha(&iv).encrypt_inout_detached(&nonce.into(), &data, text),
        };
        let Ok(tag) = tag else {
            sealed.zeroize();
            return Err(Error::new(ErrorKind::Internal, "seal a plaintext"));
        };
        sealed.extend_from_slice(&tag);
        sealed.extend_from_slice(random);
        Ok(sealed)
    }

    /// Decrypts a ciphertext that [`seal`](Self::seal) made with this key, this cipher and this context.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotAuthentic`]: key, cipher, context and ciphertext do not belong together.
    pub fn open(&self, sealed: &[u8], context: &[u8]) -> Result<SecretBytes> {
        let not_authentic = || Error::new(ErrorKind::NotAuthentic, "open a ciphertext");
        let (sealed, random) = sealed.split_last_chunk::<SEAL_RANDOM_LEN>().ok_or_else(not_authentic)?;
        let (iv, nonce) = split(random);
        self.open_parts(self.cipher, sealed, &iv, &nonce, context).ok_or_else(not_authentic)
    }

    /// Decrypts what [`seal_behind`](Self::seal_behind) put behind `header`.
    pub(crate) fn open_behind(&self, header: &[u8], sealed: &[u8], context: &[u8]) -> Result<SecretBytes> {
        self.open(sealed, &associated_data(header, context))
    }

    /// Decrypts a ciphertext of any form that a KES release wrote, raw or structured.
    ///
    /// A structured ciphertext names its cipher, and that may differ from the key's. A ciphertext that does not open as
    /// structured is tried as raw, since a raw ciphertext may begin like a structured one.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotAuthentic`]: key, context and ciphertext do not belong together.
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
                // The name of the cipher is not authenticated, so it may have been changed. KES 0.24 uses the key's
                // cipher.
                .or_else(|| self.open_parts(self.cipher, sealed, iv, nonce, context)),
            Algorithm::AesDerived => {
                let mut derived = self.derive_with_aes(iv);
                let aes = Aes256Gcm::new(&derived.into());
                derived.zeroize();
                open_in(&aes, sealed, nonce, context)
            }
        }
    }

    /// Derives a key as KES did until early 2020: each half is the XOR of two AES blocks over the two parts of the iv.
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

    /// Decrypts `sealed`, a ciphertext with its tag, with `cipher` under this iv and nonce.
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
        let mut derived = self.mac.tag(iv);
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

/// Returns the associated data of a ciphertext behind `header`.
fn associated_data<'a>(header: &[u8], context: &'a [u8]) -> Cow<'a, [u8]> {
    if header.is_empty() { Cow::Borrowed(context) } else { Cow::Owned([header, context].concat()) }
}

fn split(random: &[u8; SEAL_RANDOM_LEN]) -> ([u8; IV_LEN], [u8; NONCE_LEN]) {
    (array::from_fn(|n| random[n]), array::from_fn(|n| random[IV_LEN + n]))
}
