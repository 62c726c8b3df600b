//! Sixteen processes create the same keys at the same time.

use std::time::Duration;

use kms_core::ErrorKind;
use kms_tests::postgres::{Postgres, config};
use kms_tests::racers;
use serde_json::{Value, json};

use super::common::{bytes, entry, open};

const PROCESSES: u64 = 16;
const KEYS: u64 = 50;
/// The environment variable with the settings of the processes that take part.
const RACER: &str = "KMS_TEST_PG_RACER";
/// The environment variable with the number of rounds.
const ROUNDS: &str = "KMS_TEST_PG_ROUNDS";

#[tokio::test(flavor = "multi_thread")]
async fn of_sixteen_processes_exactly_one_wins_each_key() {
    if let Ok(told) = std::env::var(RACER) {
        return take_part(&told).await;
    }
    let rounds: u64 = std::env::var(ROUNDS).map_or(4, |rounds| rounds.parse().unwrap());
    let server = Postgres::start().await;
    let told = |racer: u64| json!({"port": server.port(), "racer": racer, "rounds": rounds}).to_string();
    let test = "races::of_sixteen_processes_exactly_one_wins_each_key";
    let won = racers::race(test, RACER, (0..PROCESSES).map(told)).await;
    assert_eq!(won.len() as u64, rounds * KEYS, "every key has a winner");
    let store = open(server.config());
    for (name, racer) in won {
        assert!(store.get(&entry(&name)).await.unwrap() == bytes(&racer), "{name} is not its winner's");
    }
}

async fn take_part(told: &str) {
    let told: Value = serde_json::from_str(told).unwrap();
    let number = |field: &str| told[field].as_u64().unwrap();
    let port = u16::try_from(number("port")).unwrap();
    let store = open(kms_postgres::PostgresConfig {
        pool: 4,
        timeout: Duration::from_secs(60),
        write_timeout: Duration::from_secs(60),
        connect_timeout: Duration::from_secs(20),
        ..config(&[port])
    });
    let racer = number("racer");
    racers::ready().await;
    for round in 0..number("rounds") {
        let creates: Vec<_> = (0..KEYS)
            .map(|n| {
                // Each begins elsewhere, so that all meet somewhere.
                let (store, name) = (store.clone(), format!("race-{round}-{}", (n + racer * 3) % KEYS));
                tokio::spawn(
                    async move { (store.create(&entry(&name), &bytes(&racer.to_string())).await, name) },
                )
            })
            .collect();
        for create in creates {
            match create.await.unwrap() {
                (Ok(()), name) => racers::won(&name, &racer.to_string()),
                (Err(error), name) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{name}: {error:?}"),
            }
        }
    }
}
