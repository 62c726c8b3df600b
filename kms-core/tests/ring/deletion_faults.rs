//! Deletes and purges of what is denied, planted, or half gone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kms_core::primitives::Fingerprint;
use kms_core::store::{EntryName, KeyStore, MemoryStore};
use kms_core::{ErrorKind, Kms, ListQuery, Purge};

use super::hooked::*;
use super::scripted::{kind, name, request};
use super::servers::{NOW, RESUME, left, seen, why};

/// The login loses its rights between the last read and the removal.
#[tokio::test]
async fn a_purge_that_removed_nothing_does_not_say_that_it_did() {
    let store = Arc::new(MemoryStore::new());
    let one = ring(&store);
    create(&one).await;
    del(&one).await.unwrap();
    seen().await;
    one.store().denies_from_delete.store(true, Ordering::SeqCst);
    let purged = purge(&one, &NOW).await;
    assert!(purged.is_err(), "it says that the key is removed for ever, and nothing was");
}

/// A key with a lost version is purged.
#[tokio::test]
async fn a_purge_of_a_key_with_a_lost_version_removes_all() {
    let store = Arc::new(MemoryStore::new());
    let one = ring(&store);
    let fp = create(&one).await;
    for _ in 0..4 {
        one.rotate(&request("o"), &name(), None).await.unwrap();
    }
    store.delete(&EntryName::version(&name(), &fp, 2)).await.unwrap();
    let two = ring(&store);
    del(&two).await.unwrap();
    seen().await;
    assert_eq!(purge(&two, &NOW).await.unwrap().versions, 5);
    assert_eq!(left(&store).await, [""; 0]);
}

/// A planted marker which the backend cannot open: on Secrets Manager one under a CMK that is disabled.
#[tokio::test]
async fn a_planted_marker_that_is_disabled_has_no_effect() {
    let store = Arc::new(MemoryStore::new());
    let one = ring(&store);
    create(&one).await;
    let sealed = seal(&one).await.unwrap();
    *one.store().fails_reads.lock().unwrap() = Some((".d/".into(), ErrorKind::Disabled));
    seen().await;
    let opened = open(&one, &sealed).await;
    assert!(opened.is_ok());
}

/// The entry of a deleted key with versions is removed by KES or by hand; the operator has a backup of it.
#[tokio::test]
async fn what_a_refused_import_tells_to_do_loses_no_versions() {
    let store = Arc::new(MemoryStore::new());
    let one = ring(&store);
    import(&one).await.unwrap();
    one.rotate(&request("o"), &name(), None).await.unwrap();
    seen().await;
    let sealed = seal(&one).await.unwrap();
    del(&one).await.unwrap();
    store.delete(&EntryName::from(&name())).await.unwrap();
    let told = why(import(&one).await);
    assert!(told.contains("To keep its versions, remove entry '.d/my-key/"), "{told}");
    let marker = left(&store).await.into_iter().find(|left| left.starts_with(".d/")).unwrap();
    assert!(told.contains(&marker), "{told}");
    let first = one.store().store.segments(".d/my-key/").await.unwrap().remove(0);
    let mut bytes = [0; 16];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&first[2 * at..2 * at + 2], 16).unwrap();
    }
    store.delete(&EntryName::deleted(&name(), &Fingerprint::from_bytes(bytes))).await.unwrap();
    import(&one).await.unwrap();
    assert!(open(&one, &sealed).await.is_ok());
}

/// A key with a true `.d` is deleted in the backend's own way, too.
#[tokio::test]
async fn a_key_that_is_deleted_twice_is_listed() {
    let store = Arc::new(MemoryStore::new());
    let one = ring(&store);
    create(&one).await;
    del(&one).await.unwrap();
    *one.store().fails_reads.lock().unwrap() = Some(("my-key".into(), ErrorKind::Deleted));
    let shown = one.list(&request("c"), &ListQuery::prefix("")).await.unwrap().names.len();
    let deleted = one.deleted(&request("c"), &ListQuery::prefix("")).await.unwrap().keys.len();
    assert!(shown + deleted > 0, "neither `ls` nor `ls --deleted` shows it");
}

