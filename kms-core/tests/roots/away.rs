//! Roots that are away, or refuse.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kms_core::roots::{Making, Root, Roots, WrappedOneByOne};
use kms_core::store::KeyStore;
use kms_core::{Error, ErrorKind};

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

#[tokio::test]
async fn a_root_that_cannot_be_read_is_away_until_it_can_and_gets_no_entry() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let way = Way::to(&store);
    put(&*open(&way, &[("one", &one), ("two", &two)]).await.unwrap().store, "my-key").await;
    let before = everything(&store).await;
    let is_there = Arc::new(AtomicBool::new(false));
    let later = {
        let (is_there, two) = (Arc::clone(&is_there), Arc::clone(&two));
        Root::later(id("unread"), move || {
            let away = || Error::new(ErrorKind::Unreachable, "read the file");
            is_there.load(Ordering::SeqCst).then(|| root("two", &two)).ok_or_else(away)
        })
    };
    for others in [["one"].as_slice(), &[]] {
        is_there.store(false, Ordering::SeqCst);
        let all: Vec<_> = others.iter().map(|name| root(name, &one)).chain([later.clone()]).collect();
        let form = Arc::new(WrappedOneByOne::new(&all));
        let roots = Roots::new(Arc::clone(&way) as Arc<dyn KeyStore>, all, form).unwrap();
        let opened = roots.clone().open(Making::Explicit).await.unwrap();
        assert_eq!((opened.store.closed(), opened.store.is_open()), (1, !others.is_empty()));
        is_there.store(true, Ordering::SeqCst);
        opened.store.try_again().await.unwrap();
        assert_eq!((opened.store.closed(), opened.store.has_key()), (0, true));
        holds(&opened.store, &["my-key"]).await;
        refused(roots.remove(&id("unread")).await, ErrorKind::InvalidInput, &["no root 'unread'"]);
        assert_eq!(everything(&store).await, before);
    }
}
