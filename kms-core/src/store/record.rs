//! The record of a key in a store: today's form, and all forms that KES releases wrote.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use prost::Message;
use serde::Deserialize;
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Error, ErrorKind, Result};
use crate::primitives::{Cipher, SecretBytes, SecretKey, mac};

/// A version of a master key, with all of its stored fields.
pub struct KeyRecord {
    /// The key that seals.
    pub key: SecretKey,
    /// The cipher that the key seals with.
    pub cipher: Cipher,
    /// The key of HMAC-SHA256; `None` in records from before KES 0.24.
    pub hmac_key: Option<HmacKey>,
    /// The time of creation; `None` in records of old KES releases.
    pub created_at: Option<Timestamp>,
    /// The identity of the creator; empty in records of old KES releases.
    pub created_by: String,
}

/// The key that authenticates messages. It differs from the key that seals.
pub struct HmacKey(pub SecretKey);

impl KeyRecord {
    /// Creates a record of `key` that is made now, with a random HMAC key.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Internal`]: the system has no random bytes.
    pub fn new(key: SecretKey, cipher: Cipher, created_by: impl Into<String>) -> Result<Self> {
        Ok(Self {
            key,
            cipher,
            hmac_key: Some(HmacKey(SecretKey::random()?)),
            created_at: Some(Timestamp::now()),
            created_by: created_by.into(),
        })
    }

    /// Encodes the record as KES 0.24 does: base64 of a protobuf message.
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "base64 makes four characters of three bytes"
    )]
    pub fn encode(&self) -> SecretBytes {
        let proto = proto::KeyVersion {
            key: Some(proto::SecretKey {
                key: self.key.expose().to_vec(),
                r#type: match self.cipher {
                    Cipher::Aes256 => proto::TYPE_AES256,
                    Cipher::ChaCha20 => proto::TYPE_CHACHA20,
                },
            }),
            hmac_key: self
                .hmac_key
                .as_ref()
                .map(|key| proto::HmacKey { key: key.0.expose().to_vec(), hash: proto::HASH_SHA256 }),
            created_at: self
                .created_at
                .map(|time| proto::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }),
            created_by: self.created_by.clone(),
        };
        let bytes = Zeroizing::new(proto.encode_to_vec());
        let mut text = vec![0; bytes.len().div_ceil(3) * 4];
        let len = STANDARD.encode_slice(&*bytes, &mut text).expect("the buffer has the length of the text");
        text.truncate(len);
        SecretBytes::new(text)
    }

    /// Computes what tells the record from others of the same key bytes: 8 bytes that depend on cipher and HMAC key.
    ///
    /// They reveal nothing of the record's secrets. Time and creator do not count.
    pub fn mark(&self) -> [u8; 8] {
        let mut text = b"kms key record v1 ".to_vec();
        text.push(match self.cipher {
            Cipher::Aes256 => b'a',
            Cipher::ChaCha20 => b'c',
        });
        if let Some(HmacKey(key)) = &self.hmac_key {
            text.extend_from_slice(&mac::tag(key, b"kms hmac key v1"));
        }
        let tag = mac::tag(&self.key, &text);
        std::array::from_fn(|n| tag[n])
    }

    /// Decodes a record in any form that a KES release wrote: protobuf (0.24) or JSON (before).
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Corrupt`]: the bytes are not such a record. The message reveals nothing of them.
    pub fn decode(record: &[u8]) -> Result<Self> {
        Self::decode_any(record)
            .map_err(|why| Error::with_source(ErrorKind::Corrupt, "decode a key record", why))
    }

    /// Decodes a record as [`decode`](Self::decode) does; the error names `place`, where the record is stored.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Corrupt`]: as [`decode`](Self::decode) returns it.
    pub fn decode_at(record: &[u8], place: impl FnOnce() -> String) -> Result<Self> {
        Self::decode_any(record)
            .map_err(|why| Error::with_source(ErrorKind::Corrupt, format!("decode {}", place()), why))
    }

    fn decode_any(record: &[u8]) -> std::result::Result<Self, &'static str> {
        let text = record.trim_ascii();
        match text.first() {
            None => Err("it is empty"),
            Some(b'{') => Self::decode_json(text),
            Some(_) => Self::decode_protobuf(text),
        }
    }

    fn decode_protobuf(text: &[u8]) -> std::result::Result<Self, &'static str> {
        let bytes = decode_base64(text).ok_or("it is neither JSON nor base64 of a protobuf message")?;
        let proto =
            proto::KeyVersion::decode(bytes.as_slice()).map_err(|_| "it is no protobuf message of KES")?;
        let key = proto.key.as_ref().ok_or("it holds no key")?;
        let cipher = match key.r#type {
            proto::TYPE_AES256 => Cipher::Aes256,
            proto::TYPE_CHACHA20 => Cipher::ChaCha20,
            _ => return Err("it names an unknown type of key"),
        };
        let hmac_key = match &proto.hmac_key {
            None => None,
            Some(hmac) if hmac.hash != proto::HASH_SHA256 => return Err("it names an unknown hash"),
            Some(hmac) => {
                Some(HmacKey(SecretKey::from_slice(&hmac.key).ok_or("its HMAC key is not 32 bytes long")?))
            }
        };
        let created_at = match &proto.created_at {
            None => Timestamp::UNIX_EPOCH, // protobuf and KES read an absent message so
            Some(time) => Timestamp::new(time.seconds, time.nanos)
                .map_err(|_| "its time of creation is out of range")?,
        };
        Ok(Self {
            key: SecretKey::from_slice(&key.key).ok_or("its key is not 32 bytes long")?,
            cipher,
            hmac_key,
            created_at: Some(created_at),
            created_by: proto.created_by.clone(),
        })
    }

    fn decode_json(text: &[u8]) -> std::result::Result<Self, &'static str> {
        let json: JsonRecord<'_> =
            serde_json::from_slice(text).map_err(|_| "it is no JSON object of the form that KES wrote")?;
        let cipher = match json.algorithm.as_deref() {
            None | Some("" | "AES256" | "AES256-GCM_SHA256") => Cipher::Aes256,
            Some("ChaCha20" | "XCHACHA20-POLY1305") => Cipher::ChaCha20,
            Some(_) => return Err("it names an unknown algorithm"),
        };
        let encoded = json.bytes.as_deref().ok_or("it holds no key")?;
        let bytes = decode_base64(encoded.as_bytes()).ok_or("its key is not base64")?;
        Ok(Self {
            key: SecretKey::from_slice(&bytes).ok_or("its key is not 32 bytes long")?,
            cipher,
            hmac_key: None,
            created_at: match json.created_at.as_deref() {
                None | Some("" | "0001-01-01T00:00:00Z") => None,
                Some(time) => Some(time.parse().map_err(|_| "its time of creation is not RFC 3339")?),
            },
            created_by: json.created_by.as_deref().unwrap_or_default().to_owned(),
        })
    }
}

