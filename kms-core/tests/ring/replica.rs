//! While a replica answers, it says of nothing that it is absent.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kms_core::store::{EntryName, KeyStore, MemoryStore};
use kms_core::{ErrorKind, KeyName, Kms};

use super::scripted::{LONG, kind, name, request};
use super::shared::{
    Ring, amiss, create, deaf, delete, entry, fingerprint, import, open, seal, server, until,
};

fn becomes_replica(ring: &Ring, is_one: bool) {
    ring.store().is_replica.store(is_one, Ordering::SeqCst);
}

#[tokio::test]
async fn a_cold_key_of_a_replica_is_served_and_a_missing_one_is_no_absence() {
    let store = Arc::new(MemoryStore::noting());
    let made = create(&deaf(&store, LONG)).await;
    let ring = deaf(&store, LONG);
    becomes_replica(&ring, true);
    let sealed = seal(&ring).await.unwrap();
    assert_eq!(open(&ring, &sealed).await.unwrap().expose(), b"text");
    assert_eq!(fingerprint(&ring).await.unwrap(), made);
    let missing = ring.generate(&request("client"), &KeyName::new("missing").unwrap(), b"").await;
    assert_eq!(kind(missing), Some(ErrorKind::Behind));
    assert!(ring.status().await.unwrap().reachable, "a replica is no outage");
}

#[tokio::test]
async fn a_key_whose_mark_a_replica_has_is_deleted_whether_it_is_in_memory_or_not() {
    let store = Arc::new(MemoryStore::noting());
    let operator = server(&store, LONG, Duration::from_secs(3600));
    create(&operator).await;
    let short = Duration::from_millis(50);
    let warm = deaf(&store, LONG.with_any(short).with_unused(short).with_offline(Duration::from_secs(3600)));
    seal(&warm).await.unwrap();
    becomes_replica(&warm, true);
    delete(&operator).await.unwrap();
    tokio::time::sleep(short * 2).await;
    assert_eq!(kind(seal(&warm).await), Some(ErrorKind::Deleted));
    let cold = deaf(&store, LONG);
    becomes_replica(&cold, true);
    assert_eq!(kind(seal(&cold).await), Some(ErrorKind::Deleted));
}

#[tokio::test]
async fn what_does_not_open_under_a_key_of_a_replica_is_no_answer() {
    let store = Arc::new(MemoryStore::noting());
    let operator = deaf(&store, LONG.with_any(Duration::ZERO));
    let first = create(&operator).await;
    operator.rotate(&request("operator"), &name(), None).await.unwrap();
    let newer = seal(&operator).await.unwrap();
    store.lose(&EntryName::version(&name(), &first, 2)).unwrap();
    let ring = deaf(&store, LONG);
    becomes_replica(&ring, true);
    let older = seal(&ring).await.unwrap();
    assert_eq!(open(&ring, &older).await.unwrap().expose(), b"text");
    for ciphertext in [newer.as_slice(), b"no ciphertext at all, and long enough to be one"] {
        assert_eq!(kind(open(&ring, ciphertext).await), Some(ErrorKind::Behind));
    }
    becomes_replica(&ring, false);
    assert_eq!(kind(open(&ring, &newer).await), Some(ErrorKind::NotAuthentic));
}

#[tokio::test]
async fn a_former_key_of_a_replica_takes_the_place_of_no_newer_one() {
    let store = Arc::new(MemoryStore::noting());
    let short = Duration::from_millis(50);
    let offline = LONG.with_any(short).with_unused(short).with_offline(Duration::from_secs(3600));
    let ring = deaf(&store, offline);
    import(&ring, 1).await.unwrap();
    let (former, record) = (fingerprint(&ring).await.unwrap(), store.bytes(&entry()).unwrap());
    delete(&ring).await.unwrap();
    import(&ring, 2).await.unwrap();
    let newer = fingerprint(&ring).await.unwrap();
    // The replica is where the store was before the delete.
    becomes_replica(&ring, true);
    store.lose(&entry()).unwrap();
    store.lose(&EntryName::gone(&name(), &former)).unwrap();
    store.create(&entry(), &record).await.unwrap();
    for _ in 0..5 {
        tokio::time::sleep(short).await;
        assert_eq!(fingerprint(&ring).await.unwrap(), newer, "the offline copy is served");
    }
}

#[tokio::test]
async fn a_lost_key_that_a_replica_has_stays_lost() {
    let store = Arc::new(MemoryStore::noting());
    let short = Duration::from_millis(50);
    let ring = deaf(&store, LONG.with_any(short).with_unused(short));
    create(&ring).await;
    let record = store.bytes(&entry()).unwrap();
    store.lose(&entry()).unwrap();
    until("the loss is told", async || {
        seal(&ring).await.unwrap();
        amiss(&ring).await.contains("lost 1 key")
    })
    .await;
    becomes_replica(&ring, true);
    store.create(&entry(), &record).await.unwrap();
    for _ in 0..5 {
        seal(&ring).await.unwrap();
        tokio::time::sleep(short).await;
    }
    assert!(amiss(&ring).await.contains("lost 1 key"), "{}", amiss(&ring).await);
    becomes_replica(&ring, false);
    until("the key is there again", async || seal(&ring).await.is_ok() && amiss(&ring).await.is_empty())
        .await;
}
