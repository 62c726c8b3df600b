//! When each root last opened, as a running server knows it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use kms_core::ErrorKind;
use kms_core::store::KeyStore;

use super::mocks::*;

fn times(store: &dyn KeyStore) -> BTreeMap<String, Option<Timestamp>> {
    store.roots_opened().into_iter().collect()
}

#[tokio::test]
async fn a_server_knows_when_each_root_last_opened() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let all = [("one", &one), ("two", &two)];
    let way = Way::to(&store);
    let before = Timestamp::now();
    let running = open(&way, &all).await.unwrap().store;
    let at_start = times(&*running);
    assert!(at_start.values().all(|at| at.is_some_and(|at| at >= before)), "{at_start:?}");

    // A root whose key is destroyed while the server runs keeps the time at which it last opened.
    two.fail(ErrorKind::Denied);
    running.try_again().await.unwrap();
    assert_eq!(running.closed(), 1);
    let later = times(&*running);
    assert!(later["one"] > at_start["one"] && later["two"] == at_start["two"], "{later:?}");

    two.fail(None);
    running.try_again().await.unwrap();
    assert!(times(&*running)["two"] > at_start["two"]);

    // Without an answer of the store nothing is learned of its roots.
    let known = times(&*running);
    *way.denies.lock().unwrap() = Some((".r/store".into(), ErrorKind::Timeout));
    drop(running.try_again().await);
    assert_eq!(times(&*running), known);
}

#[tokio::test]
async fn a_root_that_never_opened_has_no_time_and_a_listener_hears_of_each_look() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let all = [("one", &one), ("two", &two)];
    let way = Way::to(&store);
    open(&way, &all).await.unwrap();
    two.fail(ErrorKind::Unreachable);
    let running = open(&way, &all).await.unwrap().store;
    assert_eq!(times(&*running)["two"], None);

    let told = Arc::new(Mutex::new(Vec::new()));
    let hearer = Arc::clone(&told);
    running.tell_openings(move |last| {
        hearer.lock().unwrap().push(last.keys().map(ToString::to_string).collect::<Vec<_>>());
    });
    two.fail(None);
    running.try_again().await.unwrap();
    assert_eq!(*told.lock().unwrap(), [vec!["one"], vec!["one", "two"]]);
}

#[tokio::test]
async fn roots_of_a_store_without_a_store_key_have_nothing_to_open() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    earlier(&store, &one, &["old"]).await;
    let all = [("one", &one), ("two", &two)];
    let way = Way::to(&store);
    let running = open(&way, &all).await.unwrap().store;
    assert!(times(&*running).is_empty());
    roots(&way, &all).adopt().await.unwrap();
    running.try_again().await.unwrap();
    assert!(times(&*running).values().all(Option::is_some));
    assert_eq!(times(&*running).len(), 2);
}

#[tokio::test]
async fn a_root_that_is_lost_and_comes_back_while_nobody_asks_is_noticed() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let all = [("one", &one), ("two", &two)];
    let running = open(&Way::to(&store), &all).await.unwrap().store;
    running.keep_trying_each(Duration::from_millis(20));
    for fails in [Some(ErrorKind::Denied), None] {
        two.fail(fails);
        until(|| running.closed() == usize::from(fails.is_some())).await;
    }
}

#[tokio::test]
async fn a_root_without_an_entry_is_told_as_removed_or_never_added() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let all = [("one", &one), ("two", &two)];
    let way = Way::to(&store);
    let running = open(&way, &all).await.unwrap().store;
    roots(&way, &all).remove(&id("two")).await.unwrap();
    running.try_again().await.unwrap();
    assert_eq!(running.closed(), 1);
    let warnings = open(&way, &all).await.unwrap().warnings.join("\n");
    for told in ["root 'two' is in the config but has no entry in this store", "removed or never added"] {
        assert!(warnings.contains(told), "{warnings}");
    }
    let status = roots(&way, &all).status().await.unwrap();
    assert!(status.roots[1].detail.contains("removed or never added"), "{}", status.roots[1].detail);
}
