//! Imports and marks that meet a delete, a restore or a purge at the worst moment.

use super::hooked::*;
use super::scripted::{kind, name, request};
use super::servers::{NOW, RESUME, left, seen, why};
use kms_core::store::{EntryName, KeyStore, MemoryStore};
use kms_core::{ErrorKind, Kms, Purge};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn an_import_removes_no_key_that_is_not_its_own() {
    let store = Arc::new(MemoryStore::new());
    let (one, other, third) = (ring(&store), ring(&store), ring(&store));
    import(&one).await.unwrap();
    let (c_at, c_go) = other.store().hook(At::BeforeCreate, "my-key");
    let importing = during(&other, |other| async move { import(&other).await });
    reached(&c_at).await;
    del(&one).await.unwrap();
    seen().await;
    purge_and_die(&one).await;
    // It reads back what it stored, and later what it is about to remove.
    let (r_at, r_go) = other.store().hook(At::BeforeGet, "my-key");
    let (d_at, d_go) = other.store().hook(At::BeforeGet, "my-key");
    c_go.add_permits(1);
    reached(&r_at).await;
    r_go.add_permits(1);
    reached(&d_at).await;
    purge(&third, &RESUME).await.unwrap();
    assert_eq!(left(&store).await, [""; 0]);
    create(&third).await;
    let sealed = seal(&third).await.unwrap();
    d_go.add_permits(1);
    assert_eq!(kind(importing.await.unwrap()), Some(ErrorKind::Conflict));
    assert!(
        store.get(&EntryName::from(&name())).await.is_ok(),
        "the import removed the key of somebody else"
    );
    assert!(open(&ring(&store), &sealed).await.is_ok());
}

#[tokio::test]
async fn an_import_removes_no_key_that_a_delete_keeps() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ring(&store), ring(&store));
    let (a, ago) = other.store().hook(At::BeforeGet, ".p/");
    let (b, bgo) = other.store().hook(At::BeforeGet, ".p/");
    let importing = during(&other, |other| async move { import(&other).await });
    reached(&a).await;
    ago.add_permits(1);
    reached(&b).await;
    let sealed = seal(&one).await.unwrap();
    one.rotate(&request("o"), &name(), None).await.unwrap();
    let kept = one.delete(&request("o"), &name()).await.unwrap();
    assert!(kept.is_marked && kept.until.is_some());
    bgo.add_permits(1);
    importing.await.unwrap().unwrap();
    let restored = one.restore(&request("o"), &name(), false).await;
    assert!(restored.is_ok(), "the delete said that it is kept: {restored:?}");
    assert!(open(&one, &sealed).await.is_ok());
}

#[tokio::test]
async fn an_import_and_a_restore_do_not_both_end_the_key() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ring(&store), ring(&store));
    let (a, ago) = other.store().hook(At::BeforeGet, ".p/");
    let (b, bgo) = other.store().hook(At::BeforeGet, ".p/");
    let importing = during(&other, |other| async move { import(&other).await });
    reached(&a).await;
    ago.add_permits(1);
    reached(&b).await;
    one.delete(&request("o"), &name()).await.unwrap();
    let (r, rgo) = one.store().hook(At::BeforeDelete, ".d/");
    let restoring = during(&one, |one| async move { one.restore(&request("o"), &name(), false).await });
    reached(&r).await;
    bgo.add_permits(1);
    importing.await.unwrap().unwrap();
    rgo.add_permits(1);
    restoring.await.unwrap().unwrap();
    assert!(seal(&ring(&store)).await.is_ok(), "restore said that the key is back");
}

#[tokio::test]
async fn two_purges_of_the_rest_tell_the_truth() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ring(&store), ring(&store));
    let fp = create(&one).await;
    one.rotate(&request("o"), &name(), None).await.unwrap();
    store.delete(&EntryName::from(&name())).await.unwrap();
    let by = Purge { fingerprint: Some(fp), ..NOW };
    let (c, cgo) = one.store().hook(At::BeforeCreate, ".p/");
    let first = during(&one, |one| async move { purge(&one, &by).await });
    reached(&c).await;
    let second = during(&other, |other| async move { purge(&other, &by).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    cgo.add_permits(1);
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    second.unwrap();
    assert_eq!(kind(first), Some(ErrorKind::Conflict));
}

#[tokio::test]
async fn a_mark_that_cannot_be_made_is_told_as_it_is() {
    let store = Arc::new(MemoryStore::new());
    let one = ring(&store);
    create(&one).await;
    *one.store().fails_creates.lock().unwrap() = Some(ErrorKind::Internal);
    let told = why(del(&one).await);
    assert!(told.contains("Vault answered 500"), "{told}");
}

#[tokio::test]
async fn an_import_whose_second_look_fails_does_not_say_that_it_is_done() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ring(&store), ring(&store));
    import(&one).await.unwrap();
    let (c_at, c_go) = other.store().hook(At::BeforeCreate, "my-key");
    let importing = during(&other, |other| async move { import(&other).await });
    reached(&c_at).await;
    del(&one).await.unwrap();
    seen().await;
    let (at, go) = one.store().hook(At::BeforeDelete, ".x/");
    let purging = during(&one, |one| async move { purge(&one, &NOW).await });
    reached(&at).await;
    *other.store().fails_reads.lock().unwrap() = Some((".p/".into(), ErrorKind::Unreachable));
    c_go.add_permits(1);
    let imported = importing.await.unwrap();
    go.add_permits(1);
    purging.await.unwrap().unwrap();
    assert!(imported.is_err(), "it does not know");
}
