//! Sixteen processes create the same keys at the same time.

use std::collections::BTreeMap;
use std::time::Duration;

use kms_core::Kms;
use kms_tests::bao::{Bao, GUIDE_POLICY, LEAST_POLICY};
use kms_tests::racers;
use kms_vault::{AppRole, KvVersion, Login, Secret, SecretSource, VaultConfig};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::common::{key, request, ring};

const PROCESSES: usize = 16;
/// Only one race runs at a time.
static TRACK: Mutex<()> = Mutex::const_new(());
/// The environment variable with the settings of the processes that take part.
const RACER: &str = "KMS_TEST_RACER";

#[tokio::test(flavor = "multi_thread")]
async fn on_v2_of_sixteen_processes_exactly_one_wins_each_key() {
    if let Ok(told) = std::env::var(RACER) {
        return take_part(&told).await;
    }
    let rounds = Rounds { count: 1, keys: 50, pause: Duration::ZERO };
    let won =
        race("races::on_v2_of_sixteen_processes_exactly_one_wins_each_key", KvVersion::V2, rounds).await;
    assert_eq!(won.len(), 50, "every key has a winner");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_v1_no_acknowledged_key_ever_changes() {
    if let Ok(told) = std::env::var(RACER) {
        return take_part(&told).await;
    }
    let rounds = Rounds { count: 10, keys: 20, pause: Duration::from_millis(2500) };
    let won = race("races::on_v1_no_acknowledged_key_ever_changes", KvVersion::V1, rounds).await;
    println!("{} of 200 keys have a winner", won.len());
    assert!(won.len() > 100, "only {} of 200 keys have a winner", won.len());
}

struct Rounds {
    count: u64,
    keys: u64,
    /// The time from the beginning of one round to that of the next.
    pause: Duration,
}

/// Runs a race and returns the acknowledged keys.
///
/// Each key was acknowledged to one process and has not changed since.
async fn race(test: &str, version: KvVersion, rounds: Rounds) -> BTreeMap<String, String> {
    let _track = TRACK.lock().await;
    let bao = Bao::with_kv(version).await;
    let policy = if version == KvVersion::V1 { GUIDE_POLICY } else { LEAST_POLICY };
    let Login::AppRole(AppRole { id, secret: SecretSource::Value(secret), .. }) =
        bao.approle(policy, "5m").await
    else {
        unreachable!()
    };
    let told = json!({
        "endpoint": bao.endpoint(), "id": id, "secret": secret.expose(), "v1": version == KvVersion::V1,
        "rounds": rounds.count, "keys": rounds.keys, "pause": rounds.pause.as_millis(),
    });
    let won = racers::race(test, RACER, std::iter::repeat_n(told.to_string(), PROCESSES)).await;
    let kms = ring(bao.config(version), kms_core::CacheConfig::default());
    for (name, fingerprint) in &won {
        let stored = patiently(async || kms.describe(&request(), &key(name)).await).await;
        let stored = stored.fingerprint.unwrap();
        assert_eq!(hex::encode(stored.as_bytes()), *fingerprint, "{name} changed after it was acknowledged");
    }
    won
}

async fn take_part(told: &str) {
    let told: Value = serde_json::from_str(told).unwrap();
    let (text, number) =
        (|field: &str| told[field].as_str().unwrap(), |field: &str| told[field].as_u64().unwrap());
    let version = if told["v1"] == true { KvVersion::V1 } else { KvVersion::V2 };
    let login = Login::AppRole(AppRole::new(text("id"), Secret::from(text("secret"))));
    let config = VaultConfig {
        version,
        prefix: "minio".to_owned(),
        timeout: Duration::from_secs(12),
        ..VaultConfig::new(text("endpoint"), login)
    };
    let kms = ring(config, kms_core::CacheConfig::default());
    kms.status().await.unwrap();
    racers::ready().await;
    let start = Instant::now();
    for round in 0..number("rounds") {
        tokio::time::sleep_until(start + Duration::from_millis(round * number("pause"))).await;
        let creates: Vec<_> = (0..number("keys"))
            .map(|n| {
                let (kms, name) = (kms.clone(), format!("race-{round}-{n}"));
                tokio::spawn(async move { kms.create(&request(), &key(&name)).await.map(|()| name) })
            })
            .collect();
        for create in creates {
            if let Ok(name) = create.await.unwrap() {
                let fingerprint = patiently(async || kms.describe(&request(), &key(&name)).await).await;
                let fingerprint = fingerprint.fingerprint.unwrap();
                racers::won(&name, &hex::encode(fingerprint.as_bytes()));
            }
        }
    }
}

/// Repeats a request while the store is not available. Sixteen processes and a Vault are a lot for a small
/// machine.
async fn patiently<T>(ask: impl AsyncFn() -> kms_core::Result<T>) -> T {
    for _ in 0..10 {
        match ask().await {
            Err(error) if error.kind().is_outage() => tokio::time::sleep(Duration::from_millis(500)).await,
            outcome => return outcome.unwrap(),
        }
    }
    panic!("no answer")
}
