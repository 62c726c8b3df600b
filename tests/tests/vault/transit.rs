//! Records under Vault's transit engine.

use std::sync::Arc;

use kms_core::store::{KeyStore, MemoryStore, Wrapped, Wrapper};
use kms_core::{CacheConfig, ErrorKind, KeyRing, Kms, contract};
use kms_tests::bao::{Bao, LEAST_POLICY};
use kms_vault::{KvVersion, Transit, TransitConfig, VaultConfig, VaultStore};
use reqwest::Method;
use serde_json::{Value, json};

use super::common::{entry, key, kind, open, record, request, ring};

const TRANSIT_POLICY: &str = r#"
path "transit/encrypt/minio" { capabilities = ["update"] }
path "transit/decrypt/minio" { capabilities = ["update"] }"#;

#[tokio::test(flavor = "multi_thread")]
async fn vaults_key_may_be_rotated_and_entries_rewrapped() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    bao.mount_transit("minio").await;
    let login = bao.approle(&format!("{LEAST_POLICY}{TRANSIT_POLICY}"), "5m").await;
    let store = open(VaultConfig { login, ..sealed(&bao, true) });
    store.create(&entry("before"), &record()).await.unwrap();
    assert!(value(&bao, "before").await.starts_with("vault:v1:"));
    bao.ask(Method::POST, "transit/keys/minio/rotate", json!({})).await;
    store.create(&entry("after"), &record()).await.unwrap();
    assert!(value(&bao, "after").await.starts_with("vault:v2:"));
    let old = json!({"ciphertext": value(&bao, "before").await});
    let rewrapped = bao.ask(Method::POST, "transit/rewrap/minio", old).await;
    let rewrapped = json!({"data": {"before": rewrapped["data"]["ciphertext"]}});
    bao.ask(Method::PUT, "kv/data/minio/before", rewrapped).await;
    bao.ask(Method::POST, "transit/keys/minio/config", json!({"min_decryption_version": 2})).await;
    for name in ["before", "after"] {
        assert!(store.get(&entry(name)).await.unwrap() == record(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_records_are_read_and_counted_unless_refused() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    bao.mount_transit("minio").await;
    let plain = ring(bao.config(KvVersion::V2), CacheConfig::default());
    plain.create(&request(), &key("plain")).await.unwrap();
    let dek = plain.generate(&request(), &key("plain"), b"").await.unwrap();

    let store = VaultStore::connect(sealed(&bao, false)).unwrap();
    let transit = store.transit().unwrap();
    let tolerant = KeyRing::new(Wrapped::new(store, transit), CacheConfig::default());
    let opened = tolerant.decrypt(&request(), &key("plain"), &dek.ciphertext, b"").await.unwrap();
    assert!(opened.expose() == dek.plaintext.expose());
    assert_eq!(tolerant.store().wrapper().plain_records(), 1);
    tolerant.create(&request(), &key("wrapped")).await.unwrap();
    assert_eq!(tolerant.store().wrapper().plain_records(), 1);

    let strict = ring(sealed(&bao, true), CacheConfig::default());
    strict.generate(&request(), &key("wrapped"), b"").await.unwrap();
    assert_eq!(kind(strict.generate(&request(), &key("plain"), b"").await), Some(ErrorKind::Corrupt));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_or_foreign_ciphertext_is_corrupt_and_a_missing_permission_is_named() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    bao.mount_transit("minio").await;
    let store = open(sealed(&bao, true));
    for value in ["vault:v1:AAAA", "vault:v9:AAAA", "vault:v1:not base64"] {
        bao.ask(Method::PUT, "kv/data/minio/key", json!({"data": {"key": value}})).await;
        assert_eq!(kind(store.get(&entry("key")).await), Some(ErrorKind::Corrupt), "{value}");
    }
    let login = bao.approle(LEAST_POLICY, "5m").await;
    let store = open(VaultConfig { login, ..sealed(&bao, true) });
    let error = store.create(&entry("other"), &record()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.chain().to_string().contains("'update' on 'transit/encrypt/minio'"), "{error:?}");
}

/// A record in the form of KES opens under any name, so `kms check` warns. As the root key of another store,
/// transit binds the name.
#[tokio::test(flavor = "multi_thread")]
async fn under_another_store_records_are_bound_to_their_names() {
    let bao = Bao::start().await;
    bao.mount_transit("minio").await;
    let transit = Transit::bound(&sealed(&bao, false)).unwrap();
    assert!(transit.binds_name());
    let wrapped = transit.wrap(&entry("key"), &record()).await.unwrap();
    assert!(transit.unwrap(&entry("key"), &wrapped).await.unwrap() == record());
    assert_eq!(kind(transit.unwrap(&entry("other"), &wrapped).await), Some(ErrorKind::Corrupt));
    assert_eq!(
        kind(transit.unwrap(&entry("key"), b"plain").await),
        Some(ErrorKind::Corrupt),
        "never a plain one"
    );
    assert!(transit.status().await.unwrap().reachable);

    let store = VaultStore::connect(sealed(&bao, true)).unwrap();
    let kes = store.transit().unwrap();
    assert!(!kes.binds_name());
    let wrapped = kes.wrap(&entry("key"), &record()).await.unwrap();
    assert!(kes.unwrap(&entry("other"), &wrapped).await.unwrap() == record());

    contract::key_store(&Arc::new(Wrapped::new(MemoryStore::new(), transit))).await;
}

fn sealed(bao: &Bao, require: bool) -> VaultConfig {
    VaultConfig {
        transit: Some(TransitConfig { require, ..TransitConfig::new("minio") }),
        ..bao.config(KvVersion::V2)
    }
}

async fn value(bao: &Bao, name: &str) -> String {
    let answer = bao.ask(Method::GET, &format!("kv/data/minio/{name}"), Value::Null).await;
    answer["data"]["data"][name].as_str().unwrap().to_owned()
}
