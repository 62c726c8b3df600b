//! Deletes, restores and purges that meet each other at the worst moment.

use std::sync::Arc;
use std::time::Duration;

use kms_core::store::{EntryName, KeyStore, MemoryStore};
use kms_core::{ErrorKind, Kms, Purge};

use super::hooked::*;
use super::scripted::{kind, name, request};
use super::servers::{NOW, RESUME, left, seen, why};

/// A server reads the entry, a purge of another server runs to its end, and the server reads `.d`.
#[tokio::test]
async fn a_read_that_a_purge_overtakes_brings_no_purged_key() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ring(&store), ring_with(&store, Duration::from_secs(600)));
    create(&one).await;
    del(&one).await.unwrap();
    seen().await;
    let (at, go) = other.store().hook(At::BeforeGet, ".d/");
    let sealing = during(&other, |other| async move { seal(&other).await });
    reached(&at).await;
    purge(&one, &NOW).await.unwrap();
    go.add_permits(1);
    let sealed = sealing.await.unwrap();
    let later = seal(&other).await;
    assert!(
        sealed.is_err() && later.is_err(),
        "sealed under a key that is purged: {} {}",
        sealed.is_ok(),
        later.is_ok()
    );
}

/// An import of the same bytes while a purge is between its last look and the removal.
#[tokio::test]
async fn an_import_during_a_purge_is_refused() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ring(&store), ring(&store));
    import(&one).await.unwrap();
    let fp = one.describe(&request("c"), &name()).await.unwrap().fingerprint.unwrap();
    let (at, go) = other.store().hook(At::BeforeCreate, "my-key");
    let importing = during(&other, |other| async move { import(&other).await });
    reached(&at).await;
    del(&one).await.unwrap();
    seen().await;
    // The purge's server dies right after it removed the entry.
    purge_and_die(&one).await;
    go.add_permits(1);
    assert_eq!(kind(importing.await.unwrap()), Some(ErrorKind::Conflict));
    assert!(seal(&other).await.is_err());
    // What `ls --deleted` and the 409 tell the operator to do:
    let third = ring(&store);
    purge(&third, &Purge { fingerprint: Some(fp), ..RESUME }).await.unwrap();
    import(&third).await.unwrap();
    assert!(seal(&third).await.is_ok());
}

/// A delete of a name that is not there, while a client makes the key, on servers with a grace.
#[tokio::test]
async fn a_delete_of_nothing_removes_no_new_key() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ring(&store), ring(&store));
    let (at, go) = one.store().hook(At::AfterGet, "my-key");
    let deleting = during(&one, |one| async move { del(&one).await });
    reached(&at).await;
    create(&other).await;
    let sealed = seal(&other).await.unwrap();
    go.add_permits(1);
    assert_eq!(kind(deleting.await.unwrap()), Some(ErrorKind::NotFound));
    seen().await;
    assert!(open(&other, &sealed).await.is_ok(), "the new key is lost for ever although there is a grace");
}

/// Two servers make room for the true marker at once.
#[tokio::test]
async fn two_deletes_over_a_planted_marker_tell_the_truth() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ring(&store), ring(&store));
    let fp = create(&one).await;
    store.overwrite(&EntryName::deleted(&name(), &fp), b"planted");
    let (at, go) = one.store().hook(At::BeforeDelete, ".d/");
    let deleting = during(&one, |one| async move { del(&one).await });
    reached(&at).await;
    let (at2, go2) = other.store().hook(At::BeforeDelete, ".d/");
    let second = during(&other, |other| async move { del(&other).await });
    reached(&at2).await;
    go2.add_permits(1);
    tokio::time::sleep(Duration::from_millis(50)).await;
    go.add_permits(1);
    for outcome in [deleting.await.unwrap(), second.await.unwrap()] {
        assert!(matches!(kind(outcome), None | Some(ErrorKind::Deleted)), "the key is there, and deleted");
    }
    assert_eq!(kind(seal(&ring(&store)).await), Some(ErrorKind::Deleted));
}

/// Restore and purge make room for a planted `.p` at once; one of them is slow.
#[tokio::test]
async fn a_restore_and_a_purge_over_a_planted_marker_tell_the_truth() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ring(&store), ring(&store));
    let fp = create(&one).await;
    del(&one).await.unwrap();
    seen().await;
    store.overwrite(&EntryName::under_way(&name(), &fp), b"planted");
    // The purge has read the planted marker, and is slow to remove it.
    let (p_at, p_go) = other.store().hook(At::BeforeDelete, ".p/");
    let purging = during(&other, |other| async move { purge(&other, &NOW).await });
    reached(&p_at).await;
    // The restore has its marker, and saw everything; it is about to remove `.d`.
    let (r_at, r_go) = one.store().hook(At::BeforeDelete, ".d/");
    let restoring = during(&one, |one| async move { one.restore(&request("o"), &name(), false).await });
    reached(&r_at).await;
    // Purge removes the restore's marker, makes its own, and is about to remove the entry.
    let (e_at, e_go) = other.store().hook(At::BeforeDelete, "my-key");
    p_go.add_permits(1);
    reached(&e_at).await;
    r_go.add_permits(1);
    assert_eq!(kind(restoring.await.unwrap()), Some(ErrorKind::Conflict), "a purge has taken its place");
    e_go.add_permits(1);
    purging.await.unwrap().unwrap();
    assert_eq!(left(&store).await, [""; 0]);
}

