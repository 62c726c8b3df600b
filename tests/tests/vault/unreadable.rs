//! Entries that exist and cannot be used, under the contract and as clients see them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kms_core::contract::{Spoiler, Spoilt, unreadable};
use kms_core::{CacheConfig, KeyName, Kms};
use kms_tests::bao::{Bao, WIDE_POLICY};
use kms_tests::spoilt::{Seen, ask, is};
use kms_tests::{Protocol, STATUS_KEPT, TestServer};
use kms_vault::{KvVersion, Login, TransitConfig, VaultConfig};
use reqwest::Method;
use serde_json::{Value, json};

use super::common::{key, ring};
use super::contract::quick;

/// What else the policy allows on an entry that may not be read.
#[derive(Clone, Copy, Debug)]
enum Unread {
    /// Everything else.
    MayBeCreated,
    /// Nothing.
    Denied,
}

/// An engine of OpenBao that the test changes with the root token.
struct InVault {
    bao: Bao,
    login: Login,
    version: KvVersion,
    transit: bool,
    unread: Unread,
    /// The good fields of the secret.
    good: Mutex<Value>,
}

impl InVault {
    async fn start(version: KvVersion, transit: bool, unread: Unread) -> Self {
        let bao = Bao::with_kv(version).await;
        bao.mount_transit("minio").await;
        let login = bao.approle(WIDE_POLICY, "30m").await;
        Self { bao, login, version, transit, unread, good: Mutex::default() }
    }

    fn config(&self) -> VaultConfig {
        let transit = TransitConfig { require: true, ..TransitConfig::new("minio") };
        quick(VaultConfig {
            login: self.login.clone(),
            transit: self.transit.then_some(transit),
            ..self.bao.config(self.version)
        })
    }

    fn path(&self, name: &KeyName) -> String {
        let data = if self.version == KvVersion::V2 { "data/" } else { "" };
        format!("kv/{data}minio/{name}")
    }

    async fn read(&self, name: &KeyName) -> Value {
        let (_, answer) = self.bao.try_in("", Method::GET, &self.path(name), Value::Null).await;
        answer["data"].clone()
    }

    async fn put(&self, name: &KeyName, fields: Value) {
        let body = if self.version == KvVersion::V2 { json!({ "data": fields }) } else { fields };
        self.bao.ask(Method::PUT, &self.path(name), body).await;
    }

    async fn allow(&self, policy: &str) {
        self.bao.ask(Method::PUT, "sys/policies/acl/kms", json!({ "policy": policy })).await;
    }
}

#[async_trait]
impl Spoiler for InVault {
    async fn open(&self) -> Arc<dyn Kms> {
        ring(self.config(), CacheConfig::default().with_any(Duration::ZERO))
    }

    async fn spoil(&self, name: &KeyName, state: Spoilt) -> bool {
        let there = self.read(name).await;
        *self.good.lock().unwrap() =
            if self.version == KvVersion::V2 { there["data"].clone() } else { there.clone() };
        match state {
            Spoilt::Unreadable => self.put(name, json!({"other": "field"})).await,
            Spoilt::Denied => {
                let rest = match self.unread {
                    Unread::MayBeCreated => r#""create", "update", "delete""#,
                    Unread::Denied => r#""deny""#,
                };
                let path = self.path(name);
                self.allow(&format!("{WIDE_POLICY}\npath \"{path}\" {{ capabilities = [{rest}] }}")).await;
            }
            Spoilt::Undecodable => self.put(name, json!({ (name.as_str()): "no record of a key" })).await,
            Spoilt::Empty => self.put(name, json!({ (name.as_str()): "" })).await,
            // Version 1 cannot undo a deletion.
            Spoilt::DeletedButRestorable if self.version == KvVersion::V1 => return false,
            Spoilt::DeletedButRestorable => {
                self.bao.ask(Method::DELETE, &self.path(name), Value::Null).await;
            }
        }
        true
    }

    async fn mend(&self, name: &KeyName, state: Spoilt) {
        let good = self.good.lock().unwrap().clone();
        match state {
            Spoilt::Denied => self.allow(WIDE_POLICY).await,
            Spoilt::DeletedButRestorable => {
                let version = self.read(name).await["metadata"]["version"].clone();
                let body = json!({ "versions": [version] });
                self.bao.ask(Method::POST, &format!("kv/undelete/minio/{name}"), body).await;
            }
            _ => self.put(name, good).await,
        }
    }

