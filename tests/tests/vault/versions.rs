//! Keys with several versions on one Vault, which several servers use.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kms_core::store::{EntryName, KeyStore};
use kms_core::{CacheConfig, ErrorKind, Kms};
use kms_tests::bao::{Bao, WIDE_POLICY};
use kms_vault::{KvVersion, TransitConfig, VaultConfig};
use serde_json::json;

use super::common::{Ring, key, kind, record, request, ring};

/// A new version seals after this time.
const ANY: Duration = Duration::from_millis(400);
const ROTATIONS: u32 = 8;

fn version_of(ciphertext: &[u8]) -> u32 {
    let named = ciphertext.strip_prefix(b"kms\x01\x01");
    named.map_or(1, |rest| u32::from_be_bytes(rest[16..20].try_into().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn under_rotation_three_servers_fail_no_request_and_read_all_versions() {
    for (kv, transit) in [(KvVersion::V1, false), (KvVersion::V2, false), (KvVersion::V2, true)] {
        let bao = Bao::with_kv(kv).await;
        bao.mount_transit("minio").await;
        let transit = transit.then(|| TransitConfig { require: true, ..TransitConfig::new("minio") });
        let (write_deadline, settle) = (Duration::from_millis(100), Duration::from_millis(150));
        let config = || VaultConfig { transit: transit.clone(), write_deadline, settle, ..bao.config(kv) };
        let servers: Vec<Ring> =
            (0..3).map(|_| ring(config(), CacheConfig::default().with_any(ANY))).collect();
        servers[0].create(&request(), &key("key")).await.unwrap();
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients: Vec<_> = (0..6)
            .map(|n| {
                let (seals, opens) = (Arc::clone(&servers[n % 3]), Arc::clone(&servers[(n + 1 + n / 3) % 3]));
                let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
                tokio::spawn(async move {
                    let mut kept = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let dek = seals.generate(&request(), &key("key"), b"c").await.expect("generate");
                        let opened = opens.decrypt(&request(), &key("key"), &dek.ciphertext, b"c").await;
                        assert!(opened.expect("decrypt").expose() == dek.plaintext.expose());
                        if count.fetch_add(1, Ordering::Relaxed).is_multiple_of(50) {
                            kept.push(dek);
                        }
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    kept
                })
            })
            .collect();
        for n in 2..=ROTATIONS {
            let server = &servers[n as usize % 3];
            assert_eq!(server.rotate(&request(), &key("key"), None).await.unwrap().version, Some(n));
            tokio::time::sleep(ANY * 2).await;
        }
        stop.store(true, Ordering::Relaxed);
        let mut seen = BTreeSet::new();
        let fresh = ring(config(), CacheConfig::default());
        for client in clients {
            for dek in client.await.unwrap() {
                seen.insert(version_of(&dek.ciphertext));
                let opened = fresh.decrypt(&request(), &key("key"), &dek.ciphertext, b"c").await.unwrap();
                assert!(opened.expose() == dek.plaintext.expose(), "{kv:?}");
            }
        }
        assert!(seen.len() >= ROTATIONS as usize - 1, "versions {seen:?} sealed");
        let all = fresh.versions(&request(), &key("key")).await.unwrap();
        assert_eq!(all.len(), ROTATIONS as usize);
        fresh.delete(&request(), &key("key")).await.unwrap();
        let entry = EntryName::version(&key("key"), &all[0].fingerprint.unwrap(), 2);
        assert_eq!(
            kind(fresh.store().get(&entry).await),
            Some(ErrorKind::NotFound),
            "{kv:?}: no version is left"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kes_goes_on_with_the_first_version_of_a_rotated_key() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let login = bao.approle(WIDE_POLICY, "5m").await;
    let config = VaultConfig { login, ..bao.config(KvVersion::V2) };
    let kes = super::kes::start(&config).await;
    let ours = ring(config, CacheConfig::default().with_any(Duration::ZERO));
    ours.create(&request(), &key("key")).await.unwrap();
    let old = ours.encrypt(&request(), &key("key"), b"text", b"").await.unwrap();
    let mac = ours.hmac(&request(), &key("key"), b"message").await.unwrap();
    ours.rotate(&request(), &key("key"), None).await.unwrap();
    let new = ours.encrypt(&request(), &key("key"), b"text", b"").await.unwrap();
    assert_eq!((version_of(&old), version_of(&new)), (1, 2));

    let opened = kes.ask("key/decrypt/key", json!({"ciphertext": STANDARD.encode(&old)})).await;
    assert_eq!(opened["plaintext"], STANDARD.encode("text"));
    let sealed = kes.ask("key/encrypt/key", json!({"plaintext": STANDARD.encode("theirs")})).await;
    let sealed = STANDARD.decode(sealed["ciphertext"].as_str().unwrap()).unwrap();
    assert_eq!(ours.decrypt(&request(), &key("key"), &sealed, b"").await.unwrap().expose(), b"theirs");
    let hmac = kes.ask("key/hmac/key", json!({"message": STANDARD.encode("message")})).await;
    assert_eq!(hmac["hmac"], STANDARD.encode(mac));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_denies_the_path_of_versions_serves_the_first() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let policy = r#"
        path "kv/data/minio/*" { capabilities = ["create", "read"] }
        path "kv/metadata/minio/*" { capabilities = ["list", "delete"] }
        path "kv/data/minio/.v/*" { capabilities = ["deny"] }
    "#;
    let login = bao.approle(policy, "5m").await;
    let config = VaultConfig { login, ..bao.config(KvVersion::V2) };
    let ours = ring(config, CacheConfig::default());
    ours.create(&request(), &key("key")).await.unwrap();
    let dek = ours.generate(&request(), &key("key"), b"").await.unwrap();
    let opened = ours.decrypt(&request(), &key("key"), &dek.ciphertext, b"").await.unwrap();
    assert!(opened.expose() == dek.plaintext.expose());
    assert_eq!(kind(ours.rotate(&request(), &key("key"), None).await), Some(ErrorKind::Unsupported));
    ours.delete(&request(), &key("key")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_another_token_made_is_no_version() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let ours = ring(bao.config(KvVersion::V2), CacheConfig::default().with_any(Duration::ZERO));
    ours.create(&request(), &key("key")).await.unwrap();
    let first = ours.describe(&request(), &key("key")).await.unwrap().fingerprint.unwrap();
    let planted = EntryName::version(&key("key"), &first, 2);
    super::common::open(bao.config(KvVersion::V2)).create(&planted, &record()).await.unwrap();
    let sealed = ours.encrypt(&request(), &key("key"), b"text", b"").await.unwrap();
    assert_eq!(version_of(&sealed), 1);
    let refused = ours.rotate(&request(), &key("key"), None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert!(refused.chain().to_string().contains(&ours.store().place(&planted)), "{}", refused.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn kes_serves_a_key_that_is_only_marked_as_deleted_and_makes_none_in_its_place() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let login = bao.approle(WIDE_POLICY, "5m").await;
    let config = VaultConfig { login, ..bao.config(KvVersion::V2) };
    let kes = super::kes::start(&config).await;
    let uncached = CacheConfig::default().with_any(Duration::ZERO);
    let store = kms_vault::open(config).unwrap();
    let ours = kms_core::KeyRing::keeping_deleted(store, uncached, Duration::from_secs(3600));
    ours.create(&request(), &key("key")).await.unwrap();
    let old = ours.encrypt(&request(), &key("key"), b"text", b"").await.unwrap();
    ours.delete(&request(), &key("key")).await.unwrap();
    assert_eq!(kind(ours.decrypt(&request(), &key("key"), &old, b"").await), Some(ErrorKind::Deleted));
    let opened = kes.ask("key/decrypt/key", json!({"ciphertext": STANDARD.encode(&old)})).await;
    assert_eq!(opened["plaintext"], STANDARD.encode("text"));
    assert_eq!(
        kes.status(reqwest::Method::PUT, "key/create/key").await,
        400,
        "the name is taken for KES, too"
    );
    ours.restore(&request(), &key("key"), false).await.unwrap();
    assert_eq!(ours.decrypt(&request(), &key("key"), &old, b"").await.unwrap().expose(), b"text");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_token_plants_under_the_names_of_marks_has_no_effect_and_makes_room() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let uncached = CacheConfig::default().with_any(Duration::ZERO);
    let store = kms_vault::open(bao.config(KvVersion::V2)).unwrap();
    let ours = kms_core::KeyRing::keeping_deleted(store, uncached, Duration::from_secs(3600));
    ours.create(&request(), &key("key")).await.unwrap();
    let dek = ours.generate(&request(), &key("key"), b"").await.unwrap();
    let fingerprint = ours.describe(&request(), &key("key")).await.unwrap().fingerprint.unwrap();
    let marks =
        [EntryName::deleted(&key("key"), &fingerprint), EntryName::under_way(&key("key"), &fingerprint)];
    // Of another shape, longer than any answer that is read, deleted in Vault, and with the form of a mark.
    let huge = "x".repeat((1 << 20) - 300);
    for planted in [json!({"other": 1}), json!({"a": huge}), json!({"deleted": "x"}), json!({})] {
        for mark in &marks {
            let path = format!("kv/data/minio/{mark}");
            bao.ask(reqwest::Method::POST, &path, json!({"data": planted})).await;
            if planted.get("deleted").is_some() {
                bao.ask(reqwest::Method::DELETE, &path, json!(null)).await;
            }
            let told = ours.store().get(mark).await.err().unwrap().chain().to_string();
            assert_eq!(told.contains("is longer than"), planted.get("a").is_some(), "{told}");
        }
        let opened = ours.decrypt(&request(), &key("key"), &dek.ciphertext, b"").await.unwrap();
        assert!(opened.expose() == dek.plaintext.expose());
        ours.delete(&request(), &key("key")).await.unwrap();
        assert_eq!(kind(ours.generate(&request(), &key("key"), b"").await), Some(ErrorKind::Deleted));
        ours.restore(&request(), &key("key"), false).await.unwrap();
        let opened = ours.decrypt(&request(), &key("key"), &dek.ciphertext, b"").await.unwrap();
        assert!(opened.expose() == dek.plaintext.expose());
    }
}
