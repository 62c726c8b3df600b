//! A CMK as the root key of another store.

use std::sync::Arc;
use std::time::Duration;

use kms_aws::{AwsWrapper, WrapperConfig};
use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, MemoryStore, Wrapped, Wrapper};
use kms_core::{CacheConfig, ErrorKind, KeyRing, Kms, contract};
use kms_fs::{FsConfig, OpenMode, SledStore};
use kms_tests::localstack::{Aws, Fault};
use kms_tests::programs::until;
use serde_json::json;

use super::keys::{key, kind, request};

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_under_aws_keeps_the_contract() {
    let aws = Aws::start().await;
    let cmk = new_cmk(&aws).await;
    for of_ring in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let store = Wrapped::new(sled(directory.path()), wrapper(&aws, &cmk).await);
        if of_ring {
            let uncached = CacheConfig::default().with_any(Duration::ZERO);
            let ring = Arc::new(KeyRing::keeping_deleted(store, uncached, Duration::from_secs(3600)));
            contract::kms(Arc::clone(&ring) as _).await;
            contract::deletions(Arc::clone(&ring) as _, ring).await;
        } else {
            contract::key_store(&Arc::new(store)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_opens_under_its_name_and_its_cmk_and_unchanged_or_not_at_all() {
    let aws = Aws::start().await;
    let (cmk, other) = (new_cmk(&aws).await, new_cmk(&aws).await);
    let root = wrapper(&aws, &cmk).await;
    assert!(root.binds_name());
    let record = SecretBytes::from([7; 300].as_slice());
    let wrapped = root.wrap(&entry("key"), &record).await.unwrap();
    assert!(root.unwrap(&entry("key"), &wrapped).await.unwrap() == record);
    assert!(wrapped.is_ascii(), "it has to fit a K/V engine, which keeps text");
    let alias = json!({"AliasName": "alias/root", "TargetKeyId": cmk});
    aws.ask("CreateAlias", alias).await;
    let by_alias = wrapper(&aws, "alias/root").await;
    assert!(by_alias.unwrap(&entry("key"), &wrapped).await.unwrap() == record);

    assert_eq!(kind(root.unwrap(&entry("other"), &wrapped).await), Some(ErrorKind::Corrupt));
    let error = wrapper(&aws, &other).await.unwrap(&entry("key"), &wrapped).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.chain().to_string().contains("under another CMK than"), "{}", error.chain());
    for place in (0..wrapped.len()).step_by(3) {
        let mut changed = wrapped.clone();
        changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
        let outcome = root.unwrap(&entry("key"), &changed).await;
        // The last characters of base64 may have bits without a meaning. A change of these is refused as
        // well.
        assert_eq!(kind(outcome), Some(ErrorKind::Corrupt), "byte {place}");
    }
    // The records are not wrapped, or wrapped in another form.
    let foreign = aws.ask("Encrypt", json!({"KeyId": cmk, "Plaintext": "eyJieXRlcyI6IiJ9"})).await;
    let foreign = foreign["CiphertextBlob"].as_str().unwrap();
    for foreign in ["", r#"{"bytes":""}"#, foreign] {
        let error = root.unwrap(&entry("key"), foreign.as_bytes()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.chain().to_string().contains("KES of 2020"), "{}", error.chain());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cmk_that_cannot_be_used_is_no_missing_key() {
    let aws = Aws::start().await;
    let cmk = new_cmk(&aws).await;
    let ring = |wrapper| {
        let cache = CacheConfig::default().with_any(Duration::from_secs(1));
        KeyRing::new(Wrapped::new(MemoryStore::new(), wrapper), cache)
    };
    let kms = ring(wrapper(&aws, &cmk).await);
    kms.create(&request(), &key("a")).await.unwrap();
    aws.ask("DisableKey", json!({"KeyId": cmk})).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(kind(kms.generate(&request(), &key("a"), b"").await), Some(ErrorKind::Disabled));
    assert_eq!(kind(kms.create(&request(), &key("b")).await), Some(ErrorKind::Disabled));
    aws.ask("EnableKey", json!({"KeyId": cmk})).await;
    kms.generate(&request(), &key("a"), b"").await.unwrap();

    let nowhere = ring(wrapper(&aws, "alias/nowhere").await);
    let error = nowhere.create(&request(), &key("a")).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Disabled);
    assert!(error.chain().to_string().contains("'alias/nowhere' is not there"), "{}", error.chain());
    for (operation, right) in [("GenerateDataKey", "kms:GenerateDataKey"), ("Decrypt", "kms:Decrypt")] {
        aws.fail_if(move |called, _| {
            if called == operation { Fault::Error(400, "AccessDeniedException") } else { Fault::None }
        });
        let error = ring(wrapper(&aws, &cmk).await).create(&request(), &key("a")).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.chain().to_string().contains(right), "{}", error.chain());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_in_memory_serve_while_aws_is_away_and_cost_it_nothing() {
    let aws = Aws::start().await;
    let root = wrapper(&aws, &new_cmk(&aws).await).await;
    let kms = KeyRing::new(Wrapped::new(MemoryStore::new(), root), CacheConfig::default());
    kms.create(&request(), &key("known")).await.unwrap();
    kms.create(&request(), &key("cold")).await.unwrap();
    let dek = kms.generate(&request(), &key("known"), b"c").await.unwrap();
    aws.take_seen();
    for _ in 0..1000 {
        kms.decrypt(&request(), &key("known"), &dek.ciphertext, b"c").await.unwrap();
    }
    assert!(aws.take_seen().is_empty(), "a key in memory needs no AWS");
    for fault in [
        Fault::Reset,
        Fault::Error(400, "ThrottlingException"),
        Fault::Error(500, "KMSInternalException"),
        Fault::Garbage(b"{}"),
    ] {
        aws.fail(fault.clone());
        let error = kms.create(&request(), &key("new")).await.err().unwrap();
        assert!(error.kind().is_outage(), "{fault:?}: {}", error.chain());
        kms.decrypt(&request(), &key("known"), &dek.ciphertext, b"c").await.unwrap();
    }
    aws.fail(Fault::None);
    until("AWS is back", async || kms.create(&request(), &key("new")).await.is_ok()).await;
    kms.generate(&request(), &key("cold"), b"").await.unwrap();
}

async fn wrapper(aws: &Aws, key: &str) -> AwsWrapper {
    let config = WrapperConfig { connection: aws.connection(), key: key.to_owned() };
    AwsWrapper::open(config).await.unwrap()
}

async fn new_cmk(aws: &Aws) -> String {
    let made = aws.ask("CreateKey", json!({})).await;
    made["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
}

fn sled(path: &std::path::Path) -> SledStore {
    kms_fs::open_bare(&FsConfig::new(path.join("store")), OpenMode::Create).unwrap().store
}

fn entry(name: &str) -> EntryName {
    EntryName::from(&key(name))
}
