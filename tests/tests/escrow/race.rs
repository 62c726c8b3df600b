//! Two servers with an escrow file each create the same keys in one OpenBao at the same time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kms_core::store::{EntryName, KeyStore};
use kms_core::transfer::StoredKey;
use kms_core::{CacheConfig, ErrorKind, Identity, KeyName, KeyRing, Kms, Request};
use kms_server::escrow;
use kms_server::settings::EscrowFailure;
use kms_tests::bao::Bao;
use kms_tests::escrow::EscrowKey;
use kms_vault::{KvVersion, VaultConfig};

const KEYS: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn on_v2_a_restore_from_both_files_brings_the_winner_of_each_race() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    assert_eq!(race(bao.config(KvVersion::V2)).await, KEYS, "each key has a winner");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_v1_a_restore_from_both_files_brings_the_winner_of_each_race() {
    let bao = Bao::with_kv(KvVersion::V1).await;
    let won = race(VaultConfig { timeout: Duration::from_secs(12), ..bao.config(KvVersion::V1) }).await;
    println!("{won} of {KEYS} keys have a winner");
}

/// Runs the race, and returns the number of acknowledged keys.
async fn race(config: VaultConfig) -> usize {
    let (key, dir) = (EscrowKey::new(), tempfile::tempdir().unwrap());
    let files: Vec<PathBuf> = ["one", "two"].map(|name| dir.path().join(name)).to_vec();
    let rings: Vec<Arc<KeyRing<_>>> = files
        .iter()
        .map(|file| {
            let store = kms_vault::open(config.clone()).unwrap();
            let settings = key.settings(file, EscrowFailure::Refuse);
            let (escrowed, _) = escrow::open(&settings, store).unwrap();
            Arc::new(KeyRing::new(escrowed as Arc<dyn KeyStore>, CacheConfig::default()))
        })
        .collect();
    let name = |n: usize| KeyName::new(format!("race-{n}")).unwrap();
    let mut won = Vec::new();
    for n in 0..KEYS {
        let creates = rings.iter().map(|ring| {
            let (ring, name) = (Arc::clone(ring), name(n));
            let request = Request::new(Identity::of_public_key(b"test"), Duration::from_secs(15));
            tokio::spawn(async move { ring.create(&request, &name).await })
        });
        let mut winners = 0;
        for create in creates.collect::<Vec<_>>() {
            match create.await.unwrap() {
                Ok(()) => winners += 1,
                Err(error) => assert_ne!(error.kind(), ErrorKind::ReadOnly, "{error:?}"),
            }
        }
        assert!(winners <= 1, "{} was acknowledged twice", name(n));
        won.extend((winners == 1).then(|| name(n)));
    }
    // A kill loses nothing: the files are read while the servers have them open.
    let found = key.read(&files);
    assert_eq!(found.flaws, []);
    let store = kms_vault::open(config).unwrap();
    for name in &won {
        let stored = store.get(&EntryName::from(name)).await.unwrap();
        assert!(
            found.keys[name.as_str()] == stored.expose(),
            "{name}: escrow has another record than the store"
        );
        let stored = StoredKey::read(&store, name).await.unwrap();
        assert_eq!(found.fingerprints[name.as_str()], hex::encode(stored.fingerprint().as_bytes()));
    }
    won.len()
}
