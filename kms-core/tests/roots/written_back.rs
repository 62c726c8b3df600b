//! A store that lost its anchor, or the entries of its roots, under a running server.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kms_core::ErrorKind;
use kms_core::roots::{Anchor, Roots};
use kms_core::store::{KeyStore as _, MemoryStore};

use super::mocks::*;

/// Two roots over a store that can lose what it acknowledged.
fn fixture() -> (Arc<MemoryStore>, Arc<Way>, [Arc<Elsewhere>; 2]) {
    let store = memory();
    let way = Way::to(&store);
    way.can_lose.store(true, Ordering::SeqCst);
    (store, way, [Elsewhere::new(1), Elsewhere::new(2)])
}

fn lose(store: &MemoryStore, names: &[&str]) {
    for name in names {
        let entry = if *name == "store" { Anchor::entry() } else { id(name).entry() };
        assert!(store.lose(&entry).is_some(), "{name}");
    }
}

#[tokio::test]
async fn a_running_server_writes_back_what_of_anchor_and_entries_is_lost_and_makes_no_other_key() {
    let both: &[&str] = &["one", "two"];
    for (lost, back) in [
        (&["store", "one", "two"][..], both),
        (&["one", "two"], both),
        (&["store"], both),
        // The other entry opens the store, and one that is gone may have been removed.
        (&["one"], &["two"]),
        (&["store", "one"], &["two"]),
    ] {
        for by_request in [true, false] {
            let (store, way, [one, two]) = fixture();
            let all = [("one", &one), ("two", &two)];
            let running = open(&way, &all).await.unwrap();
            put(&*running.store, "before").await;
            let before = anchor(&store).await;
            lose(&store, lost);
            if by_request {
                put(&*running.store, "after").await;
            } else {
                running.store.try_again().await.unwrap();
                put(&*running.store, "after").await;
            }
            assert_eq!(anchor(&store).await, before, "{lost:?}");
            let there = [back, &["store"]].concat();
            let mut entries = store.segments(".r/").await.unwrap();
            entries.sort_by_key(|entry| entry == "store");
            assert_eq!(entries, there, "{lost:?}");
            // Each root that is there opens all that was made before and after.
            for (name, wrapper) in all.into_iter().filter(|(name, _)| back.contains(name)) {
                let fresh = open(&way, &[(name, wrapper)]).await.unwrap();
                holds(&fresh.store, &["before", "after"]).await;
            }
        }
    }
}

#[tokio::test]
async fn a_store_that_lost_everything_gets_the_key_back_that_the_server_has() {
    let (store, way, [one, two]) = fixture();
    let all = [("one", &one), ("two", &two)];
    let running = open(&way, &all).await.unwrap();
    let before = anchor(&store).await;
    lose(&store, &["store", "one", "two"]);
    // The holder of one root is away meanwhile.
    one.fail(ErrorKind::Unreachable);
    running.store.try_again().await.unwrap();
    assert_eq!(anchor(&store).await, before);
    assert_eq!(store.segments(".r/").await.unwrap(), ["store", "two"]);
    put(&*running.store, "after").await;
    holds(&open(&way, &all[1..]).await.unwrap().store, &["after"]).await;
}

#[tokio::test]
async fn nothing_is_made_that_no_root_could_open_later() {
    for lost in [&["store", "one", "two"][..], &["one", "two"]] {
        let (store, way, [one, two]) = fixture();
        let all = [("one", &one), ("two", &two)];
        let running = open(&way, &all).await.unwrap();
        put(&*running.store, "before").await;
        lose(&store, lost);
        let left = everything(&store).await;
        one.fail(ErrorKind::Sealed);
        two.fail(ErrorKind::Sealed);
        refused(
            running.store.create(&entry("new"), &record("new")).await,
            ErrorKind::ReadOnly,
            &["kms root status"],
        );
        assert_eq!(everything(&store).await, left, "{lost:?}");
        holds(&running.store, &["before"]).await;
        two.fail(None);
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        put(&*running.store, "new").await;
        holds(&open(&way, &all[1..]).await.unwrap().store, &["before", "new"]).await;
    }
}

#[tokio::test]
async fn a_root_that_was_removed_for_another_one_comes_not_back() {
    let (store, way, [one, two]) = fixture();
    let running = open(&way, &[("one", &one)]).await.unwrap();
    put(&*running.store, "before").await;
    let operator: Roots = roots(&way, &[("one", &one), ("two", &two)]);
    operator.add(&id("two")).await.unwrap();
    operator.remove(&id("one")).await.unwrap();
    drop(running.store.try_again().await);
    put(&*running.store, "after").await;
    assert_eq!(store.segments(".r/").await.unwrap(), ["store", "two"]);
    holds(&open(&way, &[("two", &two)]).await.unwrap().store, &["before", "after"]).await;
}

#[tokio::test]
async fn a_store_with_records_of_another_key_gets_none() {
    let (store, way, [one, _]) = fixture();
    let all = [("one", &one)];
    let running = open(&way, &all).await.unwrap();
    lose(&store, &["store", "one"]);
    // The rows of another store are put in their place, without its anchor.
    let (other, other_way, _) = fixture();
    put(&*open(&other_way, &all).await.unwrap().store, "theirs").await;
    let theirs = other.get(&entry("theirs")).await.unwrap();
    store.create(&entry("theirs"), &theirs).await.unwrap();
    let left = everything(&store).await;
    refused(running.store.try_again().await, ErrorKind::Conflict, &["opens none of its 1 records"]);
    refused(running.store.create(&entry("new"), &record("new")).await, ErrorKind::ReadOnly, &["had one"]);
    assert_eq!(everything(&store).await, left);
}
