//! The form of an entry: a secret with one field, whose name is the entry's and whose value is the record as text.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kms_core::primitives::SecretBytes;
use kms_core::store::EntryName;
use serde::Serialize;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::config::KvVersion;
use crate::http::{json_body, secret_text};

/// The prefix of a text that is base64 of a record.
///
/// It stands before records that are no text, and before texts that begin with it themselves.
const BINARY: &str = "kms:b64:";

/// The fields of a secret. No value is copied.
pub type Fields<'a> = HashMap<Cow<'a, str>, &'a RawValue>;

#[derive(Serialize)]
struct VersionedWrite<'a> {
    data: BTreeMap<&'a str, &'a str>,
    options: CheckAndSet,
}

#[derive(Serialize)]
struct CheckAndSet {
    cas: u32,
}

/// Creates the body that writes a new entry.
pub fn body(version: KvVersion, name: &EntryName, record: &SecretBytes) -> kms_core::Result<Bytes> {
    let text = encode(record);
    let fields = BTreeMap::from([(name.as_str(), text.as_str())]);
    let operation = "write a record as JSON";
    match version {
        KvVersion::V1 => json_body(operation, &fields),
        KvVersion::V2 => {
            json_body(operation, &VersionedWrite { data: fields, options: CheckAndSet { cas: 0 } })
        }
    }
}

/// Reads the record from the one field of an entry. The error quotes no value.
pub fn record_in(name: &EntryName, fields: &Fields<'_>) -> Result<SecretBytes, String> {
    let value = fields
        .get(name.as_str())
        .ok_or_else(|| format!("the secret has no field '{name}', as one of a key store has"))?;
    let text = secret_text(value).ok_or_else(|| format!("the field '{name}' is no text"))?;
    decode(&text).ok_or_else(|| format!("the field '{name}' is no base64"))
}

/// Encodes a record as text. The records of KES and of transit are texts, and stay as they are.
fn encode(record: &SecretBytes) -> Zeroizing<String> {
    match std::str::from_utf8(record.expose()) {
        Ok(text) if !text.starts_with(BINARY) => Zeroizing::new(text.to_owned()),
        _ => {
            let mut text = Zeroizing::new(String::with_capacity(BINARY.len() + record.len().div_ceil(3) * 4));
            text.push_str(BINARY);
            STANDARD.encode_string(record.expose(), &mut text);
            text
        }
    }
}

fn decode(text: &str) -> Option<SecretBytes> {
    match text.strip_prefix(BINARY) {
        None => Some(SecretBytes::from(text.as_bytes())),
        Some(encoded) => STANDARD.decode(encoded).ok().map(SecretBytes::new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_comes_back() {
        for bytes in
            [b"".as_slice(), b"CiQKIB", b"{\"bytes\":\"\"}", b"kms:b64:", b"kms:b64:AA==", &[0xff, 0, 1]]
        {
            let text = encode(&SecretBytes::from(bytes)).to_string();
            assert!(decode(&text).unwrap().expose() == bytes, "{text}");
        }
        assert_eq!(
            *encode(&SecretBytes::from(b"CiQKIB".as_slice())),
            "CiQKIB",
            "texts are stored as they are"
        );
    }
}
