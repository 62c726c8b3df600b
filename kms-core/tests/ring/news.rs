//! What a shared store tells is acted on at once, and what it does not tell is found as before.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyStore, MemoryStore};
use kms_core::{ErrorKind, KeyName, KeyRing, Kms, Purge, contract};

use super::scripted::{LONG, kind, name, request};
use super::shared::{amiss, create, deaf, delete, entry, fingerprint, open, seal, server, until};

const GRACE: Duration = Duration::from_secs(3600);
/// All that is cached here stays for ten minutes. So what goes sooner went because of a notice.
const SOON: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_deleted_key_is_refused_on_every_server_at_once() {
    for grace in [Duration::ZERO, GRACE] {
        let store = Arc::new(MemoryStore::noting());
        let servers = [(); 3].map(|()| server(&store, LONG, grace));
        create(&servers[0]).await;
        for server in &servers {
            seal(server).await.unwrap();
        }
        delete(&servers[1]).await.unwrap();
        let expected = if grace.is_zero() { ErrorKind::NotFound } else { ErrorKind::Deleted };
        for server in &servers {
            let took = until("refused", async || kind(seal(server).await) == Some(expected)).await;
            assert!(took < SOON, "{took:?} with a grace of {grace:?}");
            assert_eq!(amiss(server).await, "", "a deletion is no loss");
        }
    }
}

#[tokio::test]
async fn a_restored_and_a_purged_key_are_seen_at_once() {
    let store = Arc::new(MemoryStore::noting());
    let config = LONG.with_any(Duration::from_millis(300));
    let (one, other) = (server(&store, config, GRACE), server(&store, LONG, GRACE));
    create(&one).await;
    let sealed = seal(&other).await.unwrap();
    delete(&one).await.unwrap();
    until("deleted", async || kind(open(&other, &sealed).await) == Some(ErrorKind::Deleted)).await;
    one.restore(&request("operator"), &name(), false).await.unwrap();
    until("restored", async || open(&other, &sealed).await.is_ok()).await;
    delete(&one).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    let now = Purge { now: true, ..Purge::default() };
    one.purge(&request("operator"), &name(), &now).await.unwrap();
    until("purged", async || kind(open(&other, &sealed).await) == Some(ErrorKind::NotFound)).await;
    assert_eq!(amiss(&other).await, "");
}

