//! The primary is killed, and the synchronous standby takes its place.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kms_core::store::KeyStore;
use kms_core::{CacheConfig, Client, ErrorKind, Identity, KeyRing, Result};
use kms_postgres::PostgresConfig;
use kms_tests::postgres::{Postgres, config};
use kms_tests::programs::until;

use super::common::{bytes, entry, key, open, until_it_works};

const WRITERS: usize = 16;
/// Clients of keys that were made before.
const USERS: usize = 64;
const USED_KEYS: usize = 8;
/// The environment variable with the number of rounds.
const ROUNDS: &str = "KMS_TEST_PG_FAILOVERS";

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stdout, reason = "the figures of the test")]
async fn no_acknowledged_key_is_lost_when_the_primary_is_killed() {
    let rounds: u32 = std::env::var(ROUNDS).map_or(2, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        let (acknowledged, served, back) = fail_over().await;
        println!(
            "round {round}: {acknowledged} keys were acknowledged, {served} data keys were made and opened, writes were back \
             after {back:?}"
        );
        assert!(back < Duration::from_secs(10), "writes were back after {back:?}");
    }
}

/// Runs one round. Returns how many keys were acknowledged, how many data keys were made, and when writes were back after the
/// promotion.
async fn fail_over() -> (usize, usize, Duration) {
    let mut primary = Postgres::start().await;
    let standby = primary.standby("spare").await;
    primary.set("synchronous_standby_names", "spare");
    let attached = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    until("the standby is synchronous", async || primary.sql(attached) == "1").await;

    let both = PostgresConfig { pool: 32, ..config(&[primary.port(), standby.port()]) };
    let store = open(both.clone());
    let shared = Arc::new(Shared::default());
    let clients = clients(&both).await;
    let users: Vec<_> =
        (0..USERS).map(|user| tokio::spawn(Arc::clone(&shared).uses(clients.clone(), user))).collect();
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
    let mut served = 0;
    for user in users {
        served += user.await.unwrap();
    }
    let (fresh, acknowledged) = (open(both), shared.acknowledged.lock().unwrap().clone());
    for (name, content) in &acknowledged {
        let read = fresh.get(&entry(name)).await;
        let read = read.unwrap_or_else(|error| panic!("{name} was acknowledged: {error:?}"));
        assert!(read == bytes(content), "{name} has another record");
    }
    (acknowledged.len(), served, back)
}

/// Makes keys in a key ring that asks for each of them again five times a second.
async fn clients(config: &PostgresConfig) -> Client {
    let any = Duration::from_millis(200);
    let cache = CacheConfig::new().with_any(any).with_unused(any).with_offline(Duration::from_secs(60));
    let client = KeyRing::new(open(config.clone()), cache).client(Identity::of_program("a test"));
    for number in 0..USED_KEYS {
        let name = key(&format!("used-{number}"));
        client.create(&name).await.unwrap();
        client.generate(&name, b"").await.unwrap();
    }
    client
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

    /// Makes and opens data keys under a key in memory, which never fails. Returns how many.
    async fn uses(self: Arc<Self>, client: Client, user: usize) -> usize {
        let name = key(&format!("used-{}", user % USED_KEYS));
        let mut count = 0;
        while !self.is_over() {
            let made = client.generate(&name, b"context").await;
            let made = made.unwrap_or_else(|error| panic!("{name} was in memory: {error:?}"));
            let opened = client.decrypt(&name, &made.ciphertext, b"context").await;
            let opened = opened.unwrap_or_else(|error| panic!("{name} was in memory: {error:?}"));
            assert!(opened.expose() == made.plaintext.expose().as_slice(), "{name} opened something else");
            count += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        count
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
