//! Reads of the store: how many there are, and when the cache needs one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kms_core::primitives::{Cipher, SealingKey};
use kms_core::store::{EntryName, KeyStore};
use kms_core::{ErrorKind, Identity, KeyName, Kms, Request};

use super::scripted::{LONG, SECOND, generate, name, request, ring};

#[tokio::test]
async fn many_misses_of_a_key_are_one_read() {
    let (store, kms) = ring(LONG).await;
    store.block();
    let requests: Vec<_> = (0..100).map(|n| tokio::spawn(generate(&kms, &format!("client {n}")))).collect();
    store.until_reads(1).await;
    store.release();
    for outcome in requests {
        outcome.await.unwrap().unwrap();
    }
    assert_eq!(store.reads(), 1);
    generate(&kms, "client").await.unwrap();
    assert_eq!(store.reads(), 1, "and a hit is none");
}

#[tokio::test]
async fn that_a_key_is_absent_is_never_remembered() {
    let (store, kms) = ring(LONG).await;
    let absent = KeyName::new("absent").unwrap();
    assert_eq!(
        kms.generate(&request("client"), &absent, b"").await.err().map(|e| e.kind()),
        Some(ErrorKind::NotFound)
    );
    store.put(&absent).await;
    kms.generate(&request("client"), &absent, b"").await.expect("another server made the key meanwhile");
}

#[tokio::test]
async fn a_key_made_anew_elsewhere_is_found_by_what_does_not_open() {
    let (store, kms) = ring(LONG).await;
    generate(&kms, "client").await.unwrap();
    store.inner.delete(&EntryName::from(&name())).await.unwrap();
    let key = store.put(&name()).await;
    let sealed = SealingKey::new(key, Cipher::Aes256).seal(b"text", b"").unwrap();
    let opened = kms.decrypt(&request("client"), &name(), &sealed, b"").await.expect("the new key opens it");
    assert!(opened.expose() == b"text");
}

#[tokio::test]
async fn rereads_for_garbage_are_few_and_say_not_authentic_only_when_it_is_so() {
    let (store, kms) = ring(LONG).await;
    generate(&kms, "client").await.unwrap();
    let began = Instant::now();
    let garbage: Vec<_> = (0..200)
        .map(|_| {
            let kms = Arc::clone(&kms);
            tokio::spawn(async move {
                let request = Request::new(Identity::of_public_key(b"client"), Duration::from_secs(10));
                kms.decrypt(&request, &name(), &[0; 76], b"").await.err().map(|error| error.kind())
            })
        })
        .collect();
    for outcome in garbage {
        assert_eq!(outcome.await.unwrap(), Some(ErrorKind::NotAuthentic));
    }
    let allowed = 1 + 10 * (1 + began.elapsed().as_secs());
    assert!(store.reads() <= allowed, "{} reads, {allowed} allowed", store.reads());

    store.fail(ErrorKind::Unreachable);
    let refused = kms.decrypt(&request("client"), &name(), &[0; 76], b"").await;
    assert_eq!(
        refused.err().map(|e| e.kind()),
        Some(ErrorKind::Unreachable),
        "the key may have been made anew"
    );
}

#[tokio::test]
async fn reads_are_bounded_in_all_and_for_each_client() {
    let (store, kms) = ring(LONG).await;
    store.block();
    let ask = |client: usize, keys: usize| {
        let kms = &kms;
        (0..keys).map(move |n| {
            let (kms, key) = (Arc::clone(kms), KeyName::new(format!("k-{client}-{n}")).unwrap());
            tokio::spawn(async move { kms.describe(&request(&format!("client {client}")), &key).await.err() })
        })
    };
    let mut requests: Vec<_> = ask(0, 100).collect();
    store.until_reads(16).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(store.reads(), 16, "one client has 16 reads in flight");
    requests.extend((1..10).flat_map(|client| ask(client, 100)));
    store.until_reads(64).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(store.reads(), 64, "all clients together have 64");
    store.release();
    for outcome in requests {
        assert_eq!(outcome.await.unwrap().map(|error| error.kind()), Some(ErrorKind::NotFound));
    }
    assert!(store.most_at_once.load(Ordering::Relaxed) <= 64);
}

#[tokio::test]
async fn a_slow_store_holds_up_no_cached_key() {
    let (store, kms) = ring(LONG).await;
    generate(&kms, "client").await.unwrap();
    store.block();
    let waiting: Vec<_> = (0..200)
        .map(|n| {
            let kms = Arc::clone(&kms);
            tokio::spawn(async move {
                kms.describe(&request("client"), &KeyName::new(format!("k{n}")).unwrap()).await
            })
        })
        .collect();
    store.until_reads(17).await;
    let request = tokio::time::timeout(Duration::from_millis(100), generate(&kms, "client"));
    request.await.expect("a cached key waited for the store").unwrap();
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    store.release();
}

#[tokio::test]
async fn a_request_ends_at_its_deadline() {
    let (store, kms) = ring(LONG).await;
    store.block();
    let request = Request::new(Identity::of_public_key(b"client"), Duration::from_millis(100));
    let began = Instant::now();
    let outcome = kms.generate(&request, &name(), b"").await;
    assert_eq!(outcome.err().map(|e| e.kind()), Some(ErrorKind::Timeout));
    assert!(began.elapsed() < SECOND);
    store.release();
}
