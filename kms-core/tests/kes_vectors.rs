//! Records and ciphertexts of real KES releases.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_core::primitives::{Cipher, SealingKey, SecretBytes, SecretKey};
use kms_core::store::{EntryName, KeyRecord, KeyStore, MemoryStore};
use kms_core::{CacheConfig, ErrorKind, Identity, ImportedKey, KeyName, KeyRing};
use serde_json::Value;

#[test]
fn records_of_every_release_are_read() {
    let vectors = vectors(include_str!("vectors/records.json"));
    let cases = vectors["records"].as_array().unwrap();
    for case in cases {
        let record = KeyRecord::decode(case["record"].as_str().unwrap().as_bytes());
        let record = record.unwrap_or_else(|error| panic!("{case}: {error:?}"));
        let expect = &case["expect"];
        assert_eq!(record.cipher.name(), expect["algorithm"], "{case}");
        assert_eq!(hex::encode(record.key.expose()), expect["key_hex"], "{case}");
        let hmac = record.hmac_key.as_ref().map(|key| hex::encode(key.0.expose()));
        assert_eq!(hmac.as_deref(), expect["hmac_key_hex"].as_str(), "{case}");
        assert_eq!(
            record.created_at.map(|time| time.to_string()).as_deref(),
            expect["created_at"].as_str(),
            "{case}"
        );
        assert_eq!(record.created_by, expect["created_by"].as_str().unwrap_or_default(), "{case}");
    }
    assert_eq!(cases.len(), 47);
}

#[test]
fn a_record_of_kes_0_24_is_written_as_it_was_read() {
    let vectors = vectors(include_str!("vectors/records.json"));
    let mut written = 0;
    for case in vectors["records"].as_array().unwrap() {
        if !case["source"].as_str().unwrap().starts_with("KES 0.24.0") {
            continue;
        }
        let text = case["record"].as_str().unwrap();
        let record = KeyRecord::decode(text.as_bytes()).unwrap();
        assert!(record.encode().expose() == text.as_bytes(), "{case}");
        written += 1;
    }
    assert!(written >= 5, "only {written} records of KES 0.24");
}

#[test]
fn odd_records_are_read_or_refused_but_never_guessed() {
    let vectors = vectors(include_str!("vectors/records.json"));
    for case in vectors["odd"].as_array().unwrap() {
        let text = case["record"].as_str().unwrap();
        let bytes = match text.strip_prefix("base64 of the stored bytes: ") {
            Some(encoded) => STANDARD.decode(encoded).unwrap(),
            None => text.as_bytes().to_vec(),
        };
        match (KeyRecord::decode(&bytes), case["key_hex"].as_str()) {
            (Ok(record), Some(key)) => assert_eq!(hex::encode(record.key.expose()), key, "{case}"),
            (Err(error), None) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{case}"),
            (Ok(record), None) => {
                // The record is valid, although KES 0.24 crashes on a record without HMAC key.
                assert_eq!(case["case"], "protobuf, HMAC key absent");
                assert!(record.hmac_key.is_none());
            }
            (Err(error), Some(_)) => panic!("{case}: {error:?}"),
        }
    }
}

#[test]
fn ciphertexts_of_every_release_open() {
    let vectors = vectors(include_str!("vectors/ciphertexts.json"));
    let mut opened = 0;
    for group in ["ciphertexts", "ambiguous", "tolerated"] {
        for case in vectors[group].as_array().unwrap() {
            let plaintext = open(case).unwrap_or_else(|error| panic!("{case}: {error:?}"));
            assert!(plaintext.expose() == bytes(&case["plaintext_b64"]), "{case}");
            opened += 1;
        }
    }
    assert_eq!(opened, 286 + 1 + 9);
}

#[test]
fn changed_ciphertexts_are_refused() {
    let vectors = vectors(include_str!("vectors/ciphertexts.json"));
    let mut refused = 0;
    for case in vectors["negative"].as_array().unwrap() {
        match open(case) {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NotAuthentic, "{case}");
                refused += 1;
            }
            // KES 0.24 uses the key's cipher if the ciphertext names another.
            Ok(_) => assert_eq!(case["authentic_by_its_own_header"], true, "{case}"),
        }
    }
    assert!(refused >= 110, "only {refused} were refused");
}

