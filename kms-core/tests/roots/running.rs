//! Servers that run while the roots of their store change.

use kms_core::ErrorKind;
use kms_core::roots::{Anchor, Making};
use kms_core::store::KeyStore as _;

use super::mocks::*;

#[tokio::test]
async fn what_is_made_after_an_adoption_is_protected_by_each_root() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    earlier(&store, &one, &["old"]).await;
    let all = [("one", &one), ("two", &two)];
    let way = Way::to(&store);
    let running = open(&way, &all).await.unwrap();
    running.store.keep_trying();
    roots(&way, &all).adopt().await.unwrap();
    put(&*running.store, "made-after").await;
    let made = store.get(&entry("made-after")).await.unwrap();
    assert!(made.expose().starts_with(b"kms:sealed:v1:"), "it opens with the first root only");
}

#[tokio::test]
async fn no_key_is_made_under_a_root_that_was_removed() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let all = [("one", &one), ("two", &two)];
    let way = Way::to(&store);
    // As on K/V version 1: the server serves the earlier form until an operator gives the store its key.
    let running = roots(&way, &all).open(Making::Explicit).await;
    let running = match running {
        Ok(running) => running,
        // Several roots are refused there; one is served.
        Err(_) => roots(&way, &all[..1]).open(Making::Explicit).await.unwrap(),
    };
    running.store.keep_trying();
    roots(&way, &all).init().await.unwrap();
    roots(&way, &all).remove(&id("one")).await.unwrap();
    assert_eq!(store.segments(".r/").await.unwrap(), ["store", "two"]);
    // The root is gone from store and config by now, and then its holder is. A client of the server makes a key.
    let made = running.store.create(&entry("late"), &record("late")).await;
    if made.is_ok() {
        holds(&open(&way, &all[1..]).await.unwrap().store, &["late"]).await;
    }
}

#[tokio::test]
async fn a_running_server_makes_no_key_under_a_store_key_that_is_not_in_force() {
    let (store, one) = (memory(), Elsewhere::new(1));
    let way = Way::to(&store);
    let all = [("one", &one)];
    let running = open(&way, &all).await.unwrap();
    // An operator starts over: the store is empty.
    for name in [id("one").entry(), Anchor::entry()] {
        store.delete(&name).await.unwrap();
    }
    let fresh = open(&way, &all).await.unwrap();
    assert!(fresh.is_new);
    // Even if it looks again, it does not notice.
    drop(running.store.try_again().await);
    if running.store.create(&entry("lost"), &record("lost")).await.is_ok() {
        holds(&open(&way, &all).await.unwrap().store, &["lost"]).await;
    }
}

#[tokio::test]
async fn no_error_of_roots_reads_as_an_answer_about_a_key() {
    let mut bad = Vec::new();
    for kind in [ErrorKind::Deleted, ErrorKind::Unsupported, ErrorKind::InvalidInput] {
        let (store, one) = (memory(), Elsewhere::new(1));
        let way = Way::to(&store);
        let all = [("one", &one)];
        put(&*open(&way, &all).await.unwrap().store, "my-key").await;
        one.fail(ErrorKind::Sealed);
        let opened = open(&way, &all).await.unwrap();
        one.fail(None);
        // K/V version 2: 'vault kv delete' of the anchor.
        *way.denies.lock().unwrap() = Some((".r/store".into(), kind));
        drop(opened.store.try_again().await);
        let read = opened.store.get(&entry("no-key")).await.err().unwrap().kind();
        if [ErrorKind::Deleted, ErrorKind::Unsupported, ErrorKind::InvalidInput].contains(&read) {
            bad.push(read);
        }
    }
    // A conflict about roots is one, too: clients get 409 with the words for operators.
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let way = Way::to(&store);
    let all = [("one", &one), ("two", &two)];
    put(&*open(&way, &all).await.unwrap().store, "my-key").await;
    one.fail(ErrorKind::Sealed);
    two.fail(ErrorKind::Sealed);
    let opened = open(&way, &all).await.unwrap();
    store.delete(&Anchor::entry()).await.unwrap();
    for name in ["one", "two"] {
        store.delete(&id(name).entry()).await.unwrap();
    }
    *way.denies_list.lock().unwrap() = true;
    one.fail(None);
    two.fail(None);
    drop(opened.store.try_again().await);
    let read = opened.store.get(&entry("no-key")).await.err().unwrap().kind();
    if read == ErrorKind::Conflict {
        bad.push(read);
    }
    assert!(bad.is_empty(), "{bad:?}");
}

#[tokio::test]
async fn a_server_of_the_earlier_form_finds_the_store_key_without_a_request() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    earlier(&store, &one, &["old"]).await;
    let all = [("one", &one), ("two", &two)];
    let way = Way::to(&store);
    let running = open(&way, &all).await.unwrap();
    running.store.keep_trying();
    roots(&way, &all).adopt().await.unwrap();
    until(|| running.store.has_key()).await;
    assert_eq!(running.store.closed(), 0);
    holds(&running.store, &["old"]).await;
}

#[tokio::test]
async fn a_server_whose_store_key_is_not_in_force_says_so_and_reads_what_it_can() {
    let (store, one) = (memory(), Elsewhere::new(1));
    let way = Way::to(&store);
    let all = [("one", &one)];
    let running = open(&way, &all).await.unwrap();
    put(&*running.store, "before").await;
    let before = store.get(&entry("before")).await.unwrap();
    for name in [id("one").entry(), Anchor::entry(), entry("before")] {
        store.delete(&name).await.unwrap();
    }
    open(&way, &all).await.unwrap();
    store.create(&entry("before"), &before).await.unwrap();
    // The new key opens no record here. A start is refused, and so is each creation.
    let created = running.store.create(&entry("new"), &record("new")).await;
    refused(created, ErrorKind::ReadOnly, &["starts anew"]);
    holds(&running.store, &["before"]).await;
    for attempt_works in [false, true] {
        assert_eq!(running.store.try_again().await.is_ok(), attempt_works);
        let told = running.store.status().await.unwrap().degraded;
        assert!(told.is_some_and(|why| why.contains("starts anew")), "{attempt_works}");
        let _ = store.delete(&entry("before")).await;
    }
}

#[tokio::test]
async fn a_creation_makes_a_lost_anchor_again_and_needs_to_know_whether_there_is_one() {
    let (store, one) = (memory(), Elsewhere::new(1));
    let way = Way::to(&store);
    let running = open(&way, &[("one", &one)]).await.unwrap();
    let before = anchor(&store).await;
    store.delete(&Anchor::entry()).await.unwrap();
    put(&*running.store, "my-key").await;
    assert_eq!(anchor(&store).await, before);
    for (kind, seen) in [(ErrorKind::Deleted, ErrorKind::Denied), (ErrorKind::Timeout, ErrorKind::Timeout)] {
        *way.denies.lock().unwrap() = Some((".r/store".into(), kind));
        refused(running.store.create(&entry("new"), &record("new")).await, seen, &[".r/store"]);
        holds(&running.store, &["my-key"]).await;
    }
}
