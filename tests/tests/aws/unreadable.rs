//! Keys that exist and cannot be used, under the contract and as clients see them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kms_aws::{AwsKms, SecretsManager};
use kms_core::contract::{Spoiler, Spoilt, unreadable};
use kms_core::{CacheConfig, KeyName, KeyRing, Kms};
use kms_tests::localstack::{Aws, Fault};
use kms_tests::programs::until;
use kms_tests::spoilt::{Seen, ask, is};
use kms_tests::{Protocol, STATUS_KEPT, TestServer};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn no_key_in_aws_kms_is_taken_for_absent() {
    let spoiler = InKms { aws: Aws::start().await, good: Mutex::default() };
    // A CMK is never empty. AWS makes its bytes and does not show them.
    let meaningful = [Spoilt::Unreadable, Spoilt::Denied, Spoilt::Undecodable, Spoilt::DeletedButRestorable];
    assert_eq!(unreadable(&spoiler).await, meaningful);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_taken_for_absent() {
    for describes in [true, false] {
        let spoiler = InSecrets { aws: Aws::start().await, describes, good: Mutex::default() };
        spoiler.deny(None);
        assert_eq!(unreadable(&spoiler).await, Spoilt::ALL, "with DescribeSecret: {describes}");
    }
}

/// CMKs that are disabled, may not be described, are pending deletion, or whose alias leads to another kind
/// of CMK.
struct InKms {
    aws: Aws,
    /// The CMK to which the alias belongs.
    good: Mutex<String>,
}

impl InKms {
    async fn kms(&self) -> Arc<AwsKms> {
        self.aws.open_with(|config| config.any = Duration::ZERO).await
    }

    async fn point(&self, alias: &str, cmk: &str) {
        self.aws.ask("UpdateAlias", json!({"AliasName": alias, "TargetKeyId": cmk})).await;
    }
}

#[async_trait]
impl Spoiler for InKms {
    async fn open(&self) -> Arc<dyn Kms> {
        self.kms().await
    }

    async fn spoil(&self, name: &KeyName, state: Spoilt) -> bool {
        let alias = format!("alias/kms/k/{name}");
        let cmk = self.aws.cmk(&alias).await;
        (*self.good.lock().unwrap()).clone_from(&cmk);
        match state {
            Spoilt::Unreadable => drop(self.aws.ask("DisableKey", json!({"KeyId": cmk})).await),
            Spoilt::Denied => self.aws.fail_if(move |operation, parameters| {
                let is_it = operation == "DescribeKey" && parameters["KeyId"] == alias.as_str();
                if is_it { Fault::Error(400, "AccessDeniedException") } else { Fault::None }
            }),
            Spoilt::Undecodable => {
                let rsa = json!({"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"});
                let other = self.aws.ask("CreateKey", rsa).await;
                self.point(&alias, other["KeyMetadata"]["KeyId"].as_str().unwrap()).await;
            }
            Spoilt::Empty => return false,
            Spoilt::DeletedButRestorable => {
                self.aws.ask("ScheduleKeyDeletion", json!({"KeyId": cmk, "PendingWindowInDays": 7})).await;
            }
        }
        true
    }

    async fn mend(&self, name: &KeyName, state: Spoilt) {
        let cmk = self.good.lock().unwrap().clone();
        match state {
            Spoilt::Denied => self.aws.fail(Fault::None),
            Spoilt::Undecodable => self.point(&format!("alias/kms/k/{name}"), &cmk).await,
            _ => {
                if state == Spoilt::DeletedButRestorable {
                    self.aws.ask("CancelKeyDeletion", json!({"KeyId": cmk})).await;
                }
                self.aws.ask("EnableKey", json!({"KeyId": cmk})).await;
            }
        }
    }

    async fn content(&self, name: &KeyName) -> Vec<u8> {
        let there = self.aws.ask("DescribeKey", json!({"KeyId": format!("alias/kms/k/{name}")})).await;
        there.to_string().into_bytes()
    }
}

/// Secrets without a value, with another text, with a blank one, in their recovery window, or that may not be
/// read.
struct InSecrets {
    aws: Aws,
    /// Whether the server may describe secrets. A policy for KES does not allow it.
    describes: bool,
    /// The good text of the secret.
    good: Mutex<String>,
}

impl InSecrets {
    async fn store(&self) -> SecretsManager {
        self.aws.secrets(|_| {}).await
    }

    /// Denies the server to read this secret.
    fn deny(&self, name: Option<&KeyName>) {
        let (name, describes) = (name.map(ToString::to_string), self.describes);
        self.aws.fail_if(move |operation, parameters| {
            let is_it = name.as_deref().is_some_and(|name| parameters["SecretId"] == name);
            match operation {
                "GetSecretValue" if is_it => Fault::Error(400, "AccessDeniedException"),
                "DescribeSecret" if !describes => Fault::Error(400, "AccessDeniedException"),
                _ => Fault::None,
            }
        });
    }

    async fn put(&self, name: &KeyName, text: &str) {
        let token = format!("{:0>32}", text.len());
        let value = json!({"SecretId": name.as_str(), "SecretString": text, "ClientRequestToken": token});
        self.aws.ask_secrets("PutSecretValue", value).await;
    }
}

#[async_trait]
impl Spoiler for InSecrets {
    async fn open(&self) -> Arc<dyn Kms> {
        let cache = CacheConfig::default().with_any(Duration::ZERO);
        Arc::new(KeyRing::new(self.store().await, cache))
    }

    async fn spoil(&self, name: &KeyName, state: Spoilt) -> bool {
        let id = json!({"SecretId": name.as_str()});
        let there = self.aws.ask_secrets("GetSecretValue", id.clone()).await;
        there["SecretString"].as_str().unwrap().clone_into(&mut self.good.lock().unwrap());
        match state {
            Spoilt::Unreadable => {
                let erase = json!({"SecretId": name.as_str(), "ForceDeleteWithoutRecovery": true});
                self.aws.ask_secrets("DeleteSecret", erase).await;
                let bare = json!({"Name": name.as_str(), "ClientRequestToken": "1".repeat(32)});
                self.aws.ask_secrets("CreateSecret", bare).await;
            }
            Spoilt::Denied => self.deny(Some(name)),
            Spoilt::Undecodable => self.put(name, "hunter2").await,
            // AWS refuses an empty value.
            Spoilt::Empty => self.put(name, " ").await,
            Spoilt::DeletedButRestorable => drop(self.aws.ask_secrets("DeleteSecret", id).await),
        }
        true
    }

    async fn mend(&self, name: &KeyName, state: Spoilt) {
        let good = self.good.lock().unwrap().clone();
        match state {
            Spoilt::Denied => self.deny(None),
            Spoilt::DeletedButRestorable => {
                self.aws.ask_secrets("RestoreSecret", json!({"SecretId": name.as_str()})).await;
            }
            _ => self.put(name, &good).await,
        }
    }

    async fn content(&self, name: &KeyName) -> Vec<u8> {
        let id = json!({"SecretId": name.as_str()});
        let mut described = self.aws.ask_secrets("DescribeSecret", id.clone()).await;
        // Every read changes this field.
        described.as_object_mut().unwrap().remove("LastAccessedDate");
        let (_, mut value) = self.aws.try_ask("secretsmanager.GetSecretValue", id).await;
        value.as_object_mut().unwrap().remove("CreatedDate");
        format!("{described}{value}").into_bytes()
    }
}

const EXISTS: (u16, &str) = (400, "key already exists");
const NOT_CREATED: (u16, &str) = (502, "failed to create key");

/// The table of states: a status and a message for each state of a key in each of the two stores.
#[tokio::test(flavor = "multi_thread")]
async fn clients_never_hear_that_a_key_is_absent_which_is_there() {
    let name = KeyName::new("spoilt").unwrap();
    for state in Spoilt::ALL {
        let secrets = InSecrets { aws: Aws::start().await, describes: true, good: Mutex::default() };
        secrets.deny(None);
        let cmks = InKms { aws: Aws::start().await, good: Mutex::default() };
        for spoiler in [&secrets as &dyn Spoiler, &cmks] {
            let kms = spoiler.open().await;
            let (store, imports) = (kms.capabilities().backend, kms.capabilities().import);
            let server = TestServer::builder().kms(kms).start().await;
            let mut client = server.admin(Protocol::Http1);
            for name in ["spoilt", "beside"] {
                assert_eq!(ask(&mut client, "PUT", &format!("/v1/key/create/{name}"), "").await.0, 200);
            }
            server.stop().await;
            if !spoiler.spoil(&name, state).await {
                assert_eq!((store, state), ("AWS KMS", Spoilt::Empty), "the one cell without a meaning");
                continue;
            }
            let server = TestServer::builder().kms(spoiler.open().await).start().await;
            let mut client = server.admin(Protocol::Http1);
            let cell = format!("{store}, {state:?}");
            let is_deletion = state == Spoilt::DeletedButRestorable;
            for _ in 0..2 {
                let seen = Seen::of(&server, "spoilt").await;
                for read in &seen.reads {
                    let good = if is_deletion {
                        is(read, 409, "key is deleted; 'kms key restore spoilt' brings it back")
                    } else {
                        is(read, 502, "failed to read key")
                    };
                    assert!(good, "{cell}: {read:?}");
                }
                // A server that may not describe a CMK does not know whether it exists.
                let is_unknown = state == Spoilt::Denied && !imports;
                let (code, message) = if is_unknown { NOT_CREATED } else { EXISTS };
                assert!(is(&seen.create, code, message), "{cell}: create: {:?}", seen.create);
                if imports {
                    assert!(is(&seen.import, EXISTS.0, EXISTS.1), "{cell}: import: {:?}", seen.import);
                } else {
                    assert_eq!(seen.import.0, 501, "{cell}: import: {:?}", seen.import);
                }
            }
            if is_deletion {
                let (code, message) = ask(&mut client, "DELETE", "/v1/key/delete/spoilt", "").await;
                assert_eq!(code, 409, "{cell}: delete: {message}");
            } else {
                let deleted = ask(&mut client, "DELETE", "/v1/key/delete/spoilt", "").await;
                assert!(is(&deleted, 502, "failed to delete key"), "{cell}: delete: {deleted:?}");
                let (code, listed) = ask(&mut client, "GET", "/v1/key/list/sp", "").await;
                assert!(code == 200 && listed.contains("spoilt"), "{cell}: {code} {listed}");
                let (code, told) = ask(&mut client, "GET", "/v1/ready", "").await;
                assert!(code == 200 && told.contains("spoilt"), "{cell}: {code} {told}");
            }
            assert_eq!(ask(&mut client, "PUT", "/v1/key/generate/beside", "").await.0, 200, "{cell}");
            spoiler.mend(&name, state).await;
            until("the key is back", async || {
                let mut client = server.admin(Protocol::Http1);
                ask(&mut client, "PUT", "/v1/key/generate/spoilt", "").await.0 == 200
            })
            .await;
            tokio::time::sleep(STATUS_KEPT).await;
            let ready = ask(&mut client, "GET", "/v1/ready", "").await;
            assert!(is(&ready, 200, ""), "{cell}: {ready:?}");
        }
    }
}

/// A rotation that failed has moved the label `AWSCURRENT` away.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_without_a_current_value_is_no_absent_key() {
    for describes in [true, false] {
        let secrets = InSecrets { aws: Aws::start().await, describes, good: Mutex::default() };
        secrets.deny(None);
        let kms = secrets.open().await;
        let name = KeyName::new("rotated").unwrap();
        kms.create(&super::keys::request(), &name).await.unwrap();
        // AWS has several texts for this error.
        for (text, kind) in [
            (
                "Secrets Manager can't find the specified secret value for staging label: AWSCURRENT",
                "Corrupt",
            ),
            ("Secrets Manager can't find the specified secret value for VersionId: 1", "Corrupt"),
            (
                "Secrets Manager can't find the specified secret.",
                if describes { "Corrupt" } else { "NotFound" },
            ),
            ("Words that AWS has not had so far.", if describes { "Corrupt" } else { "Denied" }),
        ] {
            let fresh = secrets.open().await;
            secrets.aws.fail_if(move |operation, _| match operation {
                "GetSecretValue" => Fault::Says("ResourceNotFoundException", text),
                "DescribeSecret" if !describes => Fault::Error(400, "AccessDeniedException"),
                _ => Fault::None,
            });
            let error = fresh.generate(&super::keys::request(), &name, b"").await.err().unwrap();
            assert_eq!(format!("{:?}", error.kind()), kind, "{describes}: {text}: {}", error.chain());
        }
        // An error about the KMS key is not reported as one about the secret.
        secrets.aws.fail_if(|operation, _| match operation {
            "GetSecretValue" => Fault::Says(
                "InvalidRequestException",
                "You can't use the KMS key of this secret because it is scheduled for deletion.",
            ),
            _ => Fault::None,
        });
        let error = secrets.open().await.generate(&super::keys::request(), &name, b"").await.err().unwrap();
        let kind = error.kind();
        assert!(
            matches!(kind, kms_core::ErrorKind::Denied | kms_core::ErrorKind::Disabled),
            "{describes}: {kind:?}"
        );
    }
}

