//! The content of Vault byte for byte: the paths, the field and the encoding of KES, and records that others
//! wrote.

use kms_core::primitives::{Cipher, Fingerprint, SecretBytes};
use kms_core::store::{EntryName, KeyRecord, KeyStore};
use kms_core::{CacheConfig, ErrorKind, Kms, ListQuery};
use kms_tests::bao::Bao;
use kms_vault::{KvVersion, TransitConfig, VaultConfig};
use reqwest::Method;
use serde_json::{Value, json};

use super::common::{entry, key, kind, list_all, open, record, request, ring};
use super::proxy::Proxy;

#[tokio::test(flavor = "multi_thread")]
async fn every_entry_that_a_kes_wrote_is_read() {
    let vectors: Value = serde_json::from_str(include_str!("../../vectors/vault.json")).unwrap();
    let bao = Bao::start().await;
    bao.mount_kv("kv", KvVersion::V1).await;
    bao.mount_kv("kv2", KvVersion::V2).await;
    bao.ask(Method::POST, "sys/mounts/transit", json!({"type": "transit"})).await;
    let cases = vectors["cases"].as_array().unwrap();
    for case in cases {
        let text = |field: &str| case[field].as_str().unwrap().to_owned();
        let version = if case["kv_version"] == "v1" { KvVersion::V1 } else { KvVersion::V2 };
        let secret = json!({text("field"): text("value")});
        let secret = if version == KvVersion::V1 { secret } else { json!({"data": secret}) };
        bao.ask(Method::PUT, text("kv_path").trim_start_matches("/v1/"), secret).await;
        let transit = case.get("transit").map(|transit| transit["key_name"].as_str().unwrap());
        if let Some(name) = transit {
            restore_transit_key(&bao, name, &case["transit"]["key_export"]).await;
        }
        let kms = ring(
            VaultConfig {
                engine: text("engine"),
                prefix: text("prefix"),
                transit: transit.map(|key| TransitConfig { require: true, ..TransitConfig::new(key) }),
                ..bao.config(version)
            },
            CacheConfig::default(),
        );
        let name = text("name");
        let stored = kms.store().get(&entry(&name)).await.unwrap_or_else(|error| panic!("{case}: {error:?}"));
        assert!(stored.expose() == text("record").as_bytes(), "{case}");
        let read = KeyRecord::decode(stored.expose()).unwrap();
        assert_eq!(hex::encode(read.key.expose()), case["expect"]["key_hex"], "{case}");
        let info = kms.describe(&request(), &key(&name)).await.unwrap();
        let algorithm = if info.cipher == Cipher::Aes256 { "AES256" } else { "ChaCha20" };
        assert_eq!(algorithm, case["expect"]["algorithm"], "{case}");
        assert_eq!(info.created_by, case["expect"]["created_by"].as_str().unwrap_or_default(), "{case}");
        assert!(list_all(kms.as_ref(), "", 1000).await.contains(&name), "{case}");
    }
    assert_eq!(cases.len(), 26);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_we_write_has_the_form_of_kes() {
    let bao = Bao::start().await;
    for (engine, version) in [("kv", KvVersion::V1), ("team/kv2", KvVersion::V2)] {
        bao.mount_kv(engine, version).await;
        for (prefix, encoded) in [("", ""), ("minio", "minio/"), ("/a b/ä%2F/", "a%20b/%C3%A4%252F/")] {
            let config =
                VaultConfig { engine: engine.to_owned(), prefix: prefix.to_owned(), ..bao.config(version) };
            let store = open(config);
            store.create(&entry("my-key"), &record()).await.unwrap();
            let data = if version == KvVersion::V1 { "" } else { "data/" };
            let answer = bao.ask(Method::GET, &format!("{engine}/{data}{encoded}my-key"), Value::Null).await;
            let secret = if version == KvVersion::V1 { &answer["data"] } else { &answer["data"]["data"] };
            assert_eq!(*secret, json!({"my-key": "record"}), "{version:?} '{prefix}'");
            if version == KvVersion::V2 {
                assert_eq!(answer["data"]["metadata"]["version"], 1);
            }
            store.delete(&entry("my-key")).await.unwrap();
            if version == KvVersion::V2 {
                let metadata = format!("{engine}/metadata/{encoded}my-key");
                assert_eq!(
                    bao.try_in("", Method::GET, &metadata, Value::Null).await.0,
                    404,
                    "metadata is left"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_of_later_versions_have_paths_that_vault_keeps() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let store = open(bao.config(KvVersion::V2));
    let slot = EntryName::version(&key("key"), &Fingerprint::from_bytes([0xab; 16]), 2);
    store.create(&slot, &record()).await.unwrap();
    let path = format!("kv/data/minio/.v/key/{}/2", "ab".repeat(16));
    let answer = bao.ask(Method::GET, &path, Value::Null).await;
    assert_eq!(answer["data"]["data"][slot.as_str()], "record");
    assert!(store.list(&ListQuery::prefix("")).await.unwrap().names.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_any_bytes_come_back() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let store = open(bao.config(KvVersion::V2));
    for (n, bytes) in
        [vec![0xff, 0, 0x80], b"kms:b64:".to_vec(), b"\"\\\n\t{}".to_vec(), Vec::new()].iter().enumerate()
    {
        let name = entry(&format!("key-{n}"));
        store.create(&name, &SecretBytes::from(bytes.as_slice())).await.unwrap();
        assert!(store.get(&name).await.unwrap().expose() == bytes, "{bytes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_entry_of_a_key_store_is_corrupt_and_its_content_is_not_told() {
    let bao = Bao::with_kv(KvVersion::V1).await;
    let store = open(bao.config(KvVersion::V1));
    for secret in [
        json!({"other": "hush"}),
        json!({"key": 5}),
        json!({"key": {"hush": 1}}),
        json!({"key": "kms:b64:hush!"}),
    ] {
        bao.ask(Method::PUT, "kv/minio/key", secret.clone()).await;
        let error = store.get(&entry("key")).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{secret}");
        assert!(!error.chain().to_string().contains("hush"), "{error:?}");
        let created = kind(store.create(&entry("key"), &record()).await);
        assert_eq!(created, Some(ErrorKind::AlreadyExists), "{secret}");
        assert_eq!(kind(store.delete(&entry("key")).await), Some(ErrorKind::Corrupt), "{secret}");
        assert_eq!(
            kind(store.get(&entry("key")).await),
            Some(ErrorKind::Corrupt),
            "{secret}: it was written over"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_deleted_in_vault_is_restored_and_its_place_is_not_free() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let store = open(bao.config(KvVersion::V2));
    store.create(&entry("key"), &record()).await.unwrap();
    bao.ask(Method::DELETE, "kv/data/minio/key", Value::Null).await;
    let error = store.get(&entry("key")).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Deleted);
    assert!(error.chain().to_string().contains("can be had back"), "{error:?}");
    assert_eq!(kind(store.create(&entry("key"), &record()).await), Some(ErrorKind::AlreadyExists));
    store.restore(&entry("key")).await.unwrap();
    assert!(store.get(&entry("key")).await.unwrap() == record());
    store.restore(&entry("key")).await.expect("it is there");
    bao.ask(Method::DELETE, "kv/data/minio/key", Value::Null).await;
    store.delete(&entry("key")).await.expect("a delete removes the rest of it");
    store.create(&entry("key"), &record()).await.expect("and then the place is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_of_the_other_version_is_found_out_before_anything_is_written() {
    let bao = Bao::start().await;
    bao.mount_kv("kv", KvVersion::V1).await;
    bao.mount_kv("kv2", KvVersion::V2).await;
    bao.ask(Method::POST, "sys/mounts/transit", json!({"type": "transit"})).await;
    for (engine, version, found) in [
        ("kv", KvVersion::V2, "version 1"),
        ("kv2", KvVersion::V1, "version 2"),
        ("transit", KvVersion::V2, "'transit' engine"),
    ] {
        let store = open(VaultConfig { engine: engine.to_owned(), ..bao.config(version) });
        let error = store.create(&entry("key"), &record()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.chain().to_string().contains(found), "{error:?}");
        assert_ne!(kind(store.get(&entry("key")).await), Some(ErrorKind::AlreadyExists));
    }
    let (status, _) = bao.try_in("", Method::GET, "kv/data/minio?list=true", Value::Null).await;
    assert_eq!(status, 404, "something was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_sends_one_write_with_cas_0() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let proxy = Proxy::start(bao.endpoint()).await;
    let store = open(VaultConfig { endpoint: proxy.endpoint(), ..bao.config(KvVersion::V2) });
    bao.ask(Method::PUT, "kv/data/minio/there", json!({"data": {"there": "another"}})).await;
    store.status().await.unwrap();
    proxy.take_seen();
    assert_eq!(kind(store.create(&entry("there"), &record()).await), Some(ErrorKind::AlreadyExists));
    let writes: Vec<_> = proxy.take_seen().into_iter().filter(|(method, _)| method != "GET").collect();
    assert_eq!(writes, [("PUT".to_owned(), "/v1/kv/data/minio/there".to_owned())]);
    assert!(store.get(&entry("there")).await.unwrap().expose() == b"another");
}

/// Restores an exported transit key in this Vault under its name.
async fn restore_transit_key(bao: &Bao, name: &str, export: &Value) {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    if bao.try_in("", Method::GET, &format!("transit/keys/{name}"), Value::Null).await.0 == 200 {
        return;
    }
    // Transit imports backups and no exports. So the test makes a backup and replaces its key by these bytes.
    let options = json!({"exportable": true, "allow_plaintext_backup": true});
    bao.ask(Method::POST, &format!("transit/keys/{name}"), options).await;
    let backup = bao.ask(Method::GET, &format!("transit/backup/{name}"), Value::Null).await;
    let backup = STANDARD.decode(backup["data"]["backup"].as_str().unwrap()).unwrap();
    let mut backup: Value = serde_json::from_slice(&backup).unwrap();
    let bytes = export["keys"]["1"].as_str().unwrap();
    backup["policy"]["keys"]["1"]["key"] = json!(bytes);
    for archived in backup["archived_keys"]["keys"].as_array_mut().unwrap() {
        if archived["key"].is_string() {
            archived["key"] = json!(bytes);
        }
    }
    let body = json!({"backup": STANDARD.encode(backup.to_string()), "force": true});
    bao.ask(Method::POST, &format!("transit/restore/{name}"), body).await;
}
