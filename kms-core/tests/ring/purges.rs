//! Keys that are removed for ever, and servers that die in between.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kms_core::primitives::{Cipher, Fingerprint, SecretKey};
use kms_core::store::{EntryName, KeyStore, MemoryStore, survey};
use kms_core::{ErrorKind, ImportedKey, KeyRing, Kms, ListQuery, Purge, Resolution, Result};

use super::scripted::{LONG, kind, name, request};
use super::servers::*;

#[tokio::test]
async fn a_purge_removes_everything_and_not_too_early() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (server(&store), server(&store));
    let before = create(&one).await;
    let sealed = seal(&one).await;
    rotate(&one, 3).await;
    seen().await;
    one.retire(&request("operator"), &name(), 2).await.unwrap();
    assert!(why(purge(&other, &NOW).await).contains("'kms key rm my-key' comes first"));
    delete(&one).await.unwrap();
    assert!(why(purge(&other, &NOW).await).contains("other servers may still use the key"));
    seen().await;
    let kept = why(purge(&other, &Purge::default()).await);
    assert!(kept.contains("is kept until") && kept.contains("--now"), "{kept}");
    let purged = purge(&other, &NOW).await.unwrap();
    assert_eq!((purged.fingerprint, purged.versions), (before, 4));
    assert_eq!(left(&store).await, [""; 0]);
    for ring in [&one, &other] {
        assert_eq!(kind(open(ring, &sealed).await), Some(ErrorKind::NotFound));
        assert_eq!(kind(restore(ring).await), Some(ErrorKind::NotFound));
        assert_eq!(kind(purge(ring, &NOW).await), Some(ErrorKind::NotFound));
    }
    let after = create(&other).await;
    assert_ne!(before, after, "the name is free");
    assert_eq!(kind(open(&one, &sealed).await), Some(ErrorKind::NotAuthentic));
    // Nothing is left, so the fingerprint of the old key names nothing, and that of the new one a key that is there.
    let of = |fingerprint| Purge { fingerprint: Some(fingerprint), ..RESUME };
    assert_eq!(kind(purge(&one, &of(before)).await), Some(ErrorKind::NotFound));
    assert_eq!(kind(purge(&one, &of(after)).await), Some(ErrorKind::Conflict));
    assert!(open(&one, &seal(&other).await).await.is_ok());
}

#[tokio::test]
async fn a_key_is_purged_without_a_special_word_once_its_time_is_over() {
    let store = Arc::new(MemoryStore::new());
    let way = Way { store, writes_left: AtomicUsize::new(100), denied: Mutex::default() };
    let grace = ANY * 2;
    let ring = KeyRing::keeping_deleted(Arc::new(way), SHORT, grace);
    create(&ring).await;
    delete(&ring).await.unwrap();
    seen().await;
    assert_eq!(kind(purge(&ring, &Purge::default()).await), Some(ErrorKind::Conflict));
    tokio::time::sleep(grace).await;
    purge(&ring, &Purge::default()).await.unwrap();
}

/// Does something on servers that are killed after each number of writes, until one lives long enough. Returns the number of
/// writes that it takes.
async fn killed_at_each_step<T>(
    prepare: impl AsyncFn(&Ring),
    act: impl AsyncFn(&Ring) -> Result<T>,
    recover: impl AsyncFn(&Arc<MemoryStore>, &Fingerprint),
) -> usize {
    for writes in 0.. {
        let store = Arc::new(MemoryStore::new());
        let one = server(&store);
        let fingerprint = create(&one).await;
        prepare(&one).await;
        let outcome = act(&server_that_dies_after(&store, writes)).await;
        if outcome.is_ok() {
            return writes;
        }
        recover(&store, &fingerprint).await;
    }
    unreachable!("it ends")
}

#[tokio::test]
async fn what_a_killed_server_left_is_finished_by_the_same_command() {
    let deleted = async |ring: &Ring| {
        rotate(ring, 2).await;
        delete(ring).await.unwrap();
        seen().await;
    };
    // A delete is one write.
    let steps = killed_at_each_step(
        async |_| {},
        async |ring| delete(ring).await,
        async |store, _| {
            delete(&server(store)).await.unwrap();
        },
    );
    assert_eq!(steps.await, 1);

    // A restore: make `.p`, remove `.d`, remove `.p`.
    let steps = killed_at_each_step(
        deleted,
        async |ring| restore(ring).await,
        async |store, _| {
            let ring = server(store);
            let again = restore(&ring).await;
            if let Err(error) = again {
                assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
                ring.restore(&request("operator"), &name(), true).await.unwrap();
            }
            assert!(open(&ring, &seal(&ring).await).await.is_ok());
            assert_eq!(store.segments(".p/").await.unwrap(), [""; 0]);
            delete(&ring).await.unwrap();
        },
    );
    // The last write only tidies up, and a restore is done without it.
    assert_eq!(steps.await, 2);

    // A purge: make `.p`, remove the entry, two versions, `.d`, `.p`.
    let steps = killed_at_each_step(
        deleted,
        async |ring| purge(ring, &NOW).await,
        async |store, fingerprint| {
            let ring = server(store);
            let first = purge(&ring, &NOW).await;
            if first.is_err() {
                let is_there = store.get(&EntryName::from(&name())).await.is_ok();
                let told = why(first);
                let page = ring.deleted(&request("operator"), &ListQuery::prefix("")).await.unwrap();
                assert_eq!(page.keys.len(), 1, "{told}");
                assert_eq!(page.keys[0].is_restorable, is_there);
                if is_there {
                    assert_eq!(page.keys[0].under_way, Some(Resolution::Purge));
                    assert!(told.contains("'kms key purge my-key --resume' goes on"), "{told}");
                    purge(&ring, &RESUME).await.unwrap();
                } else {
                    // The name is free. What is made under it is not touched.
                    ring.create(&request("client"), &name()).await.unwrap();
                    let sealed = seal(&ring).await;
                    let fingerprint = Some(*fingerprint);
                    let told = why(purge(&ring, &Purge { fingerprint, ..NOW }).await);
                    assert!(told.contains("--resume"), "{told}");
                    purge(&ring, &Purge { fingerprint, ..RESUME }).await.unwrap();
                    assert!(open(&ring, &sealed).await.is_ok());
                }
            }
            assert_eq!(left(store).await, [""; 0]);
        },
    );
    assert_eq!(steps.await, 6);
}

