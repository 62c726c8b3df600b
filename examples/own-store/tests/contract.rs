//! The contract suite over the store.

use std::sync::Arc;

use kms_core::{CacheConfig, KeyRing, contract};
use own_store::LogStore;

#[tokio::test(flavor = "multi_thread")]
async fn passes_the_contract_suite() {
    let dir = std::env::temp_dir().join(format!("own-store-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    contract::key_store(&Arc::new(LogStore::open(&dir.join("entries.log")).unwrap())).await;
    contract::kms(Arc::new(KeyRing::new(
        LogStore::open(&dir.join("keys.log")).unwrap(),
        CacheConfig::default(),
    )))
    .await;
    std::fs::remove_dir_all(&dir).unwrap();
}
