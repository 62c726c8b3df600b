//! Keys in AWS Secrets Manager: their form, the effect of a delete, and what AWS may do in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kms_aws::{SecretsConfig, SecretsManager};
use kms_core::primitives::{Cipher, SealingKey, SecretBytes, SecretKey};
use kms_core::store::{EntryName, KeyRecord, KeyStore};
use kms_core::{CacheConfig, ErrorKind, KeyRing, Kms, ListQuery, contract};
use kms_tests::localstack::{Aws, Fault};
use kms_tests::programs::until;
use serde_json::{Value, json};

use super::keys::{key, kind, request};

/// AWS's answer to a create while a secret of that name is scheduled for deletion.
const SCHEDULED: Fault = Fault::Says(
    "InvalidRequestException",
    "You can't create this secret because a secret with this name is already scheduled for deletion.",
);

fn at_once(config: &mut SecretsConfig) {
    config.recovery_window = 0;
}

pub fn ring(store: SecretsManager) -> Arc<KeyRing<SecretsManager>> {
    Arc::new(KeyRing::new(store, CacheConfig::default().with_any(Duration::ZERO)))
}

fn entry(name: &str) -> EntryName {
    EntryName::from(&key(name))
}

fn record(text: &str) -> SecretBytes {
    SecretBytes::from(text.as_bytes())
}