/// Decodes standard base64. Line ends may be anywhere, as in Go's decoder.
fn decode_base64(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    // The capacity suffices from the start: a vector that grows leaves its old bytes behind.
    let mut one_line = Zeroizing::new(Vec::with_capacity(text.len()));
    one_line.extend(text.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')));
    let mut bytes = Zeroizing::new(vec![0; one_line.len()]);
    let len = STANDARD.decode_slice(&*one_line, &mut bytes).ok()?;
    bytes.truncate(len);
    Some(bytes)
}

/// The JSON form of KES 0.6 to 0.23.
///
/// All fields but `bytes` came with 0.19.2. Some records have a `version` too, and it carries no information.
#[derive(Deserialize)]
struct JsonRecord<'a> {
    #[serde(borrow)]
    bytes: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    algorithm: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    created_at: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    created_by: Option<std::borrow::Cow<'a, str>>,
}

impl Drop for JsonRecord<'_> {
    fn drop(&mut self) {
        if let Some(std::borrow::Cow::Owned(bytes)) = &mut self.bytes {
            bytes.zeroize();
        }
    }
}

/// The protobuf messages of KES 0.24, as its stored records show them.
mod proto {
    use zeroize::Zeroize;

    pub const TYPE_AES256: u32 = 1;
    pub const TYPE_CHACHA20: u32 = 2;
    pub const HASH_SHA256: u32 = 1;

    #[derive(Clone, PartialEq, prost::Message)]
    #[prost(skip_debug)]
    pub struct KeyVersion {
        #[prost(message, optional, tag = "1")]
        pub key: Option<SecretKey>,
        #[prost(message, optional, tag = "2")]
        pub hmac_key: Option<HmacKey>,
        #[prost(message, optional, tag = "3")]
        pub created_at: Option<Timestamp>,
        #[prost(string, tag = "4")]
        pub created_by: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    #[prost(skip_debug)]
    pub struct SecretKey {
        #[prost(bytes = "vec", tag = "1")]
        pub key: Vec<u8>,
        #[prost(uint32, tag = "2")]
        pub r#type: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    #[prost(skip_debug)]
    pub struct HmacKey {
        #[prost(bytes = "vec", tag = "1")]
        pub key: Vec<u8>,
        #[prost(uint32, tag = "2")]
        pub hash: u32,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Timestamp {
        #[prost(int64, tag = "1")]
        pub seconds: i64,
        #[prost(int32, tag = "2")]
        pub nanos: i32,
    }

    impl std::fmt::Debug for KeyVersion {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("KeyVersion")
        }
    }

    impl std::fmt::Debug for SecretKey {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("SecretKey")
        }
    }

    impl std::fmt::Debug for HmacKey {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("HmacKey")
        }
    }

    impl Drop for SecretKey {
        fn drop(&mut self) {
            self.key.zeroize();
        }
    }

    impl Drop for HmacKey {
        fn drop(&mut self) {
            self.key.zeroize();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_records_of_one_key_apart_by_cipher_and_hmac_key_alone() {
        let record = |cipher, hmac: Option<u8>, created_by: &str| KeyRecord {
            key: SecretKey::take(&mut [1; 32]),
            cipher,
            hmac_key: hmac.map(|byte| HmacKey(SecretKey::take(&mut [byte; 32]))),
            created_at: None,
            created_by: created_by.to_owned(),
        };
        let mark = |cipher, hmac| record(cipher, hmac, "a").mark();
        let marks = [Cipher::Aes256, Cipher::ChaCha20]
            .into_iter()
            .flat_map(|cipher| [None, Some(1), Some(2)].map(|hmac| mark(cipher, hmac)));
        let marks: std::collections::BTreeSet<_> = marks.collect();
        assert_eq!(marks.len(), 6);
        assert_eq!(mark(Cipher::Aes256, Some(1)), record(Cipher::Aes256, Some(1), "b").mark());
        let again = KeyRecord::decode(record(Cipher::Aes256, Some(1), "a").encode().expose()).unwrap();
        assert_eq!(again.mark(), mark(Cipher::Aes256, Some(1)));
    }
}
