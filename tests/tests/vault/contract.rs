//! The contract suite on every kind of engine and with the policies of the field.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyStore, StoreCapabilities};
use kms_core::{ErrorKind, KeyRing, ListQuery, Page, Result, StoreStatus, contract};
use kms_tests::bao::{Bao, GUIDE_POLICY, LEAST_POLICY};
use kms_vault::{KvVersion, TransitConfig, VaultConfig};
use reqwest::Method;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn v2_keeps_the_contract() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    check(|prefix| VaultConfig { prefix: prefix.to_owned(), ..bao.config(KvVersion::V2) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_keeps_the_contract() {
    let bao = Bao::with_kv(KvVersion::V1).await;
    check(|prefix| quick(VaultConfig { prefix: prefix.to_owned(), ..bao.config(KvVersion::V1) })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_under_transit_keeps_the_contract() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    bao.mount_transit("minio").await;
    let transit = TransitConfig { require: true, ..TransitConfig::new("minio") };
    check(|prefix| VaultConfig {
        prefix: prefix.to_owned(),
        transit: Some(transit.clone()),
        ..bao.config(KvVersion::V2)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_keeps_the_contract() {
    let bao = Bao::start().await;
    bao.ask(Method::POST, "sys/namespaces/team", json!({})).await;
    let engine = json!({"type": "kv", "options": {"version": "2"}});
    bao.ask_in("team", Method::POST, "sys/mounts/keys/of", engine).await;
    check(|prefix| VaultConfig {
        prefix: prefix.to_owned(),
        namespace: Some("team".to_owned()),
        engine: "keys/of".to_owned(),
        ..bao.config(KvVersion::V2)
    })
    .await;
    let (status, _) = bao.try_in("", Method::GET, "keys/of/metadata/?list=true", json!(null)).await;
    assert_eq!(status, 404, "nothing of it is in the root namespace");
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_under_the_least_policy_keeps_the_contract() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let login = bao.approle(LEAST_POLICY, "5m").await;
    check(|prefix| VaultConfig {
        prefix: format!("minio/{prefix}"),
        login: login.clone(),
        ..bao.config(KvVersion::V2)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_under_the_policy_of_the_guide_keeps_the_contract_but_for_listings() {
    let bao = Bao::with_kv(KvVersion::V1).await;
    let login = bao.approle(GUIDE_POLICY, "5m").await;
    let config = quick(VaultConfig { login, ..bao.config(KvVersion::V1) });
    let store = kms_vault::open(config.clone()).unwrap();
    let error = store.list(&ListQuery::prefix("")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    let text = error.chain().to_string();
    assert!(
        text.contains("'list'") && text.contains("'kv/minio/'"),
        "the missing capability is named: {text}"
    );

    let lister = kms_vault::open(quick(bao.config(KvVersion::V1))).unwrap();
    contract::key_store(&Arc::new(ListsElsewhere { store: Arc::clone(&store), lister: Arc::clone(&lister) }))
        .await;
    contract::kms(Arc::new(KeyRing::new(ListsElsewhere { store, lister }, kms_core::CacheConfig::default())))
        .await;
}

async fn check(config: impl Fn(&str) -> VaultConfig) {
    contract::key_store(&Arc::new(kms_vault::open(config("store")).unwrap())).await;
    let store = kms_vault::open(config("deep/er")).unwrap();
    let forgetting = Arc::new(KeyRing::new(store, kms_core::CacheConfig::default()));
    let keeping = |prefix| {
        let store = kms_vault::open(config(prefix)).unwrap();
        let uncached = kms_core::CacheConfig::default().with_any(Duration::ZERO);
        Arc::new(KeyRing::keeping_deleted(store, uncached, Duration::from_secs(3600)))
    };
    tokio::join!(
        contract::kms(forgetting),
        contract::kms(keeping("keeps")),
        contract::deletions(keeping("two"), keeping("two")),
    );
}

/// Shortens the waits of K/V version 1. A Vault on this machine is fast enough for that.
pub fn quick(config: VaultConfig) -> VaultConfig {
    VaultConfig { write_deadline: Duration::from_millis(60), settle: Duration::from_millis(150), ..config }
}

/// A store that takes its listings from another one.
struct ListsElsewhere {
    store: Arc<dyn KeyStore>,
    lister: Arc<dyn KeyStore>,
}

#[async_trait]
impl KeyStore for ListsElsewhere {
    fn capabilities(&self) -> StoreCapabilities {
        self.store.capabilities()
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        self.store.create(name, record).await
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        self.store.get(name).await
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.store.delete(name).await
    }

    async fn restore(&self, name: &EntryName) -> Result<()> {
        self.store.restore(name).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.lister.list(query).await
    }

    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        self.lister.segments(directory).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.store.status().await
    }
}
