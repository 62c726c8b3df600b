//! A key that is gone from the store, and that nobody removed, is lost: the servers that have it keep it and serve it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kms_core::primitives::{Fingerprint, SecretBytes};
use kms_core::store::{EntryName, KeyStore, MemoryStore, survey};
use kms_core::transfer::{StoredKey, former_name};
use kms_core::{CacheConfig, ErrorKind, KeyName, Kms, ListQuery, Purge};

use super::scripted::{LONG, kind, name, request};
use super::shared::{
    Ring, amiss, create, deaf, delete, entry, fingerprint, import, open, restore, seal, server, until,
};

const ANY: Duration = Duration::from_millis(100);
/// Keys in memory are read again each 80 ms, and go after 100.
const SHORT: CacheConfig = LONG.with_any(ANY).with_unused(ANY);

async fn is_told(ring: &Ring) {
    until("the loss is told", async || amiss(ring).await.contains("lost 1 key")).await;
    assert!(amiss(ring).await.contains(name().as_str()), "{}", amiss(ring).await);
}

/// Creates a key that the store has lost since, and what it sealed.
async fn lost_key(store: &Arc<MemoryStore>, config: CacheConfig) -> (Ring, Fingerprint, Vec<u8>) {
    let ring = deaf(store, config);
    let fingerprint = create(&ring).await;
    let sealed = seal(&ring).await.unwrap();
    store.lose(&entry()).unwrap();
    (ring, fingerprint, sealed)
}

#[tokio::test]
async fn a_lost_key_is_served_past_all_bounds_and_told() {
    let store = Arc::new(MemoryStore::noting());
    let (ring, _, sealed) = lost_key(&store, SHORT).await;
    for _ in 0..20 {
        seal(&ring).await.unwrap();
        tokio::time::sleep(ANY / 5).await;
    }
    is_told(&ring).await;
    // Nobody uses it for longer than an unused key stays.
    tokio::time::sleep(ANY * 5).await;
    assert_eq!(open(&ring, &sealed).await.unwrap().expose(), b"text");
    assert_eq!(
        kind(open(&ring, b"no ciphertext at all, and long enough to be one").await),
        Some(ErrorKind::NotAuthentic)
    );
    assert!(amiss(&ring).await.contains("do not restart this server"), "{}", amiss(&ring).await);
    let page = ring.list(&request("client"), &ListQuery::prefix("")).await.unwrap();
    assert_eq!(page.names, [name()], "a key that is served is listed");
}

#[tokio::test]
async fn nothing_takes_the_place_of_a_lost_key() {
    for is_known in [true, false] {
        let store = Arc::new(MemoryStore::noting());
        // Where it is not known yet that the key is lost, the create itself finds that out.
        let (ring, before, _) = lost_key(&store, if is_known { SHORT } else { LONG }).await;
        if is_known {
            is_told(&ring).await;
        }
        assert_eq!(kind(ring.create(&request("client"), &name()).await), Some(ErrorKind::AlreadyExists));
        assert_eq!(kind(import(&ring, 7).await), Some(ErrorKind::AlreadyExists));
        assert_eq!(kind(delete(&ring).await), Some(ErrorKind::Conflict), "it may be the last copy");
        let rotated = ring.rotate(&request("operator"), &name(), None).await;
        assert_eq!(kind(rotated), Some(ErrorKind::Conflict));
        let rest = Purge { fingerprint: Some(before), now: true, resume: false };
        let purged = ring.purge(&request("operator"), &name(), &rest).await;
        assert_eq!(kind(purged), Some(ErrorKind::Conflict), "its versions are needed");
        is_told(&ring).await;
        assert_eq!(fingerprint(&ring).await.unwrap(), before);
        assert!(store.bytes(&entry()).is_none());
    }
}

