//! Keys that are deleted with a grace and restored, by several servers.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kms_core::primitives::Fingerprint;
use kms_core::store::{EntryName, MemoryStore};
use kms_core::{ErrorKind, KeyRing, Kms, ListQuery, contract};

use super::scripted::{LONG, kind, name, request};
use super::servers::*;

#[tokio::test]
async fn a_ring_with_a_grace_keeps_the_contract() {
    let ring = |store| Arc::new(KeyRing::keeping_deleted(store, LONG.with_any(Duration::ZERO), GRACE));
    contract::kms(ring(Arc::new(MemoryStore::new()))).await;
    let store = Arc::new(MemoryStore::new());
    contract::deletions(ring(Arc::clone(&store)), ring(store)).await;
}

#[tokio::test]
async fn a_deleted_key_is_gone_for_clients_and_comes_back_whole() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (server(&store), server(&store));
    create(&one).await;
    let first = seal(&one).await;
    rotate(&one, 2).await;
    let later = seal(&one).await;
    assert_eq!(open(&other, &later).await.unwrap().expose(), b"text");
    delete(&one).await.unwrap();
    seen().await;
    for ring in [&one, &other] {
        let request = request("client");
        let outcomes = [
            ring.describe(&request, &name()).await.map(drop),
            ring.generate(&request, &name(), b"").await.map(drop),
            ring.encrypt(&request, &name(), b"", b"").await.map(drop),
            open(ring, &first).await.map(drop),
            open(ring, &later).await.map(drop),
            ring.hmac(&request, &name(), b"").await.map(drop),
            ring.rotate(&request, &name(), None).await.map(drop),
            ring.rewrap(&request, &name(), &later, b"c").await.map(drop),
            ring.versions(&request, &name()).await.map(drop),
            ring.retire(&request, &name(), 1).await,
            ring.enable(&request, &name(), 1).await,
            delete(ring).await,
        ];
        for (number, outcome) in outcomes.into_iter().enumerate() {
            let error = outcome.err().unwrap_or_else(|| panic!("{number}"));
            assert_eq!(error.kind(), ErrorKind::Deleted, "{number}: {error:?}");
            assert!(error.chain().to_string().contains("'kms key restore my-key' brings it back"));
        }
        let create = ring.create(&request, &name()).await;
        assert_eq!(kind(create), Some(ErrorKind::AlreadyExists));
        let page = ring.list(&request, &ListQuery::prefix("")).await.unwrap();
        assert!(page.names.is_empty(), "{page:?}");
        let page = ring.deleted(&request, &ListQuery::prefix("my-")).await.unwrap();
        assert_eq!(page.keys.len(), 1);
        assert!(page.keys[0].is_restorable && page.keys[0].under_way.is_none(), "{page:?}");
        assert!(ring.status().await.unwrap().degraded.is_none(), "a deletion is no fault");
        assert_eq!(ring.check_all().await.unwrap().deleted, [name()]);
    }
    restore(&other).await.unwrap();
    for ring in [&one, &other] {
        assert_eq!(open(ring, &first).await.unwrap().expose(), b"text");
        assert_eq!(open(ring, &later).await.unwrap().expose(), b"text");
        assert!(why(restore(ring).await).contains("not deleted"));
        assert!(ring.deleted(&request("client"), &ListQuery::prefix("")).await.unwrap().keys.is_empty());
    }
}

