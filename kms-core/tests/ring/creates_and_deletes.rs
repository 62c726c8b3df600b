//! Creates and deletes that race with reads, or whose outcome is unknown.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kms_core::store::EntryName;
use kms_core::{ErrorKind, KeyName, Kms};

use super::scripted::{LONG, generate, kind, name, request, ring};

#[tokio::test]
async fn a_deleted_key_does_not_come_back_from_a_read_under_way() {
    let config = LONG.with_any(Duration::from_millis(200));
    let (store, kms) = ring(config).await;
    generate(&kms, "client").await.unwrap();
    tokio::time::sleep(Duration::from_millis(250)).await;
    store.block_after_reading();
    let reading = tokio::spawn(generate(&kms, "client"));
    store.until_reads(2).await;
    // The read that the delete makes passes the one that hangs.
    store.let_later_ones_pass();
    kms.delete(&request("client"), &name()).await.unwrap();
    store.release();
    assert_eq!(
        kind(reading.await.unwrap()),
        Some(ErrorKind::NotFound),
        "it was deleted before this was answered"
    );
    assert_eq!(kind(generate(&kms, "client").await), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn a_create_that_a_delete_overtakes_does_not_bring_the_key_back() {
    let (store, kms) = ring(LONG).await;
    let fresh = KeyName::new("fresh").unwrap();
    store.block_after_reading();
    let creating = {
        let (kms, fresh) = (Arc::clone(&kms), fresh.clone());
        tokio::spawn(async move { kms.create(&request("client"), &fresh).await })
    };
    // The record was written, and the answer of the read that follows is under way.
    store.until_reads(1).await;
    store.let_later_ones_pass();
    kms.delete(&request("client"), &fresh).await.unwrap();
    store.release();
    creating.await.unwrap().unwrap();
    let sealed = kms.generate(&request("client"), &fresh, b"").await;
    assert_eq!(kind(sealed.map(drop)), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn a_create_of_unknown_outcome_is_read_back_and_never_sent_again() {
    let (store, kms) = ring(LONG).await;
    let fresh = KeyName::new("fresh").unwrap();
    store.creates_that_write_and_fail.store(1, Ordering::Relaxed);
    kms.create(&request("client"), &fresh).await.expect("the record is there, whatever the store said");
    kms.generate(&request("client"), &fresh, b"").await.unwrap();

    let lost = KeyName::new("lost").unwrap();
    store.creates_that_fail.store(1, Ordering::Relaxed);
    let outcome = kms.create(&request("client"), &lost).await;
    assert_eq!(outcome.err().map(|e| e.kind()), Some(ErrorKind::Unreachable));
    assert_eq!(store.created.lock().unwrap().len(), 1, "nothing was sent twice");
}

#[tokio::test]
async fn a_record_that_differs_from_what_was_written_is_no_success() {
    let (store, kms) = ring(LONG).await;
    let stolen = KeyName::new("stolen").unwrap();
    *store.replaces.lock().unwrap() = Some(EntryName::from(&stolen));
    let outcome = kms.create(&request("client"), &stolen).await;
    assert_eq!(outcome.err().map(|e| e.kind()), Some(ErrorKind::AlreadyExists));
}
