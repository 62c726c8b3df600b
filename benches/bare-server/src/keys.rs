//! Keys in memory, and sealing: a key for each seal is derived by HMAC-SHA256 and used by AES-256-GCM, both of aws-lc-rs.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use zeroize::Zeroizing;

/// Keys by their names: `my-key`, and 999 others.
pub struct Keys {
    pub all: ArcSwap<HashMap<String, Arc<hmac::Key>>>,
}

impl Keys {
    pub fn new() -> Self {
        let mut all = HashMap::new();
        for number in 0..1000_u32 {
            let mut bytes = [7; 32];
            bytes[..4].copy_from_slice(&number.to_le_bytes());
            let name = if number == 0 { "my-key".to_owned() } else { format!("my-key-{number}") };
            all.insert(name, Arc::new(hmac::Key::new(HMAC_SHA256, &bytes)));
        }
        Self { all: ArcSwap::from_pointee(all) }
    }
}

/// Returns iv (16 bytes), nonce (12), the sealed data key (32) and its tag (16).
pub fn seal(
    key: &hmac::Key,
    context: &[u8],
    data_key: &[u8; 32],
    iv: &[u8; 16],
    nonce: &[u8; 12],
) -> [u8; 76] {
    let mut out = [0; 76];
    out[..16].copy_from_slice(iv);
    out[16..28].copy_from_slice(nonce);
    out[28..60].copy_from_slice(data_key);
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let tag =
        derived(key, iv).seal_in_place_separate_tag(nonce, Aad::from(context), &mut out[28..60]).unwrap();
    out[60..].copy_from_slice(tag.as_ref());
    out
}

/// Returns the data key, or nothing if the bytes are not what [`seal`] made under this key and context.
pub fn open(key: &hmac::Key, context: &[u8], sealed: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let sealed: &[u8; 76] = sealed.try_into().ok()?;
    let nonce = Nonce::assume_unique_for_key(sealed[16..28].try_into().unwrap());
    let mut bytes = Zeroizing::new([0; 48]);
    bytes.copy_from_slice(&sealed[28..]);
    derived(key, &sealed[..16]).open_in_place(nonce, Aad::from(context), &mut bytes[..]).ok()?;
    let mut data_key = Zeroizing::new([0; 32]);
    data_key.copy_from_slice(&bytes[..32]);
    Some(data_key)
}

fn derived(key: &hmac::Key, iv: &[u8]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, hmac::sign(key, iv).as_ref()).unwrap())
}