#[tokio::test]
async fn ciphertexts_of_every_release_open_under_rotated_keys() {
    let vectors = vectors(include_str!("vectors/ciphertexts.json"));
    let ring = KeyRing::new(MemoryStore::new(), CacheConfig::default().with_any(std::time::Duration::ZERO));
    let client = ring.client(Identity::of_program("the test"));
    let (mut names, mut opened) = (HashMap::new(), 0);
    for group in ["ciphertexts", "ambiguous", "tolerated"] {
        for case in vectors[group].as_array().unwrap() {
            let (key, cipher) = key_of(case);
            let number = names.len();
            let is_new = !names.contains_key(&(key.clone(), cipher));
            let name = names.entry((key.clone(), cipher));
            let name = name.or_insert_with(|| KeyName::new(format!("key-{number}")).unwrap()).clone();
            if is_new {
                let key = SecretKey::from_slice(&key).unwrap();
                client.import(&name, ImportedKey::new(key, cipher)).await.unwrap();
                for _ in 0..2 {
                    client.rotate(&name).await.unwrap();
                }
                assert!(
                    client.encrypt(&name, b"", b"").await.unwrap().starts_with(b"kms"),
                    "a later version seals"
                );
            }
            let context = bytes(&case["context_b64"]);
            let plaintext = client.decrypt(&name, &bytes(&case["ciphertext_b64"]), &context).await;
            let plaintext = plaintext.unwrap_or_else(|error| panic!("{case}: {error:?}"));
            assert!(plaintext.expose() == bytes(&case["plaintext_b64"]), "{case}");
            opened += 1;
        }
    }
    assert_eq!(opened, 286 + 1 + 9);
}

#[test]
fn ciphertexts_of_minio_s_built_in_key_open() {
    let vectors = vectors(include_str!("vectors/minio-static.json"));
    let key = |case: &Value| {
        let text = case["secret_key"].as_str().or(vectors["secret_key"].as_str()).unwrap();
        STANDARD.decode(text.split_once(':').unwrap().1).unwrap()
    };
    let cases = vectors["ciphertexts"].as_array().unwrap();
    for case in cases {
        let key = SealingKey::new(SecretKey::from_slice(&key(case)).unwrap(), Cipher::Aes256);
        let opened = key.open_any_form(&bytes(&case["ciphertext_b64"]), &bytes(&case["context_b64"]));
        let opened = opened.unwrap_or_else(|error| panic!("{case}: {error:?}"));
        assert!(opened.expose() == bytes(&case["plaintext_b64"]), "{case}");
    }
    assert!(!cases.is_empty());
}

#[tokio::test]
async fn hmacs_are_those_of_kes() {
    let vectors = vectors(include_str!("vectors/hmac.json"));
    let mut stored: HashMap<String, KeyName> = HashMap::new();
    let store = Arc::new(MemoryStore::new());
    let kms = KeyRing::new(Arc::clone(&store), CacheConfig::default()).client(caller());
    for case in vectors["cases"].as_array().unwrap() {
        let record = case["record"].as_str().unwrap();
        let fresh = KeyName::new(format!("key-{}", stored.len())).unwrap();
        if !stored.contains_key(record) {
            store.create(&EntryName::from(&fresh), &SecretBytes::from(record.as_bytes())).await.unwrap();
            stored.insert(record.to_owned(), fresh);
        }
        let outcome = kms.hmac(&stored[record], &bytes(&case["message_b64"])).await;
        match case["hmac_b64"].as_str() {
            Some(hmac) => assert_eq!(STANDARD.encode(outcome.unwrap()), hmac, "{case}"),
            None => assert_eq!(outcome.unwrap_err().kind(), ErrorKind::NoHmacKey, "{case}"),
        }
    }
}

#[tokio::test]
async fn the_cipher_of_the_key_and_not_of_the_cpu_seals() {
    let kms = KeyRing::new(MemoryStore::new(), CacheConfig::default()).client(caller());
    for cipher in [Cipher::Aes256, Cipher::ChaCha20] {
        let name = KeyName::new(cipher.name()).unwrap();
        let key = ImportedKey::new(SecretKey::take(&mut [9; 32]), cipher);
        kms.import(&name, key).await.unwrap();
        let dek = kms.generate(&name, b"c").await.unwrap();
        let other = if cipher == Cipher::Aes256 { Cipher::ChaCha20 } else { Cipher::Aes256 };
        let open =
            |cipher| SealingKey::new(SecretKey::take(&mut [9; 32]), cipher).open(&dek.ciphertext, b"c");
        assert!(open(cipher).unwrap().expose() == dek.plaintext.expose());
        assert_eq!(open(other).err().unwrap().kind(), ErrorKind::NotAuthentic);
    }
}

fn key_of(case: &Value) -> (Vec<u8>, Cipher) {
    let cipher = match case["algorithm"].as_str().unwrap() {
        "AES256" => Cipher::Aes256,
        "ChaCha20" => Cipher::ChaCha20,
        other => panic!("{other}"),
    };
    (hex::decode(case["key_hex"].as_str().unwrap()).unwrap(), cipher)
}

fn open(case: &Value) -> kms_core::Result<SecretBytes> {
    let (key, cipher) = key_of(case);
    SealingKey::new(SecretKey::from_slice(&key).unwrap(), cipher)
        .open_any_form(&bytes(&case["ciphertext_b64"]), &bytes(&case["context_b64"]))
}

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap_or_default()).unwrap()
}

fn vectors(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn caller() -> Identity {
    Identity::of_program("test")
}