#[tokio::test]
async fn of_a_delete_without_grace_that_was_cut_off_the_rest_is_purged_by_fingerprint() {
    for writes in 1..3 {
        let store = Arc::new(MemoryStore::new());
        let fingerprint = {
            let ring = server(&store);
            let fingerprint = create(&ring).await;
            rotate(&ring, 2).await;
            fingerprint
        };
        let way = Way { store, writes_left: AtomicUsize::new(writes), denied: Mutex::default() };
        let store = Arc::clone(&way.store);
        let ring = KeyRing::new(Arc::new(way), SHORT);
        ring.delete(&request("operator"), &name()).await.unwrap();
        assert!(!left(&store).await.is_empty());
        assert_eq!(survey(&*store).await.unwrap().remnants, [(name(), fingerprint)]);
        let rest = Purge { fingerprint: Some(fingerprint), now: false, resume: false };
        purge(&server(&store), &rest).await.unwrap();
        assert_eq!(left(&store).await, [""; 0]);
        assert_eq!(survey(&*store).await.unwrap().remnants, []);
    }
}

/// Restores and purges a key at once, on two servers. Returns whether it was restored.
async fn race(round: usize) -> bool {
    let store = Arc::new(MemoryStore::new());
    // Nothing is cached, so that nobody has to wait until the others have seen the delete.
    let server = || {
        let way = Way {
            store: Arc::clone(&store),
            writes_left: AtomicUsize::new(usize::MAX),
            denied: Mutex::default(),
        };
        Arc::new(KeyRing::keeping_deleted(Arc::new(way), LONG.with_any(Duration::ZERO), GRACE))
    };
    let (one, other) = (server(), server());
    create(&one).await;
    let first = seal(&one).await;
    one.rotate(&request("operator"), &name(), None).await.unwrap();
    delete(&one).await.unwrap();
    let pause = async |times| {
        for _ in 0..times {
            tokio::task::yield_now().await;
        }
    };
    let restoring = async {
        pause(round % 17).await;
        restore(&one).await
    };
    let purging = async {
        pause(round / 17 % 17).await;
        purge(&other, &NOW).await
    };
    let outcomes = tokio::join!(restoring, purging);
    assert_eq!(store.segments(".p/").await.unwrap(), [""; 0]);
    match outcomes {
        (Ok(()), Err(_)) => {
            assert_eq!(open(&one, &first).await.unwrap().expose(), b"text");
            assert_eq!(store.segments(".v/").await.unwrap(), ["my-key"], "it is wholly there");
            assert_eq!(one.versions(&request("client"), &name()).await.unwrap().len(), 2);
            true
        }
        (Err(_), Ok(_)) => {
            assert_eq!(kind(open(&one, &first).await), Some(ErrorKind::NotFound));
            assert_eq!(left(&store).await, [""; 0], "it is wholly gone");
            false
        }
        outcomes => panic!("round {round}: nobody or both say that they did it: {outcomes:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_restore_and_a_purge_at_once_one_wins_and_both_tell_the_truth() {
    let mut races: tokio::task::JoinSet<_> = (0..1000).map(race).collect();
    let mut restored = 0;
    while let Some(race) = races.join_next().await {
        restored += usize::from(race.unwrap());
    }
    assert!((10..990).contains(&restored), "{restored} of 1000 restored");
}

#[tokio::test]
async fn bytes_whose_purge_was_cut_off_are_not_imported() {
    let store = Arc::new(MemoryStore::new());
    let import = async |ring: &Ring| {
        let key = ImportedKey::new(SecretKey::take(&mut [7; 32]), Cipher::Aes256);
        ring.import(&request("operator"), &name(), key).await
    };
    let ring = server(&store);
    import(&ring).await.unwrap();
    let fingerprint = ring.describe(&request("client"), &name()).await.unwrap().fingerprint.unwrap();
    delete(&ring).await.unwrap();
    seen().await;
    assert_eq!(kind(import(&ring).await), Some(ErrorKind::AlreadyExists), "the name is taken");
    assert!(purge(&server_that_dies_after(&store, 2), &NOW).await.is_err());
    let told = import(&ring).await.err().unwrap();
    assert_eq!(told.kind(), ErrorKind::Conflict);
    let command = format!("'kms key purge my-key --fingerprint {} --resume'", hex(&fingerprint));
    assert!(told.chain().to_string().contains(&command), "{told:?}");
    purge(&ring, &Purge { fingerprint: Some(fingerprint), ..RESUME }).await.unwrap();
    import(&ring).await.unwrap();
}
