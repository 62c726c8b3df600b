//! Stores of earlier releases, whose records were wrapped one by one.

use kms_core::ErrorKind;
use kms_core::roots::RootState;
use kms_core::store::{KeyStore, Wrapped};

use super::mocks::*;

#[tokio::test]
async fn a_store_of_an_earlier_release_is_served_as_it_is() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    earlier(&store, &one, &["old"]).await;
    let way = Way::to(&store);
    let opened = open(&way, &[("one", &one)]).await.unwrap();
    assert!(opened.warnings.is_empty() && !opened.store.has_key());
    holds(&opened.store, &["old"]).await;
    put(&*opened.store, "new").await;
    assert_eq!(anchor(&store).await, None);
    // The earlier release reads what this one wrote.
    let before = Wrapped::new(store.clone(), one.clone());
    assert_same(before.get(&entry("new")).await, "new");
    let opened = open(&way, &[("two", &two), ("one", &one)]).await.unwrap();
    assert!(opened.warnings[0].contains("protects none of them"), "{:?}", opened.warnings);
    holds(&opened.store, &["old", "new"]).await;
    assert_eq!(anchor(&store).await, None);
}

#[tokio::test]
async fn an_adoption_rewrites_no_record_and_both_forms_are_read() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    earlier(&store, &one, &["old", "older"]).await;
    let way = Way::to(&store);
    let all = [("one", &one), ("two", &two)];
    let before = everything(&store).await;
    refused(roots(&way, &all).init().await, ErrorKind::Conflict, &["2 records", "kms root adopt"]);
    assert_eq!(everything(&store).await, before);
    let running = open(&way, &all).await.unwrap();
    let adopted = roots(&way, &all).adopt().await.unwrap();
    assert_eq!((adopted.records.earlier, adopted.notes.len()), (2, 0));
    for (name, bytes) in before {
        assert!(everything(&store).await[&name] == bytes, "{name} was rewritten");
    }
    let opened = open(&way, &all).await.unwrap();
    put(&*opened.store, "new").await;
    holds(&opened.store, &["old", "older", "new"]).await;
    // A server that was started before the adoption reads what others wrote after it.
    assert!(!running.store.has_key());
    holds(&running.store, &["old", "older", "new"]).await;
    assert!(running.store.has_key());
    let status = roots(&way, &all).status().await.unwrap();
    let records = status.records.unwrap();
    assert_eq!((records.earlier, records.sealed), (2, 1));
    // The second root alone opens what was made under both, and only that.
    let opened = open(&way, &all[1..]).await.unwrap();
    holds(&opened.store, &["new"]).await;
    refused(opened.store.get(&entry("old")).await, ErrorKind::Corrupt, &[]);
}

#[tokio::test]
async fn a_store_of_other_roots_is_not_adopted() {
    let (store, one, wrong) = (memory(), Elsewhere::new(1), Elsewhere::new(9));
    earlier(&store, &one, &["old"]).await;
    let way = Way::to(&store);
    let before = everything(&store).await;
    refused(
        roots(&way, &[("wrong", &wrong)]).adopt().await,
        ErrorKind::Conflict,
        &["its records do not open"],
    );
    *way.denies_list.lock().unwrap() = true;
    refused(roots(&way, &[("one", &one)]).adopt().await, ErrorKind::Denied, &["list"]);
    *way.denies_list.lock().unwrap() = false;
    one.fail(ErrorKind::Unreachable);
    refused(roots(&way, &[("one", &one)]).adopt().await, ErrorKind::Unreachable, &[]);
    assert_eq!(everything(&store).await, before);
    one.fail(None);
    roots(&way, &[("one", &one)]).adopt().await.unwrap();
    refused(roots(&way, &[("one", &one)]).adopt().await, ErrorKind::Conflict, &["already"]);
}

#[tokio::test]
async fn a_root_that_is_lost_for_good_costs_what_status_had_counted_and_nothing_else() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    earlier(&store, &one, &["old"]).await;
    let way = Way::to(&store);
    let all = [("one", &one), ("two", &two)];
    roots(&way, &all).adopt().await.unwrap();
    let opened = open(&way, &all).await.unwrap();
    put(&*opened.store, "a").await;
    put(&*opened.store, "b").await;
    one.fail(ErrorKind::Disabled);
    let opened = open(&way, &all).await.unwrap();
    assert!(opened.warnings[0].contains("root 'one' refuses"));
    holds(&opened.store, &["a", "b"]).await;
    put(&*opened.store, "c").await;
    let status = roots(&way, &all).status().await.unwrap();
    assert_eq!(status.open(), 1);
    assert_eq!(status.records.unwrap().earlier, 1, "as many as were counted before");
    assert_eq!(status.roots[0].state, RootState::Refused);
    let lost = opened.store.get(&entry("old")).await;
    assert!(lost.is_err_and(|error| error.kind() != ErrorKind::NotFound));
    refused(opened.store.create(&entry("old"), &record("old")).await, ErrorKind::AlreadyExists, &[]);
}
