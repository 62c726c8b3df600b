//! Deletes and purges of what is denied, planted, or half gone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kms_core::primitives::Fingerprint;
use kms_core::store::{EntryName, KeyStore, MemoryStore};
use kms_core::{ErrorKind, Kms, ListQuery, Purge};

use super::hooked::*;
use super::scripted::{name, request};
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
    let (at, _go) = one.store().hook(At::BeforeDelete, ".x/");
    let purging = {
        let one = Arc::clone(&one);
        tokio::spawn(async move { purge(&one, &NOW).await })
    };
    reached(&at).await;
    purging.abort();
    let two = ring(&store);
    deny(&two);
    let ended = purge(&two, &Purge { fingerprint: Some(fp), ..RESUME }).await;
    assert!(ended.is_ok());
}