    async fn content(&self, name: &KeyName) -> Vec<u8> {
        self.read(name).await.to_string().into_bytes()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_entry_of_vault_is_taken_for_absent() {
    for (version, transit) in [(KvVersion::V1, false), (KvVersion::V2, false), (KvVersion::V2, true)] {
        for unread in [Unread::MayBeCreated, Unread::Denied] {
            let spoiler = InVault::start(version, transit, unread).await;
            let states = unreadable(&spoiler).await;
            let all = if version == KvVersion::V2 { &Spoilt::ALL[..] } else { &Spoilt::ALL[..4] };
            assert_eq!(states, all, "{version:?}, transit {transit}, {unread:?}");
        }
    }
}

/// The table of states: a status and a message for each state of an entry in both versions of the engine.
#[tokio::test(flavor = "multi_thread")]
async fn clients_never_hear_that_an_entry_of_vault_is_absent_which_is_there() {
    for version in [KvVersion::V1, KvVersion::V2] {
        let spoiler = InVault::start(version, false, Unread::MayBeCreated).await;
        for (n, state) in Spoilt::ALL.into_iter().enumerate() {
            let cell = format!("{version:?}, {state:?}");
            let name = key(&format!("spoilt-{n}"));
            let server = TestServer::builder().kms(spoiler.open().await).start().await;
            let mut client = server.admin(Protocol::Http1);
            let created = ask(&mut client, "PUT", &format!("/v1/key/create/{name}"), "").await;
            assert_eq!(created.0, 200, "{cell}: {created:?}");
            if !spoiler.spoil(&name, state).await {
                assert_eq!((version, state), (KvVersion::V1, Spoilt::DeletedButRestorable));
                continue;
            }
            let before = spoiler.content(&name).await;
            let seen = Seen::of(&server, name.as_str()).await;
            let is_deletion = state == Spoilt::DeletedButRestorable;
            for read in &seen.reads {
                let right = if is_deletion {
                    is(read, 409, &format!("key is deleted; 'kms key restore {name}' brings it back"))
                } else {
                    is(read, 502, "failed to read key")
                };
                assert!(right, "{cell}: {read:?}");
            }
            for (what, made) in [("create", &seen.create), ("import", &seen.import)] {
                let right = match state {
                    // Nobody can know whether the key exists.
                    Spoilt::Denied => is(made, 502, "failed to create key"),
                    _ => is(made, 400, "key already exists"),
                };
                assert!(right, "{cell}: {what}: {made:?}");
            }
            if !is_deletion {
                let deleted = ask(&mut client, "DELETE", &format!("/v1/key/delete/{name}"), "").await;
                assert!(is(&deleted, 502, "failed to delete key"), "{cell}: {deleted:?}");
                let listed = ask(&mut client, "GET", "/v1/key/list/spoilt", "").await;
                assert!(listed.0 == 200 && listed.1.contains(name.as_str()), "{cell}: {listed:?}");
                let ready = ask(&mut client, "GET", "/v1/ready", "").await;
                assert!(ready.0 == 200 && ready.1.contains(name.as_str()), "{cell}: {ready:?}");
            }
            assert!(spoiler.content(&name).await == before, "{cell}: the entry was changed");
            spoiler.mend(&name, state).await;
            let again = ask(&mut client, "PUT", &format!("/v1/key/generate/{name}"), "").await;
            assert_eq!(again.0, 200, "{cell}: {again:?}");
            tokio::time::sleep(STATUS_KEPT).await;
            let ready = ask(&mut client, "GET", "/v1/ready", "").await;
            assert!(is(&ready, 200, ""), "{cell}: {ready:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_of_all_keys_names_each_that_cannot_be_used() {
    let spoiler = InVault::start(KvVersion::V2, false, Unread::MayBeCreated).await;
    let kms = spoiler.open().await;
    for name in ["good", "better", "blank", "odd"] {
        kms.create(&super::common::request(), &key(name)).await.unwrap();
    }
    spoiler.spoil(&key("blank"), Spoilt::Empty).await;
    spoiler.spoil(&key("odd"), Spoilt::Unreadable).await;
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    let kms = |arguments: &[&str]| {
        let output = std::process::Command::new(kms_tests::process::kms_binary()).args(arguments).output();
        let output = output.unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    assert!(kms(&["init", node.to_str().unwrap()]).0);
    let config = node.join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let begin = text.find("[keystore.fs]").unwrap();
    let end = text[begin..].find("# An application").unwrap() + begin;
    let vault = format!(
        "[keystore.vault]\nendpoint = \"{}\"\nversion = \"v2\"\nprefix = \"minio\"\n\
         [keystore.vault.token]\nvalue = \"{}\"\n",
        spoiler.bao.endpoint(),
        spoiler.bao.root
    );
    std::fs::write(&config, format!("{}{vault}{}", &text[..begin], &text[end..])).unwrap();
    let (good, told) = kms(&["check", "--config", config.to_str().unwrap()]);
    assert!(good, "{told}");
    let (good, told) = kms(&["check", "--config", config.to_str().unwrap(), "--all"]);
    let error = |name: &str, why: &str| {
        told.lines().any(|line| {
            line.starts_with("error")
                && line.contains(&format!("'{name}' cannot be used"))
                && line.contains(&format!("minio/{name}"))
                && line.contains(why)
        })
    };
    assert!(!good && error("blank", "it is empty") && error("odd", "no field 'odd'"), "{told}");
    assert!(told.contains("2 keys read and decoded"), "{told}");
}
