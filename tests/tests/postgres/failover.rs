//! The primary is killed, and the synchronous standby takes its place.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kms_core::store::KeyStore;
use kms_core::{ErrorKind, Result};
use kms_postgres::PostgresConfig;
use kms_tests::postgres::{Postgres, config};
use kms_tests::programs::until;

use super::common::{bytes, entry, open, until_it_works};

const WRITERS: usize = 16;
/// The environment variable with the number of rounds.
const ROUNDS: &str = "KMS_TEST_PG_FAILOVERS";

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stdout, reason = "the figures of the test")]
async fn no_acknowledged_key_is_lost_when_the_primary_is_killed() {
    let rounds: u32 = std::env::var(ROUNDS).map_or(2, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        let (acknowledged, back) = fail_over().await;
        println!("round {round}: {acknowledged} keys were acknowledged, writes were back after {back:?}");
        assert!(back < Duration::from_secs(10), "writes were back after {back:?}");
    }
}

/// Runs one round. Returns how many keys were acknowledged, and when writes were back after the promotion.
async fn fail_over() -> (usize, Duration) {
    let mut primary = Postgres::start().await;
    let standby = primary.standby("spare").await;
    primary.set("synchronous_standby_names", "spare");
    let attached = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    until("the standby is synchronous", async || primary.sql(attached) == "1").await;

    let both = PostgresConfig { pool: 32, ..config(&[primary.port(), standby.port()]) };
    let store = open(both.clone());
    let shared = Arc::new(Shared::default());
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, shared) = (store.clone(), Arc::clone(&shared));
            tokio::spawn(async move { shared.write(&*store, writer).await })
        })
        .collect();
    let reader = tokio::spawn({
        let (store, shared) = (store.clone(), Arc::clone(&shared));
        async move { shared.read(&*store).await }
    });
    until("creates are under way", async || shared.count.load(Ordering::Relaxed) > 100).await;
    primary.kill();
    tokio::time::sleep(Duration::from_millis(300)).await;
    standby.promote();
    let promoted = Instant::now();
    let probe = AtomicUsize::new(0);
    let ((), back) = until_it_works(Duration::from_secs(20), async || {
        let name = format!("probe-{}", probe.fetch_add(1, Ordering::Relaxed));
        store.create(&entry(&name), &bytes(&name)).await
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1).saturating_sub(promoted.elapsed())).await;
    shared.is_over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    reader.await.unwrap();
    let (fresh, acknowledged) = (open(both), shared.acknowledged.lock().unwrap().clone());
    for (name, content) in &acknowledged {
        let read = fresh.get(&entry(name)).await;
        let read = read.unwrap_or_else(|error| panic!("{name} was acknowledged: {error:?}"));
        assert!(read == bytes(content), "{name} has another record");
    }
    (acknowledged.len(), back)
}

#[derive(Default)]
struct Shared {
    acknowledged: Mutex<BTreeMap<String, String>>,
    count: AtomicUsize,
    is_over: AtomicBool,
}

impl Shared {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    async fn write(&self, store: &dyn KeyStore, writer: usize) {
        for number in 0.. {
            if self.is_over() {
                return;
            }
            let (name, content) = (format!("key-{writer}-{number}"), format!("record {writer} {number}"));
            if is_kept(store.create(&entry(&name), &bytes(&content)).await) {
                self.acknowledged.lock().unwrap().insert(name, content);
                self.count.fetch_add(1, Ordering::Relaxed);
            } else {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Reads keys that were acknowledged. None of them is ever absent.
    async fn read(&self, store: &dyn KeyStore) {
        while !self.is_over() {
            let newest = self
                .acknowledged
                .lock()
                .unwrap()
                .iter()
                .next_back()
                .map(|(name, text)| (name.clone(), text.clone()));
            if let Some((name, text)) = newest {
                match store.get(&entry(&name)).await {
                    Ok(found) => assert!(found == bytes(&text), "{name}"),
                    Err(error) => assert!(error.kind().is_outage(), "{name} was acknowledged: {error:?}"),
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Returns whether a create was acknowledged. An outage is a right answer, a wrong one is not.
fn is_kept(outcome: Result<()>) -> bool {
    match outcome {
        Ok(()) => true,
        Err(error) => {
            let right = error.kind().is_outage() || error.kind() == ErrorKind::ReadOnly;
            assert!(right, "{error:?}");
            false
        }
    }
}