/// A store that denies `.v`: a purge that died after it removed the entry is finished.
#[tokio::test]
async fn a_cut_off_purge_is_finished_where_versions_are_denied() {
    let store = Arc::new(MemoryStore::new());
    let one = ring(&store);
    let fp = create(&one).await;
    let deny = |r: &Ring| *r.store().fails_reads.lock().unwrap() = Some((".v/".into(), ErrorKind::Denied));
    deny(&one);
    del(&one).await.unwrap();
    seen().await;
    purge_and_die(&one).await;
    let two = ring(&store);
    deny(&two);
    let ended = purge(&two, &Purge { fingerprint: Some(fp), ..RESUME }).await;
    assert!(ended.is_ok());
}

#[tokio::test]
async fn a_delete_waits_for_the_end_of_a_restore() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ring(&store), ring(&store));
    create(&one).await;
    del(&one).await.unwrap();
    let (at, go) = one.store().hook(At::BeforeDelete, ".p/");
    let restoring = during(&one, |one| async move { one.restore(&request("o"), &name(), false).await });
    reached(&at).await;
    let told = why(del(&other).await);
    assert!(told.contains("a restore of the key is under way since"), "{told}");
    go.add_permits(1);
    restoring.await.unwrap().unwrap();
    del(&other).await.unwrap();
}

#[tokio::test]
async fn a_delete_without_grace_leaves_what_another_server_keeps() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ring(&store), without_grace(&store));
    create(&one).await;
    // It has read the key, and looks whether a restore is under way.
    let (at, go) = other.store().hook(At::BeforeGet, ".p/");
    let deleting = during(&other, |other| async move { del(&other).await });
    reached(&at).await;
    del(&one).await.unwrap();
    go.add_permits(1);
    assert_eq!(kind(deleting.await.unwrap()), Some(ErrorKind::Deleted));
    one.restore(&request("o"), &name(), false).await.unwrap();
}

#[tokio::test]
async fn a_purge_leaves_another_key_of_the_name_alone() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ring(&store), ring(&store));
    create(&one).await;
    del(&one).await.unwrap();
    seen().await;
    let (first, first_go) = one.store().hook(At::BeforeGet, "my-key");
    let (second, second_go) = one.store().hook(At::BeforeGet, "my-key");
    let purging = during(&one, |one| async move { purge(&one, &NOW).await });
    reached(&first).await;
    first_go.add_permits(1);
    reached(&second).await;
    store.delete(&EntryName::from(&name())).await.unwrap();
    let anew = create(&other).await;
    second_go.add_permits(1);
    purging.await.unwrap().unwrap();
    let there = other.describe(&request("c"), &name()).await.unwrap();
    assert_eq!(there.fingerprint, Some(anew));
}

#[tokio::test]
async fn a_purge_of_the_rest_leaves_a_key_that_was_imported_before_it() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ring(&store), ring(&store));
    import(&one).await.unwrap();
    let fingerprint = one.describe(&request("c"), &name()).await.unwrap().fingerprint;
    one.rotate(&request("o"), &name(), None).await.unwrap();
    seen().await;
    let sealed = seal(&one).await.unwrap();
    store.delete(&EntryName::from(&name())).await.unwrap();
    let (at, go) = one.store().hook(At::BeforeCreate, ".p/");
    let purging = during(&one, |one| async move { purge(&one, &Purge { fingerprint, ..NOW }).await });
    reached(&at).await;
    import(&other).await.unwrap();
    go.add_permits(1);
    assert_eq!(kind(purging.await.unwrap()), Some(ErrorKind::Conflict));
    assert!(open(&ring(&store), &sealed).await.is_ok(), "its versions are there");
    assert!(!left(&store).await.iter().any(|left| left.starts_with(".p/")));
}

#[tokio::test]
async fn a_delete_that_was_undone_at_once_says_so() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ring(&store), ring(&store));
    create(&one).await;
    let (first, first_go) = one.store().hook(At::BeforeGet, ".d/");
    let (second, second_go) = one.store().hook(At::BeforeGet, ".d/");
    let deleting = during(&one, |one| async move { del(&one).await });
    reached(&first).await;
    first_go.add_permits(1);
    // It reads back the marker that it has made.
    reached(&second).await;
    other.restore(&request("o"), &name(), false).await.unwrap();
    second_go.add_permits(1);
    let error = deleting.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.chain().to_string().contains("another server undid it at the same moment"));
    assert!(seal(&ring(&store)).await.is_ok());
}