/// The alias of a key leads to a CMK of each other kind and in each state.
#[tokio::test(flavor = "multi_thread")]
async fn an_alias_on_a_cmk_of_another_kind_is_no_absent_key() {
    let aws = Aws::start().await;
    let server = TestServer::builder().kms(aws.open().await).start().await;
    let mut client = server.admin(Protocol::Http1);
    for (name, spec, usage) in [
        ("rsa", "RSA_2048", "ENCRYPT_DECRYPT"),
        ("rsa-signs", "RSA_2048", "SIGN_VERIFY"),
        ("hmac-alone", "HMAC_256", "GENERATE_VERIFY_MAC"),
        ("ecc", "ECC_NIST_P256", "SIGN_VERIFY"),
    ] {
        let made = aws.ask("CreateKey", json!({"KeySpec": spec, "KeyUsage": usage})).await;
        let alias =
            json!({"AliasName": format!("alias/kms/k/{name}"), "TargetKeyId": made["KeyMetadata"]["KeyId"]});
        aws.ask("CreateAlias", alias).await;
        let seen = Seen::of(&server, name).await;
        assert!(
            seen.reads.iter().all(|read| is(read, 502, "failed to read key")),
            "{name}: {:?}",
            seen.reads
        );
        assert!(is(&seen.create, 400, "key already exists"), "{name}: {:?}", seen.create);
        let deleted = ask(&mut client, "DELETE", &format!("/v1/key/delete/{name}"), "").await;
        assert!(is(&deleted, 502, "failed to delete key"), "{name}: {deleted:?}");
    }
    assert!(aws.states().await.iter().all(|state| state == "Enabled"), "nothing of others is deleted");
}