#[tokio::test]
async fn what_somebody_plants_who_does_not_know_the_key_has_no_effect() {
    let store = Arc::new(MemoryStore::new());
    let ring = server(&store);
    let fingerprint = create(&ring).await;
    let sealed = seal(&ring).await;
    let plant = async |entry: &EntryName| {
        let says = br#"{"what":"purge","run":"x","at":"2026-01-01T00:00:00Z","by":"me","until":"2026-01-01T00:00:00Z"}"#;
        let content = [b"0".repeat(64).as_slice(), b" ", says].concat();
        store.overwrite(entry, &content);
    };
    let (d, p) = (EntryName::deleted(&name(), &fingerprint), EntryName::under_way(&name(), &fingerprint));
    plant(&d).await;
    plant(&p).await;
    seen().await;
    assert_eq!(open(&ring, &sealed).await.unwrap().expose(), b"text");
    let query = ListQuery::prefix("");
    assert_eq!(ring.list(&request("client"), &query).await.unwrap().names, [name()]);
    assert!(ring.deleted(&request("client"), &query).await.unwrap().keys.is_empty());
    assert_eq!(kind(restore(&ring).await), Some(ErrorKind::Conflict));
    assert_eq!(kind(purge(&ring, &RESUME).await), Some(ErrorKind::Conflict));
    // They make room for the true ones.
    delete(&ring).await.unwrap();
    plant(&p).await;
    restore(&ring).await.unwrap();
    assert_eq!(open(&ring, &sealed).await.unwrap().expose(), b"text");
    delete(&ring).await.unwrap();
    plant(&p).await;
    seen().await;
    purge(&ring, &NOW).await.unwrap();
    assert_eq!(left(&store).await, [""; 0]);
    // A marker under another fingerprint is of no key, and says nothing of the one that is there.
    let ring = server(&store);
    let _ = create(&ring).await;
    plant(&EntryName::deleted(&name(), &Fingerprint::from_bytes([7; 16]))).await;
    assert!(open(&ring, &seal(&ring).await).await.is_ok());
    assert_eq!(ring.list(&request("client"), &query).await.unwrap().names, [name()]);
}

#[tokio::test]
async fn a_denied_marker_lets_a_key_serve_and_refuses_its_delete_and_an_outage_is_one() {
    let store = Arc::new(MemoryStore::new());
    let ring = server(&store);
    create(&ring).await;
    let sealed = seal(&ring).await;
    let deny = |kind| *ring.store().denied.lock().unwrap() = Some((".d/".to_owned(), kind));
    deny(ErrorKind::Denied);
    seen().await;
    assert_eq!(open(&ring, &sealed).await.unwrap().expose(), b"text");
    assert_eq!(kind(delete(&ring).await), Some(ErrorKind::Denied));
    assert_eq!(ring.list(&request("client"), &ListQuery::prefix("")).await.unwrap().names, [name()]);
    deny(ErrorKind::Unreachable);
    seen().await;
    assert_eq!(kind(open(&ring, &sealed).await), Some(ErrorKind::Unreachable));
    assert_eq!(kind(delete(&ring).await), Some(ErrorKind::Unreachable));
    *ring.store().denied.lock().unwrap() = None;
    assert_eq!(open(&server(&store), &sealed).await.unwrap().expose(), b"text", "nothing was removed");
}

#[tokio::test]
async fn a_page_is_filled_however_many_of_its_names_are_deleted() {
    let store = Arc::new(MemoryStore::new());
    let ring = server(&store);
    for number in 0..40 {
        let name = kms_core::KeyName::new(format!("key-{number:02}")).unwrap();
        ring.create(&request("client"), &name).await.unwrap();
        if number < 30 {
            ring.delete(&request("operator"), &name).await.unwrap();
        }
    }
    let query = ListQuery { prefix: "key-", after: None, limit: 8 };
    let page = ring.list(&request("client"), &query).await.unwrap();
    let names: Vec<_> = page.names.iter().map(kms_core::KeyName::as_str).collect();
    assert_eq!(names, (30..38).map(|number| format!("key-{number:02}")).collect::<Vec<_>>());
    assert!(page.more);
    let page = ring.deleted(&request("client"), &query).await.unwrap();
    assert_eq!((page.keys.len(), page.continue_at.is_some()), (8, true));
}

#[tokio::test]
async fn the_last_use_of_a_key_outlives_its_place_in_memory() {
    let store = Arc::new(MemoryStore::new());
    let config = SHORT.with_unused(Duration::from_millis(100));
    let way = Way { store, writes_left: AtomicUsize::new(10), denied: Mutex::default() };
    let ring = KeyRing::new(Arc::new(way), config);
    create(&ring).await;
    assert_eq!(ring.last_use(&name()), None, "it was made and described, and not used");
    seal(&ring).await;
    assert!(ring.last_use(&name()).is_some());
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(ring.last_use(&name()).is_some());
}