#[tokio::test]
async fn a_restore_writes_the_very_record_back() {
    let store = Arc::new(MemoryStore::noting());
    let ring = deaf(&store, SHORT);
    create(&ring).await;
    let (sealed, mac) = (seal(&ring).await.unwrap(), ring.hmac(&request("c"), &name(), b"m").await.unwrap());
    let record = store.lose(&entry()).unwrap();
    restore(&ring).await.unwrap();
    assert!(store.bytes(&entry()) == Some(record), "the bytes are the same, with the HMAC key");
    until("nothing is amiss", async || amiss(&ring).await.is_empty()).await;
    let other = deaf(&store, LONG);
    assert_eq!(open(&other, &sealed).await.unwrap().expose(), b"text");
    assert_eq!(other.hmac(&request("c"), &name(), b"m").await.unwrap(), mac);
    assert_eq!(kind(restore(&ring).await), Some(ErrorKind::Conflict), "it is not lost any more");
    tokio::time::sleep(ANY * 3).await;
    seal(&ring).await.unwrap();
    delete(&ring).await.unwrap();
    assert_eq!(kind(seal(&ring).await), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn versions_come_back_with_their_key() {
    let store = Arc::new(MemoryStore::noting());
    let ring = deaf(&store, SHORT);
    let first = create(&ring).await;
    let mut sealed = vec![seal(&ring).await.unwrap()];
    for _ in 0..2 {
        ring.rotate(&request("operator"), &name(), None).await.unwrap();
        tokio::time::sleep(ANY * 2).await;
        sealed.push(seal(&ring).await.unwrap());
    }
    for ciphertext in &sealed {
        open(&ring, ciphertext).await.unwrap();
    }
    let before = StoredKey::read(&store, &name()).await.unwrap().fingerprints();
    // The standby had the second version, and neither the third nor the key.
    store.lose(&EntryName::version(&name(), &first, 3)).unwrap();
    store.lose(&entry()).unwrap();
    is_told(&ring).await;
    for ciphertext in &sealed {
        open(&ring, ciphertext).await.unwrap();
    }
    restore(&ring).await.unwrap();
    assert_eq!(StoredKey::read(&store, &name()).await.unwrap().fingerprints(), before);
    let other = deaf(&store, LONG);
    for ciphertext in &sealed {
        assert_eq!(open(&other, ciphertext).await.unwrap().expose(), b"text");
    }
}

#[tokio::test]
async fn a_version_that_is_lost_while_its_key_is_there_is_kept_and_comes_back() {
    let store = Arc::new(MemoryStore::noting());
    let ring = deaf(&store, SHORT);
    let first = create(&ring).await;
    ring.rotate(&request("operator"), &name(), None).await.unwrap();
    tokio::time::sleep(ANY * 2).await;
    let sealed = seal(&ring).await.unwrap();
    let slot = EntryName::version(&name(), &first, 2);
    let record = store.lose(&slot).unwrap();
    is_told(&ring).await;
    // Nobody uses it for longer than an unused key stays.
    tokio::time::sleep(ANY * 5).await;
    assert_eq!(open(&ring, &sealed).await.unwrap().expose(), b"text");
    restore(&ring).await.unwrap();
    assert!(store.bytes(&slot) == Some(record));
    until("nothing is amiss", async || amiss(&ring).await.is_empty()).await;
    tokio::time::sleep(ANY * 5).await;
    assert_eq!(amiss(&ring).await, "");
    assert_eq!(open(&deaf(&store, LONG), &sealed).await.unwrap().expose(), b"text");
}

#[tokio::test]
async fn another_key_of_the_name_is_served_and_the_lost_one_is_kept() {
    let store = Arc::new(MemoryStore::noting());
    let (ring, lost, sealed) = lost_key(&store, SHORT).await;
    let other = deaf(&store, LONG);
    let present = create(&other).await;
    is_told(&ring).await;
    until("the other key", async || fingerprint(&ring).await.is_ok_and(|now| now == present)).await;
    assert_eq!(kind(open(&ring, &sealed).await), Some(ErrorKind::NotAuthentic));
    tokio::time::sleep(ANY * 3).await;
    is_told(&ring).await;
    restore(&ring).await.unwrap();
    let kept = former_name(&name(), &lost).unwrap();
    assert_eq!(kept.as_str(), format!("{}-was-{}", name(), &hex::encode(lost.as_bytes())[..8]));
    let opened = other.decrypt(&request("client"), &kept, &sealed, b"c").await.unwrap();
    assert_eq!(opened.expose(), b"text");
    assert_eq!(fingerprint(&ring).await.unwrap(), present);
    until("nothing is amiss", async || amiss(&ring).await.is_empty()).await;
    tokio::time::sleep(ANY * 3).await;
    assert_eq!(amiss(&ring).await, "", "it is kept, so it is not lost again");
}

#[tokio::test]
async fn a_key_that_was_made_here_does_not_push_the_lost_one_out() {
    let store = Arc::new(MemoryStore::noting());
    let (ring, lost, _) = lost_key(&store, SHORT).await;
    let other = deaf(&store, LONG);
    create(&other).await;
    assert_eq!(kind(ring.create(&request("client"), &name()).await), Some(ErrorKind::AlreadyExists));
    is_told(&ring).await;
    restore(&ring).await.unwrap();
    let kept = StoredKey::read(&store, &former_name(&name(), &lost).unwrap()).await.unwrap();
    assert_eq!(kept.fingerprint(), lost);
}

#[tokio::test]
async fn two_servers_restore_the_same_key() {
    let store = Arc::new(MemoryStore::noting());
    let (one, other) = (deaf(&store, SHORT), deaf(&store, SHORT));
    create(&one).await;
    let sealed = seal(&other).await.unwrap();
    store.lose(&entry()).unwrap();
    let (first, second) = tokio::join!(restore(&one), restore(&other));
    first.unwrap();
    second.unwrap();
    for ring in [&one, &other] {
        until("nothing is amiss", async || amiss(ring).await.is_empty()).await;
        open(ring, &sealed).await.unwrap();
    }
}

#[tokio::test]
async fn a_key_that_another_server_wrote_back_is_lost_no_more() {
    let store = Arc::new(MemoryStore::noting());
    let (one, other) = (deaf(&store, SHORT), server(&store, SHORT, Duration::ZERO));
    create(&one).await;
    seal(&other).await.unwrap();
    store.lose(&entry()).unwrap();
    is_told(&one).await;
    is_told(&other).await;
    restore(&one).await.unwrap();
    until("the other server sees it", async || {
        seal(&other).await.unwrap();
        amiss(&other).await.is_empty()
    })
    .await;
    // And a deletion that follows is one.
    delete(&one).await.unwrap();
    until("deleted", async || kind(seal(&other).await) == Some(ErrorKind::NotFound)).await;
    assert_eq!(amiss(&other).await, "");
}

#[tokio::test]
async fn a_removal_is_no_loss_whoever_makes_it() {
    let store = Arc::new(MemoryStore::noting());
    let (one, other) = (deaf(&store, SHORT), deaf(&store, SHORT));
    create(&one).await;
    seal(&other).await.unwrap();
    delete(&one).await.unwrap();
    until("deleted", async || kind(seal(&other).await) == Some(ErrorKind::NotFound)).await;
    assert_eq!(amiss(&other).await, "");
    create(&one).await;
    let before = fingerprint(&other).await.unwrap();
    // It is replaced between two reads of the other server.
    delete(&one).await.unwrap();
    let after = create(&one).await;
    assert_ne!(before, after);
    until("replaced", async || fingerprint(&other).await.is_ok_and(|now| now == after)).await;
    assert_eq!(amiss(&other).await, "");
}

#[tokio::test]
async fn an_import_of_a_removed_key_takes_its_note_away() {
    let store = Arc::new(MemoryStore::noting());
    let ring = deaf(&store, SHORT);
    import(&ring, 7).await.unwrap();
    let first = fingerprint(&ring).await.unwrap();
    delete(&ring).await.unwrap();
    let note = store.bytes(&EntryName::gone(&name(), &first)).expect("a removal leaves a note");
    let note: serde_json::Value = serde_json::from_slice(note.expose()).unwrap();
    assert!(note["at"].is_string() && note["by"].is_string(), "{note}");
    assert!(survey(&store).await.unwrap().remnants.is_empty(), "a note is not what is left of a key");
    import(&ring, 7).await.unwrap();
    assert!(store.bytes(&EntryName::gone(&name(), &first)).is_none());
    // So a loss of the key that came back is seen.
    store.lose(&entry()).unwrap();
    is_told(&ring).await;
}

#[tokio::test]
async fn while_the_notes_cannot_be_read_nothing_is_decided_and_the_key_stays() {
    let store = Arc::new(MemoryStore::noting());
    let (ring, _, sealed) = lost_key(&store, SHORT).await;
    *ring.store().fails.lock().unwrap() = Some((".", ErrorKind::Unreachable));
    // The copy is not served past its time, as in an outage.
    until("an outage", async || kind(open(&ring, &sealed).await) == Some(ErrorKind::Unreachable)).await;
    tokio::time::sleep(ANY * 5).await;
    assert_eq!(amiss(&ring).await, "");
    assert!(ring.create(&request("client"), &name()).await.is_err());
    *ring.store().fails.lock().unwrap() = None;
    assert_eq!(open(&ring, &sealed).await.unwrap().expose(), b"text", "it is in memory all the same");
    is_told(&ring).await;
}

#[tokio::test]
async fn a_lost_key_is_served_in_an_outage_too() {
    let store = Arc::new(MemoryStore::noting());
    let (ring, _, sealed) = lost_key(&store, SHORT).await;
    is_told(&ring).await;
    *ring.store().fails.lock().unwrap() = Some(("", ErrorKind::Unreachable));
    tokio::time::sleep(ANY * 3).await;
    assert_eq!(open(&ring, &sealed).await.unwrap().expose(), b"text");
}

#[tokio::test]
async fn a_note_that_does_not_read_takes_no_key_away() {
    let store = Arc::new(MemoryStore::noting());
    let (ring, first, sealed) = lost_key(&store, SHORT).await;
    let gone = EntryName::gone(&name(), &first);
    store.create(&gone, &SecretBytes::from(b"planted".as_slice())).await.unwrap();
    // A store with roots says so of a record that is not sealed under its key.
    *ring.store().fails.lock().unwrap() = Some((".g/", ErrorKind::Corrupt));
    is_told(&ring).await;
    open(&ring, &sealed).await.unwrap();
}

#[tokio::test]
async fn what_is_left_of_a_lost_key_is_not_purged_by_a_server_that_never_had_it() {
    let store = Arc::new(MemoryStore::noting());
    let ring = deaf(&store, SHORT);
    let first = create(&ring).await;
    ring.rotate(&request("operator"), &name(), None).await.unwrap();
    store.lose(&entry()).unwrap();
    let other = server(&store, LONG, Duration::from_secs(3600));
    let rest = Purge { fingerprint: Some(first), now: false, resume: false };
    let purged = other.purge(&request("operator"), &name(), &rest).await;
    assert_eq!(kind(purged), Some(ErrorKind::Conflict));
    restore(&ring).await.unwrap();
    assert_eq!(StoredKey::read(&store, &name()).await.unwrap().versions(), 2);
}

#[tokio::test]
async fn a_store_that_notes_no_removals_loses_nothing_that_could_be_told() {
    let store = Arc::new(MemoryStore::new());
    let (ring, _, _) = lost_key(&store, SHORT).await;
    until("gone", async || kind(seal(&ring).await) == Some(ErrorKind::NotFound)).await;
    assert_eq!(amiss(&ring).await, "");
}

#[tokio::test]
async fn lost_keys_are_listed_in_their_places() {
    let store = Arc::new(MemoryStore::noting());
    let ring = deaf(&store, SHORT);
    let names: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| KeyName::new(name).unwrap()).into();
    for name in &names {
        ring.create(&request("client"), name).await.unwrap();
    }
    for name in [&names[0], &names[2], &names[4]] {
        store.lose(&EntryName::from(name)).unwrap();
    }
    until("the losses are told", async || amiss(&ring).await.contains("lost 3 keys")).await;
    for limit in 1..=6 {
        let (mut listed, mut after) = (Vec::new(), None::<String>);
        loop {
            let query = ListQuery { prefix: "", after: after.as_deref(), limit };
            let page = ring.list(&request("client"), &query).await.unwrap();
            assert!(page.names.len() <= limit);
            listed.extend(page.names);
            if !page.more {
                break;
            }
            after = listed.last().map(ToString::to_string);
        }
        assert_eq!(listed, names, "{limit} a page");
    }
}

#[tokio::test]
async fn a_key_whose_time_is_over_is_read_once_more_and_goes() {
    for any in [ANY, Duration::ZERO] {
        let store = Arc::new(MemoryStore::noting());
        let ring = deaf(&store, SHORT.with_any(any));
        create(&ring).await;
        seal(&ring).await.unwrap();
        tokio::time::sleep(ANY * 8).await;
        let reads = || ring.store().reads.load(Ordering::SeqCst);
        let before = reads();
        tokio::time::sleep(ANY * 8).await;
        assert_eq!(reads(), before, "nobody uses it, so it is not in memory, with {any:?}");
    }
}

#[tokio::test]
async fn an_outage_takes_no_key_away_and_serves_none_for_longer() {
    let store = Arc::new(MemoryStore::noting());
    let ring = deaf(&store, SHORT);
    create(&ring).await;
    let sealed = seal(&ring).await.unwrap();
    *ring.store().fails.lock().unwrap() = Some(("", ErrorKind::Unreachable));
    until("an outage", async || kind(open(&ring, &sealed).await) == Some(ErrorKind::Unreachable)).await;
    tokio::time::sleep(ANY * 5).await;
    // What comes back has lost the key.
    store.lose(&entry()).unwrap();
    *ring.store().fails.lock().unwrap() = None;
    is_told(&ring).await;
    assert_eq!(open(&ring, &sealed).await.unwrap().expose(), b"text");
}

/// The store goes away in the middle of a delete, and what comes back has lost the key.
#[tokio::test]
async fn a_delete_that_fails_takes_no_lost_key_away() {
    let store = Arc::new(MemoryStore::noting());
    let ring = server(&store, LONG, Duration::from_secs(3600));
    create(&ring).await;
    let sealed = seal(&ring).await.unwrap();
    *ring.store().creates_fail.lock().unwrap() = Some(ErrorKind::Unreachable);
    assert_eq!(kind(delete(&ring).await), Some(ErrorKind::Unreachable));
    store.lose(&entry()).unwrap();
    *ring.store().creates_fail.lock().unwrap() = None;
    assert_eq!(open(&ring, &sealed).await.unwrap().expose(), b"text");
    is_told(&ring).await;
    restore(&ring).await.unwrap();
    assert_eq!(open(&deaf(&store, LONG), &sealed).await.unwrap().expose(), b"text");
}

/// Another server makes a key between the look of a delete and its write.
#[tokio::test]
async fn a_delete_of_what_is_not_there_removes_nothing_without_a_note() {
    let store = Arc::new(MemoryStore::noting());
    let (one, other) = (deaf(&store, LONG), deaf(&store, LONG));
    create(&one).await;
    *other.store().fails.lock().unwrap() = Some(("", ErrorKind::NotFound));
    assert_eq!(kind(delete(&other).await), Some(ErrorKind::NotFound));
    assert!(store.bytes(&entry()).is_some(), "it was made after the look");
}

/// Nobody has looked since the store lost the one key and another server made the other.
#[tokio::test]
async fn a_deletion_of_another_key_of_the_name_does_not_take_the_lost_one_along() {
    for grace in [Duration::ZERO, Duration::from_secs(3600)] {
        let store = Arc::new(MemoryStore::noting());
        let ring = server(&store, LONG, grace);
        let lost = create(&ring).await;
        let sealed = seal(&ring).await.unwrap();
        store.lose(&entry()).unwrap();
        create(&deaf(&store, LONG)).await;
        delete(&ring).await.unwrap();
        restore(&ring).await.unwrap();
        let kept = if grace.is_zero() { name() } else { former_name(&name(), &lost).unwrap() };
        let opened = deaf(&store, LONG).decrypt(&request("client"), &kept, &sealed, b"c").await.unwrap();
        assert_eq!(opened.expose(), b"text", "with a grace of {grace:?}");
    }
}