async fn names(store: &impl KeyStore, prefix: &str) -> Vec<String> {
    let page = store.list(&ListQuery::prefix(prefix)).await.unwrap();
    page.names.iter().map(ToString::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_manager_keeps_the_contract_of_a_store() {
    let aws = Aws::start().await;
    contract::key_store(&Arc::new(aws.secrets(at_once).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_ring_over_secrets_manager_keeps_the_contract() {
    let aws = Aws::start().await;
    let store = aws.secrets(at_once).await;
    contract::kms(Arc::new(KeyRing::new(store, CacheConfig::default()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_grace_it_keeps_the_contract_whatever_the_window_of_aws() {
    // Most of the time it waits until AWS would have settled.
    tokio::join!(keeps_the_contract_with_a_grace(0), keeps_the_contract_with_a_grace(7));
}

async fn keeps_the_contract_with_a_grace(window: u32) {
    let aws = Aws::start().await;
    let keeping = async || {
        let store = aws.secrets(|config| config.recovery_window = window).await;
        let uncached = CacheConfig::default().with_any(Duration::ZERO);
        Arc::new(KeyRing::keeping_deleted(store, uncached, Duration::from_secs(3600)))
    };
    let (one, two, three) = (keeping().await, keeping().await, keeping().await);
    contract::kms(one).await;
    contract::deletions(two, three).await;
    let left = aws.ask_secrets("ListSecrets", json!({"IncludePlannedDeletion": true})).await;
    let kept =
        left["SecretList"].as_array().unwrap().iter().filter(|secret| secret["DeletedDate"].is_number());
    let kept: Vec<_> = kept.map(|secret| secret["Name"].as_str().unwrap()).collect();
    assert_eq!(kept, [""; 0], "window {window}: what a purge removes is erased at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_of_aws_alone_keeps_the_contract_too() {
    let aws = Aws::start().await;
    let store = aws.secrets(|config| config.recovery_window = 7).await;
    contract::kms(ring(store)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_a_secret_in_the_form_of_kes() {
    let aws = Aws::start().await;
    for kms_key in [None, Some("alias/of-ours")] {
        let kms = ring(aws.secrets(|config| config.kms_key = kms_key.map(str::to_owned)).await);
        let name = if kms_key.is_some() { "under-ours" } else { "under-that-of-aws" };
        aws.take_seen();
        kms.create(&request(), &key(name)).await.unwrap();
        let seen = aws.take_seen();
        let (_, sent) = seen.iter().find(|(operation, _)| operation == "CreateSecret").unwrap();
        let mut fields: Vec<_> = sent.as_object().unwrap().keys().map(String::as_str).collect();
        fields.retain(|field| *field != "ClientRequestToken");
        let mut expected = vec!["KmsKeyId", "Name", "SecretString"];
        expected.retain(|field| kms_key.is_some() || *field != "KmsKeyId");
        fields.sort_unstable();
        assert_eq!(fields, expected, "nothing beside what KES writes");
        let there = aws.ask_secrets("GetSecretValue", json!({"SecretId": name})).await;
        let text = there["SecretString"].as_str().unwrap();
        KeyRecord::decode(text.as_bytes()).unwrap();
        let described = aws.ask_secrets("DescribeSecret", json!({"SecretId": name})).await;
        assert_eq!(described["KmsKeyId"].as_str(), kms_key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_any_kes_wrote_serves() {
    let aws = Aws::start().await;
    let vectors: Value = serde_json::from_str(include_str!("../../../kms-core/tests/vectors/records.json"))
        .expect("vectors of records");
    let mut expected = Vec::new();
    for vector in vectors["records"].as_array().unwrap() {
        let (name, text) = (vector["name"].as_str().unwrap(), vector["record"].as_str().unwrap());
        aws.ask_secrets(
            "CreateSecret",
            json!({"Name": name, "SecretString": text, "ClientRequestToken": token(name)}),
        )
        .await;
        let binary = format!("{name}-b");
        aws.ask_secrets(
            "CreateSecret",
            json!({"Name": binary, "SecretBinary": STANDARD.encode(text), "ClientRequestToken": token(&binary)}),
        )
        .await;
        let bytes = hex::decode(vector["expect"]["key_hex"].as_str().unwrap()).unwrap();
        let cipher = match vector["expect"]["algorithm"].as_str() {
            Some("ChaCha20") => Cipher::ChaCha20,
            _ => Cipher::Aes256,
        };
        expected.push((name.to_owned(), SealingKey::new(SecretKey::from_slice(&bytes).unwrap(), cipher)));
    }
    assert!(expected.len() >= 10, "{} vectors", expected.len());
    let kms = ring(aws.secrets(|_| {}).await);
    for (name, sealing) in expected {
        let sealed = sealing.seal(b"plaintext", b"context").unwrap();
        for name in [name.clone(), format!("{name}-b")] {
            let opened = kms.decrypt(&request(), &key(&name), &sealed, b"context").await;
            assert!(opened.unwrap().expose() == b"plaintext", "{name}");
        }
    }
}

fn token(of: &str) -> String {
    format!("{of:0>32}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_key_can_be_restored_until_its_window_ends() {
    let aws = Aws::start().await;
    let kms = ring(aws.secrets(|_| {}).await);
    let name = key("restorable");
    kms.create(&request(), &name).await.unwrap();
    kms.create(&request(), &key("other")).await.unwrap();
    let dek = kms.generate(&request(), &name, b"c").await.unwrap();
    aws.take_seen();
    kms.delete(&request(), &name).await.unwrap();
    let seen = aws.take_seen();
    let (_, sent) = seen.iter().find(|(operation, _)| operation == "DeleteSecret").unwrap();
    assert_eq!(sent["RecoveryWindowInDays"], 7);

    let began = Instant::now();
    let error = kms.create(&request(), &name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error:?}");
    let told = error.chain().to_string();
    let command = "aws secretsmanager restore-secret --secret-id restorable --region eu-central-1";
    assert!(told.contains("can be restored until 20") && told.contains(command), "{told}");
    assert!(began.elapsed() < Duration::from_secs(2), "nothing is waited for");
    assert_eq!(kind(kms.generate(&request(), &name, b"c").await), Some(ErrorKind::Deleted));
    assert_eq!(kind(kms.delete(&request(), &name).await), Some(ErrorKind::Deleted));
    assert_eq!(names(kms.store(), "").await, ["other"]);

    aws.ask_secrets("RestoreSecret", json!({"SecretId": "restorable"})).await;
    let opened = kms.decrypt(&request(), &name, &dek.ciphertext, b"c").await.unwrap();
    assert!(opened.expose() == dek.plaintext.expose());
    assert_eq!(names(kms.store(), "").await, ["other", "restorable"]);
    // A server that erases at once does not shorten the window that another one has set.
    kms.delete(&request(), &name).await.unwrap();
    let erasing = ring(aws.secrets(at_once).await);
    assert_eq!(kind(erasing.delete(&request(), &name).await), Some(ErrorKind::Deleted));
    assert_eq!(kind(erasing.create(&request(), &name).await), Some(ErrorKind::AlreadyExists));
    aws.ask_secrets("RestoreSecret", json!({"SecretId": "restorable"})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_still_being_erased_is_waited_for() {
    let aws = Aws::start().await;
    let store = aws.secrets(at_once).await;
    let refusals = |count: usize| {
        let left = AtomicUsize::new(count);
        move |operation: &str, _: &Value| match operation {
            "CreateSecret" => {
                match left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)) {
                    Ok(_) => SCHEDULED,
                    Err(_) => Fault::None,
                }
            }
            "DescribeSecret" => Fault::Garbage(br#"{"Name": "erased", "DeletedDate": 1.7e9}"#),
            _ => Fault::None,
        }
    };
    aws.fail_if(refusals(3));
    store.create(&entry("erased"), &record("anew")).await.unwrap();
    aws.fail(Fault::None);
    assert!(store.get(&entry("erased")).await.unwrap() == record("anew"));
    // The server does not try forever.
    aws.fail_if(refusals(usize::MAX));
    let began = Instant::now();
    let error = store.create(&entry("erased-2"), &record("anew")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let took = began.elapsed();
    assert!(Duration::from_secs(3) < took && took < Duration::from_secs(8), "{took:?}");
    // A server that keeps a window does not try again.
    aws.fail_if(refusals(1));
    let outcome = aws.secrets(|_| {}).await.create(&entry("erased-3"), &record("anew")).await;
    assert_eq!(kind(outcome), Some(ErrorKind::AlreadyExists));
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_show_keys_alone_whatever_else_is_in_the_account() {
    let aws = Aws::start().await;
    let store = aws.secrets(|_| {}).await;
    for number in 0..230 {
        store.create(&entry(&format!("many-{number:03}")), &record("x")).await.unwrap();
    }
    for stranger in ["team/password", "many.dotted", "many-a+b", ".v/00/2"] {
        let parameters = json!({"Name": stranger, "SecretString": "x", "ClientRequestToken": token(&stranger.replace('/', "-"))});
        aws.ask_secrets("CreateSecret", parameters).await;
    }
    store.create(&entry("other"), &record("x")).await.unwrap();
    store.delete(&entry("many-007")).await.unwrap();
    assert_eq!(names(&store, "").await.len(), 230);
    aws.take_seen();
    assert_eq!(names(&store, "many-").await.len(), 229);
    let seen = aws.take_seen();
    assert!(seen.len() >= 3, "AWS's pages have 100: {}", seen.len());
    assert_eq!(seen[0].1["Filters"], json!([{"Key": "name", "Values": ["many-"]}]));
    let query = ListQuery { prefix: "many-", after: Some("many-005"), limit: 2 };
    let page = store.list(&query).await.unwrap();
    let found: Vec<_> = page.names.iter().map(ToString::to_string).collect();
    assert_eq!((found, page.more), (vec!["many-006".to_owned(), "many-008".to_owned()], true));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_is_no_refusal() {
    let aws = Aws::start().await;
    let store = aws.secrets(|_| {}).await;
    let once = |operation: &'static str| {
        let left = AtomicUsize::new(1);
        move |name: &str, _: &Value| {
            let is_lost = name == operation && left.swap(0, Ordering::Relaxed) == 1;
            if is_lost { Fault::ResetAfter } else { Fault::None }
        }
    };
    aws.fail_if(once("CreateSecret"));
    store.create(&entry("lost"), &record("first")).await.unwrap();
    assert_eq!(kind(store.create(&entry("lost"), &record("second")).await), Some(ErrorKind::AlreadyExists));
    assert!(store.get(&entry("lost")).await.unwrap() == record("first"));
    aws.fail_if(once("DeleteSecret"));
    store.delete(&entry("lost")).await.unwrap();
    assert_eq!(kind(store.get(&entry("lost")).await), Some(ErrorKind::Deleted));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_and_is_not_seen_yet_is_looked_for_again() {
    let aws = Aws::start().await;
    let kms = ring(aws.secrets(|_| {}).await);
    let left = AtomicUsize::new(3);
    aws.fail_if(move |operation, _| {
        let is_early = operation == "GetSecretValue"
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
        if is_early { Fault::Error(400, "ResourceNotFoundException") } else { Fault::None }
    });
    kms.create(&request(), &key("late")).await.unwrap();
    kms.generate(&request(), &key("late"), b"").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_told_as_one_and_ends() {
    let aws = Aws::start().await;
    let store = aws.secrets(|_| {}).await;
    let (there, new, content) = (entry("there"), entry("new"), record("x"));
    let all = ListQuery::prefix("");
    store.create(&there, &content).await.unwrap();
    for fault in [
        Fault::Reset,
        Fault::Error(400, "ThrottlingException"),
        Fault::Error(500, "InternalServiceError"),
        Fault::Garbage(b"<html>"),
        Fault::Garbage(b"{}"),
        Fault::Drop,
    ] {
        aws.fail(fault.clone());
        let began = Instant::now();
        let outcomes = tokio::join!(
            store.get(&there),
            store.create(&new, &content),
            store.delete(&there),
            store.list(&all)
        );
        let kinds = [kind(outcomes.0), kind(outcomes.1), kind(outcomes.2), kind(outcomes.3)];
        assert!(kinds.iter().all(|kind| kind.is_some_and(ErrorKind::is_outage)), "{fault:?}: {kinds:?}");
        assert!(began.elapsed() < Duration::from_secs(12), "{fault:?}: {:?}", began.elapsed());
        aws.fail(Fault::None);
        until("Secrets Manager is back", async || {
            store.get(&entry("there")).await.is_ok()
                && store.status().await.is_ok_and(|status| status.reachable)
        })
        .await;
    }
    assert_eq!(kind(store.get(&new).await), Some(ErrorKind::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_which_right_is_missing() {
    let aws = Aws::start().await;
    let store = aws.secrets(|_| {}).await;
    store.create(&entry("there"), &record("x")).await.unwrap();
    let told = |outcome: kms_core::Result<()>| {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
        error.chain().to_string()
    };
    let only = |operation: &'static str, fault: Fault| {
        aws.fail_if(move |name, _| if name == operation { fault.clone() } else { Fault::None });
    };
    let denied = Fault::Error(400, "AccessDeniedException");
    only("CreateSecret", denied.clone());
    let text = told(store.create(&entry("new"), &record("x")).await);
    assert!(text.contains("secretsmanager:CreateSecret"), "{text}");
    only("GetSecretValue", denied.clone());
    let text = told(store.get(&entry("there")).await.map(drop));
    assert!(text.contains("secretsmanager:GetSecretValue"), "{text}");
    only("DeleteSecret", denied.clone());
    let text = told(store.delete(&entry("there")).await);
    assert!(text.contains("secretsmanager:DeleteSecret"), "{text}");
    only("ListSecrets", denied);
    let text = told(store.list(&ListQuery::prefix("")).await.map(drop));
    assert!(text.contains("secretsmanager:ListSecrets"), "{text}");
    // This error is about the KMS key behind the secret.
    only("GetSecretValue", Fault::Says("AccessDeniedException", "Access to KMS is not allowed"));
    let text = told(store.get(&entry("there")).await.map(drop));
    assert!(text.contains("kms:Decrypt"), "{text}");
    only("GetSecretValue", Fault::Error(400, "DecryptionFailure"));
    let text = told(store.get(&entry("there")).await.map(drop));
    assert!(text.contains("kms:Decrypt") && text.contains("disabled"), "{text}");
    only("CreateSecret", Fault::Error(400, "EncryptionFailure"));
    let text = told(store.create(&entry("new"), &record("x")).await);
    assert!(text.contains("kms:GenerateDataKey"), "{text}");
    only("CreateSecret", Fault::Error(400, "ResourceNotFoundException"));
    let text = told(store.create(&entry("new"), &record("x")).await);
    assert!(text.contains("kmskey"), "{text}");
    only("CreateSecret", Fault::Says("InvalidRequestException", "some other state"));
    told(store.create(&entry("new"), &record("x")).await);
}

/// A policy for KES allows everything except `DescribeSecret`.
#[tokio::test(flavor = "multi_thread")]
async fn the_rights_that_kes_has_are_enough() {
    let aws = Aws::start().await;
    aws.fail_if(|operation, _| match operation {
        "DescribeSecret" => Fault::Error(400, "AccessDeniedException"),
        _ => Fault::None,
    });
    let store = aws.secrets(|_| {}).await;
    let name = entry("of-kes");
    assert_eq!(kind(store.delete(&name).await), Some(ErrorKind::NotFound));
    store.create(&name, &record("x")).await.unwrap();
    assert_eq!(kind(store.create(&name, &record("x")).await), Some(ErrorKind::AlreadyExists));
    store.delete(&name).await.unwrap();
    assert_eq!(kind(store.delete(&name).await), Some(ErrorKind::NotFound));
    assert_eq!(kind(store.get(&name).await), Some(ErrorKind::Deleted));
    assert_eq!(kind(store.create(&name, &record("x")).await), Some(ErrorKind::AlreadyExists));
    let erasing = aws.secrets(at_once).await;
    let name = entry("of-kes-2");
    erasing.create(&name, &record("x")).await.unwrap();
    erasing.delete(&name).await.unwrap();
    assert_eq!(kind(erasing.delete(&name).await), Some(ErrorKind::NotFound));
}
