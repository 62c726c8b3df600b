//! A store in escrow is still a store, and a key ring over it is still a key management service.

use std::sync::Arc;
use std::time::Duration;

use kms_core::store::MemoryStore;
use kms_core::{CacheConfig, KeyRing, Kms, contract};
use kms_server::escrow::{self, Escrowed};
use kms_server::settings::EscrowFailure;
use kms_tests::escrow::EscrowKey;

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_escrow_keeps_the_contract() {
    let (key, dir) = (EscrowKey::new(), tempfile::tempdir().unwrap());
    let open = |name: &str| -> Arc<Escrowed> {
        let settings = key.settings(&dir.path().join(name), EscrowFailure::Refuse);
        escrow::open(&settings, Arc::new(MemoryStore::new())).unwrap().0
    };
    contract::key_store(&open("store")).await;
    let ring: Arc<dyn Kms> = Arc::new(KeyRing::new(open("ring"), CacheConfig::default()));
    contract::kms(ring).await;
    let config = CacheConfig::default().with_any(Duration::ZERO);
    let ring: Arc<dyn Kms> =
        Arc::new(KeyRing::keeping_deleted(open("deletions"), config, Duration::from_secs(3600)));
    contract::deletions(Arc::clone(&ring), ring).await;
}