/// A rotation that saw the key live makes its version while a purge has counted already.
#[tokio::test]
async fn a_rotation_during_a_purge_leaves_nothing() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ring(&store), ring(&store));
    create(&one).await;
    let (at, go) = other.store().hook(At::BeforeCreate, ".v/");
    let rotating = during(&other, |other| async move { other.rotate(&request("o"), &name(), None).await });
    reached(&at).await;
    del(&one).await.unwrap();
    seen().await;
    let (p_at, p_go) = one.store().hook(At::BeforeDelete, "my-key");
    let purging = during(&one, |one| async move { purge(&one, &NOW).await });
    reached(&p_at).await;
    go.add_permits(1);
    assert_eq!(kind(rotating.await.unwrap()), Some(ErrorKind::Deleted));
    p_go.add_permits(1);
    assert_eq!(purging.await.unwrap().unwrap().versions, 2);
    assert_eq!(left(&store).await, [""; 0]);
}

/// Two purges of one run: a client makes the key anew between the last read of one and its removal.
#[tokio::test]
async fn a_resumed_purge_removes_no_new_key() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ring(&store), ring(&store));
    create(&one).await;
    one.rotate(&request("o"), &name(), None).await.unwrap();
    del(&one).await.unwrap();
    seen().await;
    // The first is slow at its last look at `.p`. It reads that after it made it, and looks twice.
    let (a, ago) = one.store().hook(At::BeforeGet, ".p/");
    let (b, bgo) = one.store().hook(At::BeforeGet, ".p/");
    let (c, cgo) = one.store().hook(At::BeforeGet, ".p/");
    let purging = during(&one, |one| async move { purge(&one, &NOW).await });
    reached(&a).await;
    ago.add_permits(1);
    reached(&b).await;
    bgo.add_permits(1);
    reached(&c).await;
    let (v_at, v_go) = other.store().hook(At::BeforeDelete, ".v/");
    let resumed = during(&other, |other| async move { purge(&other, &RESUME).await });
    reached(&v_at).await;
    let third = ring(&store);
    create(&third).await;
    cgo.add_permits(1);
    assert_eq!(kind(purging.await.unwrap()), Some(ErrorKind::Conflict), "another run took its place");
    v_go.add_permits(1);
    resumed.await.unwrap().unwrap();
    assert!(store.get(&EntryName::from(&name())).await.is_ok(), "the new key was removed");
}

/// A purge read an old `.d`; meanwhile the key is restored, used and deleted again.
#[tokio::test]
async fn a_purge_obeys_the_marker_that_is_there() {
    let store = Arc::new(MemoryStore::new());
    // The grace of the first delete is over soon; the second is deleted by a server with an hour.
    let (one, other) = (with_grace(&store, Duration::from_millis(1)), ring(&store));
    create(&one).await;
    del(&one).await.unwrap();
    seen().await;
    let (at, go) = one.store().hook(At::BeforeCreate, ".p/");
    let purging = during(&one, |one| async move { purge(&one, &Purge::default()).await });
    reached(&at).await;
    other.restore(&request("o"), &name(), false).await.unwrap();
    let sealed = seal(&other).await.unwrap();
    del(&other).await.unwrap();
    go.add_permits(1);
    assert_eq!(kind(purging.await.unwrap()), Some(ErrorKind::Conflict));
    other.restore(&request("o"), &name(), false).await.unwrap();
    assert!(
        open(&other, &sealed).await.is_ok(),
        "purged a moment after the delete said that it is kept for an hour"
    );
}

/// A purge of the rest by fingerprint, and an import of the same bytes at once.
#[tokio::test]
async fn a_purge_of_the_rest_keeps_an_import_away() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ring(&store), ring(&store));
    import(&one).await.unwrap();
    let fp = one.describe(&request("c"), &name()).await.unwrap().fingerprint.unwrap();
    one.rotate(&request("o"), &name(), None).await.unwrap();
    seen().await;
    let sealed = seal(&one).await.unwrap();
    store.delete(&EntryName::from(&name())).await.unwrap();
    let (at, go) = one.store().hook(At::BeforeDelete, ".v/");
    let purging =
        during(&one, |one| async move { purge(&one, &Purge { fingerprint: Some(fp), ..NOW }).await });
    reached(&at).await;
    assert_eq!(kind(import(&other).await), Some(ErrorKind::Conflict));
    go.add_permits(1);
    purging.await.unwrap().unwrap();
    import(&other).await.unwrap();
    assert_eq!(kind(open(&other, &sealed).await), Some(ErrorKind::NotAuthentic));
}

/// A purge whose run was ended by `restore --resume`: what does it say?
#[tokio::test]
async fn a_purge_whose_run_was_ended_says_so() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ring(&store), ring(&store));
    create(&one).await;
    del(&one).await.unwrap();
    seen().await;
    let (a, ago) = one.store().hook(At::BeforeGet, ".p/");
    let (b, bgo) = one.store().hook(At::BeforeGet, ".p/");
    let purging = during(&one, |one| async move { purge(&one, &NOW).await });
    reached(&a).await;
    ago.add_permits(1);
    reached(&b).await;
    other.restore(&request("o"), &name(), true).await.unwrap();
    bgo.add_permits(1);
    let told = why(purging.await.unwrap());
    assert!(!told.contains("under way"), "nothing is under way: the key was restored");
}
