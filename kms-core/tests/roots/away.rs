//! Roots that are away, or refuse.

use kms_core::ErrorKind;
use kms_core::store::KeyStore;

use super::mocks::*;

const OUTAGES: [ErrorKind; 4] =
    [ErrorKind::Unreachable, ErrorKind::Sealed, ErrorKind::Throttled, ErrorKind::Timeout];

#[tokio::test]
async fn one_root_that_is_away_is_told_and_tried_again() {
    for kind in OUTAGES {
        let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
        let way = Way::to(&store);
        let all = [("one", &one), ("two", &two)];
        put(&*open(&way, &all).await.unwrap().store, "my-key").await;
        one.fail(kind);
        let opened = open(&way, &all).await.unwrap();
        assert!(opened.warnings[0].contains("root 'one' is away"), "{:?}", opened.warnings);
        opened.store.keep_trying();
        holds(&opened.store, &["my-key"]).await;
        let status = opened.store.status().await.unwrap();
        assert!(status.degraded.is_some_and(|why| why.contains("root 'one' does not open")));
        one.fail(None);
        until(|| opened.store.closed() == 0).await;
        assert_eq!(opened.store.status().await.unwrap().degraded, None);
    }
}

#[tokio::test]
async fn a_store_none_of_whose_roots_answers_fails_as_an_outage_until_one_opens() {
    for kind in OUTAGES {
        let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
        let way = Way::to(&store);
        let all = [("one", &one), ("two", &two)];
        put(&*open(&way, &all).await.unwrap().store, "my-key").await;
        let before = everything(&store).await;
        one.fail(kind);
        two.fail(kind);
        let opened = open(&way, &all).await.unwrap();
        opened.store.keep_trying();
        refused(opened.store.get(&entry("my-key")).await, kind, &["words of the holder"]);
        refused(opened.store.get(&entry("no-key")).await, kind, &[]);
        refused(opened.store.create(&entry("new"), &record("new")).await, kind, &[]);
        refused(opened.store.status().await, kind, &[]);
        assert_eq!(opened.store.closed(), 2);
        two.fail(None);
        until(|| opened.store.is_open()).await;
        holds(&opened.store, &["my-key"]).await;
        assert_eq!(opened.store.closed(), 1);
        assert_eq!(everything(&store).await, before);
    }
}

#[tokio::test]
async fn a_wrong_root_beside_one_that_is_away_ends_no_start() {
    let (store, one, wrong) = (memory(), Elsewhere::new(1), Elsewhere::new(9));
    let way = Way::to(&store);
    open(&way, &[("one", &one)]).await.unwrap();
    one.fail(ErrorKind::Unreachable);
    let opened = open(&way, &[("one", &one), ("wrong", &wrong)]).await.unwrap();
    assert!(!opened.store.is_open());
    one.fail(ErrorKind::Denied);
    refused(
        open(&way, &[("one", &one), ("wrong", &wrong)]).await,
        ErrorKind::Corrupt,
        &["'one' refuses", "'wrong' has no entry"],
    );
}

#[tokio::test]
async fn an_empty_store_gets_its_key_only_when_all_roots_answer() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let way = Way::to(&store);
    let all = [("one", &one), ("two", &two)];
    two.fail(ErrorKind::Sealed);
    let opened = open(&way, &all).await.unwrap();
    opened.store.keep_trying();
    refused(opened.store.create(&entry("new"), &record("new")).await, ErrorKind::Sealed, &[]);
    refused(roots(&way, &all).init().await, ErrorKind::Sealed, &["all roots have to answer"]);
    assert!(everything(&store).await.is_empty());
    two.fail(None);
    until(|| opened.store.is_open()).await;
    put(&*opened.store, "new").await;
    assert!(opened.store.has_key());
    two.fail(ErrorKind::Denied);
    let way = Way::to(&memory());
    refused(open(&way, &all).await, ErrorKind::Conflict, &["no store key can be made", "root init"]);
}

#[tokio::test]
async fn a_root_that_gives_back_another_key_gets_no_entry() {
    let (store, one, liar) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let way = Way::to(&store);
    *liar.lies.lock().unwrap() = true;
    let all = [("one", &one), ("liar", &liar)];
    assert!(open(&way, &all).await.is_err());
    assert!(everything(&store).await.is_empty());
    open(&way, &all[..1]).await.unwrap();
    refused(roots(&way, &all).add(&id("liar")).await, ErrorKind::Denied, &["another key"]);
    assert_eq!(everything(&store).await.len(), 2);
}

#[tokio::test]
async fn a_store_that_is_away_is_tried_again_and_one_that_denies_the_anchor_is_told() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let way = Way::to(&store);
    let all = [("one", &one), ("two", &two)];
    *way.denies.lock().unwrap() = Some((String::new(), ErrorKind::Unreachable));
    let opened = open(&way, &all).await.unwrap();
    opened.store.keep_trying();
    refused(opened.store.status().await, ErrorKind::Unreachable, &[]);
    *way.denies.lock().unwrap() = None;
    until(|| opened.store.is_open()).await;
    put(&*opened.store, "my-key").await;
    let before = everything(&store).await;
    *way.denies.lock().unwrap() = Some((".r/".into(), ErrorKind::Denied));
    refused(open(&way, &all).await, ErrorKind::Conflict, &["not known"]);
    // One root served such stores before, and does so still.
    let opened = open(&way, &all[..1]).await.unwrap();
    assert!(!opened.store.has_key() && opened.warnings[0].contains("not known"));
    assert!(opened.store.get(&entry("my-key")).await.is_err_and(|error| error.kind() != ErrorKind::NotFound));
    assert_eq!(everything(&store).await, before);
}

#[tokio::test]
async fn a_root_that_is_lost_while_the_store_is_served_is_told_and_costs_nothing() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let way = Way::to(&store);
    let opened = open(&way, &[("one", &one), ("two", &two)]).await.unwrap();
    put(&*opened.store, "my-key").await;
    for (first, second, closed) in [
        (Some(ErrorKind::Disabled), None, 1),
        (Some(ErrorKind::Disabled), Some(ErrorKind::Unreachable), 2),
        (Some(ErrorKind::Denied), Some(ErrorKind::Denied), 2),
        (None, Some(ErrorKind::Denied), 1),
        (None, None, 0),
    ] {
        one.fail(first);
        two.fail(second);
        let _ = opened.store.try_again().await;
        assert_eq!(opened.store.closed(), closed, "{first:?} {second:?}");
        holds(&opened.store, &["my-key"]).await;
        assert_eq!(opened.store.status().await.unwrap().degraded.is_some(), closed > 0);
    }
}