#[tokio::test]
async fn a_retired_version_is_refused_at_once() {
    let store = Arc::new(MemoryStore::noting());
    let config = LONG.with_any(Duration::from_millis(200));
    let (one, other) = (server(&store, config, GRACE), server(&store, LONG, GRACE));
    create(&one).await;
    let sealed = seal(&one).await.unwrap();
    one.rotate(&request("operator"), &name(), None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    open(&other, &sealed).await.unwrap();
    one.retire(&request("operator"), &name(), 1).await.unwrap();
    let took = until("refused", async || open(&other, &sealed).await.is_err()).await;
    assert!(took < SOON, "{took:?}");
    one.enable(&request("operator"), &name(), 1).await.unwrap();
    until("enabled", async || open(&other, &sealed).await.is_ok()).await;
}

#[tokio::test]
async fn a_notice_never_means_that_a_key_is_deleted_and_wakes_no_key_that_is_not_in_memory() {
    let store = Arc::new(MemoryStore::noting());
    let (one, other) = (server(&store, LONG, GRACE), server(&store, LONG, GRACE));
    create(&one).await;
    let before = other.store().reads.load(Ordering::SeqCst);
    let marker = EntryName::deleted(&name(), &fingerprint(&one).await.unwrap());
    store.create(&marker, &SecretBytes::from(b"made by somebody else".as_slice())).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    seal(&one).await.unwrap();
    assert_eq!(other.store().reads.load(Ordering::SeqCst), before, "it has no such key in memory");
}

#[tokio::test]
async fn a_read_that_began_before_a_deletion_does_not_keep_the_key() {
    let store = Arc::new(MemoryStore::noting());
    let (one, other) = (server(&store, LONG, Duration::ZERO), server(&store, LONG, Duration::ZERO));
    create(&one).await;
    // The cold read of the other server is under way when the key goes.
    *other.store().takes.lock().unwrap() = Duration::from_millis(30);
    let read = tokio::spawn({
        let other = Arc::clone(&other);
        async move { seal(&other).await }
    });
    tokio::time::sleep(Duration::from_millis(35)).await;
    delete(&one).await.unwrap();
    let _ = read.await.unwrap();
    *other.store().takes.lock().unwrap() = Duration::ZERO;
    until("refused", async || kind(seal(&other).await) == Some(ErrorKind::NotFound)).await;
}

#[tokio::test]
async fn after_missed_changes_every_cached_key_is_read_again_at_a_bounded_rate() {
    const KEYS: usize = 100;
    let store = Arc::new(MemoryStore::noting());
    let (one, other) = (deaf(&store, LONG), server(&store, LONG, Duration::ZERO));
    let names: Vec<_> = (0..KEYS).map(|n| KeyName::new(format!("key-{n}")).unwrap()).collect();
    for name in &names {
        one.create(&request("client"), name).await.unwrap();
        other.generate(&request("client"), name, b"").await.unwrap();
    }
    // Nobody tells of this one.
    let gone = EntryName::from(&names[50]);
    let first = one.describe(&request("client"), &names[50]).await.unwrap().fingerprint.unwrap();
    let note = SecretBytes::from(b"{}".as_slice());
    store.lose(&gone).unwrap();
    store.create(&EntryName::gone(&names[50], &first), &note).await.unwrap();
    let before = other.store().reads.load(Ordering::SeqCst);
    let began = Instant::now();
    store.tell_missed();
    // Service goes on meanwhile.
    for name in &names[..10] {
        other.generate(&request("client"), name, b"").await.unwrap();
    }
    let read = || other.store().reads.load(Ordering::SeqCst) - before;
    until("all are read again", async || read() >= KEYS).await;
    assert!(began.elapsed() >= Duration::from_millis(5) * 95, "at most 200 a second: {:?}", began.elapsed());
    let gone = async || kind(other.generate(&request("client"), &names[50], b"").await);
    until("the deleted one is refused", async || gone().await == Some(ErrorKind::NotFound)).await;
    other.generate(&request("client"), &names[49], b"").await.unwrap();
}

#[tokio::test]
async fn without_notices_the_bounds_are_what_they_were() {
    let store = Arc::new(MemoryStore::noting());
    let any = Duration::from_millis(400);
    let (one, other) = (server(&store, LONG, Duration::ZERO), deaf(&store, LONG.with_any(any)));
    create(&one).await;
    seal(&other).await.unwrap();
    delete(&one).await.unwrap();
    seal(&other).await.unwrap();
    let took = until("refused", async || kind(seal(&other).await) == Some(ErrorKind::NotFound)).await;
    assert!(took <= any + Duration::from_millis(300), "{took:?}");
}

#[tokio::test]
async fn a_notice_while_the_store_fails_is_made_up_for() {
    let store = Arc::new(MemoryStore::noting());
    let (one, other) = (server(&store, LONG, GRACE), server(&store, LONG, GRACE));
    create(&one).await;
    seal(&other).await.unwrap();
    *other.store().fails.lock().unwrap() = Some(("", ErrorKind::Unreachable));
    delete(&one).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    seal(&other).await.expect("an outage deletes nothing");
    *other.store().fails.lock().unwrap() = None;
    until("refused", async || kind(seal(&other).await) == Some(ErrorKind::Deleted)).await;
}

#[tokio::test]
async fn the_listener_ends_with_the_key_ring() {
    let store = Arc::new(MemoryStore::noting());
    let ring = KeyRing::new(Arc::clone(&store), LONG);
    ring.create(&request("client"), &name()).await.unwrap();
    drop(ring);
    until("only the test has the store", async || Arc::strong_count(&store) == 1).await;
    store.delete(&entry()).await.unwrap();
}

#[tokio::test]
async fn a_store_in_memory_keeps_the_contract_of_shared_stores() {
    for store in [MemoryStore::noting(), MemoryStore::new()] {
        let store = Arc::new(store);
        contract::key_store(&store).await;
        contract::shared_store(&store, &store).await;
    }
    let ring = |store| Arc::new(KeyRing::keeping_deleted(store, LONG.with_any(Duration::ZERO), GRACE));
    let store = Arc::new(MemoryStore::noting());
    contract::kms(Arc::new(KeyRing::new(Arc::new(MemoryStore::noting()), LONG))).await;
    contract::kms(ring(Arc::new(MemoryStore::noting()))).await;
    contract::deletions(ring(Arc::clone(&store)), ring(store)).await;
}
