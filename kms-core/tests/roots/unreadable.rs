//! Records that cannot be listed or read: what they need is not known, so nothing that they may need goes.

use kms_core::primitives::Fingerprint;
use kms_core::roots::{Anchor, Making};
use kms_core::store::{EntryName, KeyStore as _, Wrapped};
use kms_core::{ErrorKind, KeyName};

use super::hooked::*;
use super::mocks::*;

#[tokio::test]
async fn an_entry_whose_key_opens_a_version_stays_where_versions_cannot_be_listed() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let other = memory();
    let version = EntryName::version(&KeyName::new("a").unwrap(), &Fingerprint::from_bytes([7; 16]), 2);
    let theirs = open(&Way::to(&other), &[("two", &two)]).await.unwrap();
    theirs.store.create(&version, &record("v2")).await.unwrap();
    let way = Way::to(&store);
    put(&*open(&way, &[("one", &one)]).await.unwrap().store, "a").await;
    for name in [id("two").entry(), version.clone()] {
        store.create(&name, &other.get(&name).await.unwrap()).await.unwrap();
    }
    let before = everything(&store).await;
    let all = [("one", &one), ("two", &two)];
    let outcome =
        over(Hooked { denies_segments: true, ..Hooked::new(&way) }, &all).open(Making::OnEmpty).await;
    drop(outcome);
    assert_eq!(
        everything(&store).await,
        before,
        "the only copy of a key that opens a version was overwritten"
    );
}

#[tokio::test]
async fn an_adoption_overwrites_no_key_that_opens_a_version_it_could_not_list() {
    // An adopted store whose keys are of the earlier form, and which were rotated since; its anchor is lost, and a
    // leftover is in the first root's entry.
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let all = [("one", &one), ("two", &two)];
    earlier(&store, &one, &["a"]).await;
    let way = Way::to(&store);
    roots(&way, &all).adopt().await.unwrap();
    let version = EntryName::version(&KeyName::new("a").unwrap(), &Fingerprint::from_bytes([7; 16]), 2);
    open(&way, &all).await.unwrap().store.create(&version, &record("v2")).await.unwrap();
    store.delete(&Anchor::entry()).await.unwrap();
    let other = memory();
    open(&Way::to(&other), &all[..1]).await.unwrap();
    store.overwrite(&id("one").entry(), other.get(&id("one").entry()).await.unwrap().expose());
    let half = over(Hooked { denies_segments: true, ..Hooked::new(&way) }, &all);
    // "A listing has to work."
    let _ = half.adopt().await;
    let _ = store.delete(&Anchor::entry()).await;
    let opened = open(&way, &all).await.unwrap();
    assert_same(opened.store.get(&version).await, "v2");
}

#[tokio::test]
async fn an_adoption_makes_no_key_over_records_that_cannot_be_read() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let way = Way::to(&store);
    let opened = open(&way, &[("one", &one)]).await.unwrap();
    put(&*opened.store, "k1").await;
    store.delete(&Anchor::entry()).await.unwrap();
    // The operator's login may list and may not read keys; the root goes by another id, or is another one.
    *way.denies.lock().unwrap() = Some(("k".into(), ErrorKind::Denied));
    let outcome = roots(&way, &[("two", &two)]).adopt().await;
    *way.denies.lock().unwrap() = None;
    assert!(outcome.is_err() && anchor(&store).await.is_none(), "a fresh store key was made over live data");
}

#[tokio::test]
async fn an_adoption_makes_no_key_beside_records_that_cannot_be_read() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let way = Way::to(&store);
    earlier(&store, &two, &["a1"]).await;
    let opened = roots(&way, &[("one", &one)]);
    let before = Wrapped::new(store.clone(), one.clone());
    put(&before, "b1").await;
    opened.adopt().await.unwrap();
    put(&*open(&way, &[("one", &one)]).await.unwrap().store, "k1").await;
    store.delete(&Anchor::entry()).await.unwrap();
    // The sealed record is deleted in the backend's way, and can be restored.
    *way.denies.lock().unwrap() = Some(("k".into(), ErrorKind::Deleted));
    let outcome = roots(&way, &[("two", &two)]).adopt().await;
    *way.denies.lock().unwrap() = None;
    assert!(outcome.is_err() && anchor(&store).await.is_none(), "a fresh store key was made over live data");
}
