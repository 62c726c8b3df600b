//! The time for which a key is in memory.

use std::time::{Duration, Instant};

use kms_core::ErrorKind;
use kms_core::store::{EntryName, KeyStore};

use super::scripted::{LONG, SECOND, generate, kind, name, ring, until};

#[tokio::test]
async fn use_does_not_extend_the_life_of_a_key() {
    let config = LONG.with_any(Duration::from_millis(400));
    let (store, kms) = ring(config).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        generate(&kms, "client").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.inner.delete(&EntryName::from(&name())).await.unwrap();
    let deleted = Instant::now();
    until(|| async { kind(generate(&kms, "client").await) == Some(ErrorKind::NotFound) }).await;
    assert!(deleted.elapsed() < SECOND, "a key deleted elsewhere ended after {:?}", deleted.elapsed());
}

#[tokio::test]
async fn a_key_in_use_is_renewed_in_the_background() {
    let config = LONG.with_any(SECOND);
    let (store, kms) = ring(config).await;
    generate(&kms, "client").await.unwrap();
    store.block();
    // The renewal hangs in the store. No request waits for it as long as the key may be used.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(900) {
        let request = tokio::time::timeout(Duration::from_millis(50), generate(&kms, "client"));
        request.await.expect("a hit waited for the store").unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(store.reads(), 2, "one renewal began");
    store.release();
    until(|| async { kms.counters().reads >= 2 }).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let request = tokio::time::timeout(Duration::from_millis(50), generate(&kms, "client"));
    request.await.expect("a renewed key is there after the first one's end").unwrap();
}

#[tokio::test]
async fn a_key_that_nobody_uses_goes() {
    let config = LONG.with_unused(Duration::from_millis(200));
    let (store, kms) = ring(config).await;
    generate(&kms, "client").await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    generate(&kms, "client").await.unwrap();
    assert_eq!(store.reads(), 2);
}
