//! Ciphertexts of older KES releases: this library reads them and never writes them.
//!
//! They are structured, and they name the cipher that sealed them. The form is MessagePack (KES 0.19.2 to 0.23) or JSON
//! (2019 to 0.19.1, and MinIO's built-in key until 2024-05). Some hold a key id. It is ignored, since the
//! authentication tells the same.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::cipher::{Cipher, IV_LEN, NONCE_LEN};

/// The first byte of the MessagePack form: an array of five.
const MESSAGE_PACK: u8 = 0x95;
/// The first byte of the JSON form.
const JSON: u8 = b'{';

/// The parts of a structured ciphertext.
pub struct Parts {
    /// The algorithm that the ciphertext names.
    pub algorithm: Algorithm,
    /// The iv from which the key of this seal is derived.
    pub iv: [u8; IV_LEN],
    /// The nonce of the AEAD.
    pub nonce: [u8; NONCE_LEN],
    /// The ciphertext with its tag.
    pub sealed: Vec<u8>,
}

/// The algorithm that sealed a structured ciphertext.
#[derive(Clone, Copy)]
pub enum Algorithm {
    /// Today's algorithm, with this cipher.
    Current(Cipher),
    /// AES-256-GCM under a key derived with AES instead of HMAC (2019 to early 2020).
    AesDerived,
}

/// Parses a structured ciphertext; returns `None` if `ciphertext` is not one.
///
/// The first byte alone does not decide: one raw ciphertext in 128 begins like a structured one.
pub fn parse(ciphertext: &[u8]) -> Option<Parts> {
    match *ciphertext.first()? {
        MESSAGE_PACK => parse_message_pack(ciphertext),
        JSON => parse_json(ciphertext),
        _ => None,
    }
}

fn parse_message_pack(mut rest: &[u8]) -> Option<Parts> {
    if rmp::decode::read_array_len(&mut rest).ok()? != 5 {
        return None;
    }
    let algorithm = match read_str(&mut rest)? {
        b"AES256" | b"AES256-GCM_SHA256" => Algorithm::Current(Cipher::Aes256),
        b"ChaCha20" | b"XCHACHA20-POLY1305" => Algorithm::Current(Cipher::ChaCha20),
        _ => return None,
    };
    let _id = read_str(&mut rest)?;
    let iv = read_bin(&mut rest)?.try_into().ok()?;
    let nonce = read_bin(&mut rest)?.try_into().ok()?;
    let sealed = read_bin(&mut rest)?.to_vec();
    rest.is_empty().then_some(Parts { algorithm, iv, nonce, sealed })
}

fn read_str<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = rmp::decode::read_str_len(rest).ok()?;
    take(rest, len)
}

fn read_bin<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = rmp::decode::read_bin_len(rest).ok()?;
    take(rest, len)
}

fn take<'a>(rest: &mut &'a [u8], len: u32) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    *rest = left;
    Some(taken)
}

/// Parses the JSON form.
///
/// Member names match in any case, and the last of two equal ones counts, as in the readers of that time.
fn parse_json(ciphertext: &[u8]) -> Option<Parts> {
    let members: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(ciphertext).ok()?;
    let text = |name: &str| {
        let (_, value) = members.iter().find(|(member, _)| member.eq_ignore_ascii_case(name))?;
        value.as_str()
    };
    let bytes = |name: &str| STANDARD.decode(text(name)?).ok();
    let algorithm = match text("aead")? {
        "AES-256-GCM-HMAC-SHA-256" => Algorithm::Current(Cipher::Aes256),
        "ChaCha20Poly1305" => Algorithm::Current(Cipher::ChaCha20),
        "AES-256-GCM" => Algorithm::AesDerived,
        _ => return None,
    };
    Some(Parts {
        algorithm,
        iv: bytes("iv")?.try_into().ok()?,
        nonce: bytes("nonce")?.try_into().ok()?,
        sealed: bytes("bytes")?,
    })
}
