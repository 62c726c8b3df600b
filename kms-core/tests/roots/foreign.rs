//! Entries and anchors of another store.

use kms_core::ErrorKind;
use kms_core::roots::Anchor;
use kms_core::store::KeyStore as _;

use super::mocks::*;

#[tokio::test]
async fn a_store_whose_records_none_opens_under_the_anchors_key_is_not_served() {
    let (store, one, staging) = (memory(), Elsewhere::new(1), memory());
    let all = [("one", &one)];
    put(&*open(&Way::to(&staging), &all).await.unwrap().store, "theirs").await;
    let way = Way::to(&store);
    put(&*open(&way, &all).await.unwrap().store, "ours").await;
    // Somebody writes to this store and knows no key.
    for name in [id("one").entry(), Anchor::entry()] {
        store.overwrite(&name, staging.get(&name).await.unwrap().expose());
    }
    let before = everything(&store).await;
    refused(open(&way, &all).await, ErrorKind::Corrupt, &["none of the first 1 sealed", "another store"]);
    assert_eq!(everything(&store).await, before);
}

#[tokio::test]
async fn an_entry_of_another_store_in_an_empty_one_is_told() {
    let (store, one, staging) = (memory(), Elsewhere::new(1), memory());
    let all = [("one", &one)];
    open(&Way::to(&staging), &all).await.unwrap();
    let name = id("one").entry();
    store.create(&name, &staging.get(&name).await.unwrap()).await.unwrap();
    // It looks like one of a first start that was cut off, which has to go on with it.
    let opened = open(&Way::to(&store), &all).await.unwrap();
    assert!(opened.warnings.iter().any(|told| told.contains("copies from another store")));
}

#[tokio::test]
async fn a_root_whose_entry_has_the_only_key_of_a_record_is_not_removed() {
    let (store, one, two, other) = (memory(), Elsewhere::new(1), Elsewhere::new(2), memory());
    let theirs = open(&Way::to(&other), &[("two", &two)]).await.unwrap();
    put(&*theirs.store, "theirs").await;
    let way = Way::to(&store);
    let all = [("one", &one), ("two", &two)];
    put(&*open(&way, &all[..1]).await.unwrap().store, "ours").await;
    for name in [id("two").entry(), entry("theirs")] {
        store.create(&name, &other.get(&name).await.unwrap()).await.unwrap();
    }
    refused(open(&way, &all).await, ErrorKind::Conflict, &["both open records"]);
    let before = everything(&store).await;
    let removed = roots(&way, &all).remove(&id("two")).await;
    assert!(removed.is_err(), "the only key of 'theirs' is gone");
    assert_eq!(everything(&store).await, before);
}
