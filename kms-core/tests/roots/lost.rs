//! Anchors and entries that were lost: never a fresh store key over live data.

use kms_core::ErrorKind;
use kms_core::roots::{Anchor, RootState};
use kms_core::store::KeyStore;

use super::mocks::*;

#[tokio::test]
async fn a_lost_anchor_is_made_again_of_the_key_that_opens_a_record() {
    for with_record in [true, false] {
        let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
        let way = Way::to(&store);
        let all = [("one", &one), ("two", &two)];
        let opened = open(&way, &all).await.unwrap();
        if with_record {
            put(&*opened.store, "my-key").await;
        }
        let before = everything(&store).await;
        store.delete(&Anchor::entry()).await.unwrap();
        // One root is away, and the other opens its entry.
        two.fail(ErrorKind::Unreachable);
        let opened = open(&way, &all).await.unwrap();
        assert_eq!(opened.store.has_key(), with_record);
        if !with_record {
            // No record says whether the one that is away has another key.
            assert_eq!(anchor(&store).await, None);
            two.fail(None);
            opened.store.try_again().await.unwrap();
        }
        assert!(opened.store.has_key());
        assert_eq!(everything(&store).await, before, "it is the same anchor");
        if with_record {
            holds(&opened.store, &["my-key"]).await;
        }
    }
}

#[tokio::test]
async fn a_lost_anchor_beside_a_denied_listing_writes_nothing() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let way = Way::to(&store);
    let all = [("one", &one), ("two", &two)];
    put(&*open(&way, &all).await.unwrap().store, "my-key").await;
    store.delete(&Anchor::entry()).await.unwrap();
    *way.denies_list.lock().unwrap() = true;
    let before = everything(&store).await;
    refused(open(&way, &all).await, ErrorKind::Conflict, &["no anchor", "not known", "kms root init"]);
    refused(roots(&way, &all).init().await, ErrorKind::Denied, &[]);
    refused(roots(&way, &all).adopt().await, ErrorKind::Denied, &[]);
    let opened = open(&way, &all[..1]).await.unwrap();
    assert!(!opened.store.has_key());
    refused(opened.store.get(&entry("my-key")).await, ErrorKind::Corrupt, &["store key"]);
    assert_eq!(everything(&store).await, before);
    *way.denies_list.lock().unwrap() = false;
    roots(&way, &all).init().await.unwrap();
    holds(&open(&way, &all).await.unwrap().store, &["my-key"]).await;
}

#[tokio::test]
async fn where_anchor_and_entries_are_lost_no_fresh_key_is_made_over_the_records() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let way = Way::to(&store);
    let all = [("one", &one), ("two", &two)];
    put(&*open(&way, &all).await.unwrap().store, "my-key").await;
    for name in [Anchor::entry(), id("one").entry(), id("two").entry()] {
        store.delete(&name).await.unwrap();
    }
    let before = everything(&store).await;
    for all in [&all[..], &all[..1]] {
        let gone = ["the anchor is gone", "1 of the first 1 records are sealed", "backup of the store"];
        refused(open(&way, all).await, ErrorKind::Conflict, &gone);
        refused(roots(&way, all).peek().await, ErrorKind::Conflict, &gone);
        let no_root_opens = "sealed under a store key that no root here opens";
        refused(roots(&way, all).init().await, ErrorKind::Conflict, &[no_root_opens]);
        refused(roots(&way, all).adopt().await, ErrorKind::Conflict, &[no_root_opens]);
    }
    *way.denies_list.lock().unwrap() = true;
    refused(open(&way, &all).await, ErrorKind::Conflict, &["not known"]);
    assert_eq!(everything(&store).await, before);
}

#[tokio::test]
async fn roots_with_several_keys_and_no_anchor_wait_for_an_operator() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let way = Way::to(&store);
    let all = [("one", &one), ("two", &two)];
    // Two first starts were cut off before their anchors.
    for (name, root) in all {
        let other = memory();
        open(&Way::to(&other), &[(name, root)]).await.unwrap();
        let entry = id(name).entry();
        store.create(&entry, &other.get(&entry).await.unwrap()).await.unwrap();
    }
    let before = everything(&store).await;
    refused(open(&way, &all).await, ErrorKind::Conflict, &["several keys", "kms root init"]);
    assert_eq!(everything(&store).await, before);
    roots(&way, &all).init().await.unwrap();
    assert_eq!(states(&roots(&way, &all)).await, [RootState::Opens; 2]);
    put(&*open(&way, &all).await.unwrap().store, "my-key").await;
    holds(&open(&way, &all[1..]).await.unwrap().store, &["my-key"]).await;
}

#[tokio::test]
async fn the_entry_of_another_root_is_left_alone_without_an_anchor() {
    let (store, one, other) = (memory(), Elsewhere::new(1), Elsewhere::new(9));
    let way = Way::to(&store);
    open(&way, &[("one", &other)]).await.unwrap();
    store.delete(&Anchor::entry()).await.unwrap();
    let before = everything(&store).await;
    let opened = open(&way, &[("one", &one)]).await.unwrap();
    assert!(!opened.store.has_key() && opened.warnings[0].contains("does not open its entry"));
    refused(roots(&way, &[("one", &one)]).init().await, ErrorKind::Corrupt, &["'one'"]);
    assert_eq!(everything(&store).await, before);
}

#[tokio::test]
async fn an_anchor_that_cannot_be_read_is_never_taken_for_none() {
    let (store, one) = (memory(), Elsewhere::new(1));
    let way = Way::to(&store);
    put(&*open(&way, &[("one", &one)]).await.unwrap().store, "my-key").await;
    for bad in [b"".as_slice(), b"{}", br#"{"version":2}"#, b"\xff"] {
        store.overwrite(&Anchor::entry(), bad);
        let before = everything(&store).await;
        refused(open(&way, &[("one", &one)]).await, ErrorKind::Corrupt, &["anchor"]);
        refused(roots(&way, &[("one", &one)]).init().await, ErrorKind::Corrupt, &["anchor"]);
        assert_eq!(everything(&store).await, before);
    }
    for kind in [ErrorKind::Deleted, ErrorKind::Corrupt, ErrorKind::LoginRefused] {
        *way.denies.lock().unwrap() = Some((".r/store".into(), kind));
        refused(open(&way, &[("one", &one)]).await, kind, &[]);
    }
}

#[tokio::test]
async fn records_wrapped_one_by_one_are_served_beside_sealed_ones_whose_key_is_lost_and_that_is_told() {
    let (store, one) = (memory(), Elsewhere::new(1));
    earlier(&store, &one, &["old"]).await;
    let way = Way::to(&store);
    let all = [("one", &one)];
    roots(&way, &all).adopt().await.unwrap();
    put(&*open(&way, &all).await.unwrap().store, "new").await;
    for name in [Anchor::entry(), id("one").entry()] {
        store.delete(&name).await.unwrap();
    }
    let opened = open(&way, &all).await.unwrap();
    holds(&opened.store, &["old"]).await;
    let told = &opened.warnings[0];
    assert!(told.contains("the anchor is gone") && told.contains("1 of the first 2 records"), "{told}");
    assert!(!told.contains("init"), "{told}");
}
