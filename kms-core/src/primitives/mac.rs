//! HMAC-SHA256 under a key of 32 bytes.

use hmac::block_api::HmacCore;
use hmac::digest::Output;
use hmac::digest::block_api::{Buffer, FixedOutputCore, UpdateCore};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::lock::lock;
use super::secret::SecretKey;

/// HMAC-SHA256 in its state after the key. It is wiped when dropped, and stays at one address.
///
/// [`hmac::Hmac`] is the same with room for a block of a message, which would take half of its memory.
pub(crate) struct KeyedMac(Box<HmacCore<Sha256>>);

impl KeyedMac {
    /// Takes in `key`, padded to the block of the hash as in RFC 2104.
    pub fn new(key: &SecretKey) -> Self {
        let core = Box::new(keyed(key));
        lock(core.as_ref());
        Self(core)
    }

    /// Computes the tag of a message.
    pub fn tag(&self, message: &[u8]) -> Output<Sha256> {
        finish(HmacCore::clone(&self.0), message)
    }
}

/// Computes the tag of one message, for a key that is seldom used.
pub(crate) fn tag(key: &SecretKey, message: &[u8]) -> Output<Sha256> {
    finish(keyed(key), message)
}

fn keyed(key: &SecretKey) -> HmacCore<Sha256> {
    let mut block = Zeroizing::new([0; 64]);
    block[..32].copy_from_slice(key.expose());
    <HmacCore<Sha256> as hmac::KeyInit>::new((&*block).into())
}

fn finish(mut core: HmacCore<Sha256>, message: &[u8]) -> Output<Sha256> {
    let mut buffer = Buffer::<HmacCore<Sha256>>::default();
    buffer.digest_blocks(message, |blocks| core.update_blocks(blocks));
    let mut tag = Output::<Sha256>::default();
    core.finalize_fixed_core(&mut buffer, &mut tag);
    tag
}

#[cfg(test)]
#[cfg(not(feature = "model"))]
mod tests {
    use hmac::{Hmac, Mac};

    use super::*;

    #[test]
    fn tags_are_those_of_hmac_for_messages_of_all_lengths() {
        let key = SecretKey::take(&mut [7; 32]);
        let mac = KeyedMac::new(&key);
        for len in 0..300 {
            let message = vec![u8::try_from(len % 251).unwrap(); len];
            let mut hmac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key.expose()).unwrap();
            hmac.update(&message);
            let expected = hmac.finalize().into_bytes();
            assert_eq!((mac.tag(&message), tag(&key, &message)), (expected, expected), "{len}");
        }
    }
}
