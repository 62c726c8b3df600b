//! A real KES 0.24 on the same OpenBao. Each server reads and opens what the other wrote and sealed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kms_core::primitives::Fingerprint;
use kms_core::store::{EntryName, KeyStore};
use kms_core::{CacheConfig, Kms};
use kms_tests::bao::{Bao, WIDE_POLICY};
use kms_tests::kes::Kes;
use kms_tests::programs::{program, until};
use kms_vault::{AppRole, KvVersion, Login, SecretSource, TransitConfig, VaultConfig};
use reqwest::Method;
use serde_json::{Value, json};

use super::common::{key, list_all, record, request, ring};

#[tokio::test(flavor = "multi_thread")]
async fn kes_and_we_share_a_vault() {
    for (version, transit) in
        [(KvVersion::V1, false), (KvVersion::V1, true), (KvVersion::V2, false), (KvVersion::V2, true)]
    {
        let case = format!("{version:?}, transit {transit}");
        let bao = Bao::with_kv(version).await;
        bao.mount_transit("minio").await;
        let login = bao.approle(WIDE_POLICY, "5m").await;
        let transit = transit.then(|| TransitConfig { require: true, ..TransitConfig::new("minio") });
        let config = VaultConfig { login, transit, ..bao.config(version) };
        let kes = start(&config).await;
        let kms = ring(config, CacheConfig::default());

        kms.create(&request(), &key("ours")).await.unwrap();
        kes.ask("key/create/theirs", Value::Null).await;
        let (context, plaintext) =
            (b"bucket/object".as_slice(), b"32 bytes that are sealed by them".as_slice());
        for name in ["ours", "theirs"] {
            let ours = kms.generate(&request(), &key(name), context).await.unwrap();
            let body =
                json!({"ciphertext": STANDARD.encode(&ours.ciphertext), "context": STANDARD.encode(context)});
            let opened = kes.ask(&format!("key/decrypt/{name}"), body).await;
            assert_eq!(
                opened["plaintext"],
                STANDARD.encode(ours.plaintext.expose()),
                "{case}: KES opens, {name}"
            );

            let body = json!({"plaintext": STANDARD.encode(plaintext), "context": STANDARD.encode(context)});
            let theirs = kes.ask(&format!("key/encrypt/{name}"), body).await;
            let theirs = STANDARD.decode(theirs["ciphertext"].as_str().unwrap()).unwrap();
            let opened = kms.decrypt(&request(), &key(name), &theirs, context).await;
            assert!(opened.unwrap().expose() == plaintext, "{case}: we open, {name}");

            let described = kes.get(&format!("key/describe/{name}")).await;
            let info = kms.describe(&request(), &key(name)).await.unwrap();
            assert_eq!(described["created_by"], info.created_by, "{case}, {name}");
            let message = json!({"message": STANDARD.encode("message")});
            let hmac = kes.ask(&format!("key/hmac/{name}"), message).await;
            let ours = kms.hmac(&request(), &key(name), b"message").await.unwrap();
            assert_eq!(hmac["hmac"], STANDARD.encode(ours), "{case}, {name}");
        }
        assert_eq!(kes.get("key/list/*").await["names"], json!(["ours", "theirs"]), "{case}");
        assert_eq!(list_all(kms.as_ref(), "", 100).await, ["ours", "theirs"], "{case}");
        assert_eq!(
            kes.status(Method::PUT, "key/create/ours").await,
            400,
            "{case}: KES sees that ours is there"
        );
        let exists = kms.create(&request(), &key("theirs")).await.err().map(|error| error.kind());
        assert_eq!(exists, Some(kms_core::ErrorKind::AlreadyExists), "{case}");

        // A delete of one server takes effect for the other one.
        assert_eq!(kes.status(Method::DELETE, "key/delete/ours").await, 200, "{case}");
        assert!(kms.store().get(&EntryName::from(&key("ours"))).await.is_err(), "{case}");
        kms.delete(&request(), &key("theirs")).await.unwrap();
        until("KES's cache lets go of it", async || {
            kes.status(Method::GET, "key/describe/theirs").await == 404
        })
        .await;
    }
}

/// A rollback to KES stays possible. KES takes the path of later versions for one more name, which does no
/// harm.
#[tokio::test(flavor = "multi_thread")]
async fn slots_of_later_versions_do_not_keep_kes_from_serving() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let login = bao.approle(WIDE_POLICY, "5m").await;
    let config = VaultConfig { login, ..bao.config(KvVersion::V2) };
    let kes = start(&config).await;
    let kms = ring(config, CacheConfig::default());
    kms.create(&request(), &key("key")).await.unwrap();
    let slot = EntryName::version(&key("key"), &Fingerprint::from_bytes([7; 16]), 2);
    kms.store().create(&slot, &record()).await.unwrap();
    assert_eq!(kes.get("key/list/*").await["names"], json!([".v/", "key"]));
    let dek = kes.ask("key/generate/key", json!({})).await;
    let sealed = STANDARD.decode(dek["ciphertext"].as_str().unwrap()).unwrap();
    let opened = kms.decrypt(&request(), &key("key"), &sealed, b"").await.unwrap();
    assert_eq!(dek["plaintext"], STANDARD.encode(opened.expose()));
}

/// Starts a KES with the same Vault settings.
pub async fn start(config: &VaultConfig) -> Kes {
    let Login::AppRole(AppRole { id, secret: SecretSource::Value(secret), .. }) = &config.login else {
        unreachable!()
    };
    let mut vault = json!({
        "endpoint": config.endpoint, "engine": config.engine, "prefix": config.prefix,
        "version": if config.version == KvVersion::V1 { "v1" } else { "v2" },
        "approle": {"id": id, "secret": secret.expose()}, "status": {"ping": "1s"},
    });
    if let Some(transit) = &config.transit {
        vault["transit"] = json!({"engine": transit.engine, "key": transit.key});
    }
    Kes::start(&program("kes"), json!({"vault": vault})).await
}
