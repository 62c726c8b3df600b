//! The rules for a store that several servers share: what a removal leaves, and what is told of changes.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::fixture::{assert_kind, key};
use crate::error::ErrorKind;
use crate::name::KeyName;
use crate::primitives::{Fingerprint, SecretBytes};
use crate::store::{Change, Changes, EntryName, KeyStore, Notes};

/// How soon others hear of a change.
const HEARD: Duration = Duration::from_secs(1);
/// How long nothing is told before it counts as nothing.
const SILENCE: Duration = Duration::from_millis(300);
/// How long a store may take until it tells changes.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a key goes and comes back under the eyes of a reader.
const ROUNDS: usize = 20;

/// Checks the rules of removals and changes on two handles of one empty store, as two servers have them.
///
/// A store without [`notes_removals`](crate::store::StoreCapabilities::notes_removals), or that tells no
/// [`changes`](KeyStore::changes), has to keep the rules of the default.
///
/// # Panics
///
/// If the store breaks a rule, or if there is no current tokio runtime.
pub async fn shared_store<S: KeyStore>(one: &Arc<S>, other: &Arc<S>) {
    removals_are_noted(one.as_ref(), other.as_ref()).await;
    a_replacement_is_noted(one.as_ref(), other.as_ref()).await;
    if one.capabilities().notes_removals {
        a_reader_sees_the_key_or_the_note(one, other).await;
    }
    if let Some(changes) = other.changes() {
        changes_are_heard(one.as_ref(), changes).await;
    }
}

async fn removals_are_noted(one: &dyn KeyStore, other: &dyn KeyStore) {
    let (name, content, note) = (entry("contract-removed"), bytes("record"), bytes("note"));
    let notes = one.capabilities().notes_removals;
    let gone = gone("contract-removed", 1);
    assert_kind(one.remove(&name, &gone, &note).await, ErrorKind::NotFound, "removing an absent entry");
    assert_kind(other.get(&gone).await, ErrorKind::NotFound, "a removal that did not happen leaves no note");
    one.create(&name, &content).await.expect("create an entry");
    one.remove(&name, &gone, &note).await.expect("remove an entry");
    assert_kind(other.get(&name).await, ErrorKind::NotFound, "reading a removed entry");
    if notes {
        assert_holds(other, &gone, &note, "a removal leaves its note").await;
    } else {
        assert_kind(other.get(&gone).await, ErrorKind::NotFound, "a store that notes nothing leaves no note");
    }
    // Another key has the name, so nothing is brought back.
    one.create(&name, &bytes("another")).await.expect("create another entry of the name");
    let refused = other.bring_back(&name, &content, &gone).await;
    assert_kind(refused, ErrorKind::AlreadyExists, "bringing a key back over another one");
    if notes {
        assert_holds(one, &gone, &note, "a key that was not brought back keeps its note").await;
    }
    one.delete(&name).await.expect("delete the other entry");
    other.bring_back(&name, &content, &gone).await.expect("bring the key back");
    assert_holds(one, &name, &content, "a key that was brought back reads as it was").await;
    assert_kind(one.get(&gone).await, ErrorKind::NotFound, "the note of a key that was brought back goes");
    one.remove(&name, &gone, &note).await.expect("remove the key once more");
    // A record that somebody put back leaves the note where it is.
    one.create(&name, &content).await.expect("create the entry again");
    let later = bytes("later note");
    other.remove(&name, &gone, &later).await.expect("remove the key for the third time");
    if notes {
        assert_holds(one, &gone, &later, "the newest removal is the one that is noted").await;
    }
    other.bring_back(&name, &content, &gone).await.expect("bring the key back once more");
    one.erase(&name).await.expect("erase the entry");
}

async fn a_replacement_is_noted(one: &dyn KeyStore, other: &dyn KeyStore) {
    let name = entry("contract-replaced");
    let [leaves, comes] = [2, 3].map(|number| gone("contract-replaced", number));
    let (record, note) = (bytes("second"), bytes("note"));
    one.create(&name, &record).await.expect("create an entry");
    one.remove(&name, &comes, &note).await.expect("remove an entry");
    one.create(&name, &bytes("first")).await.expect("create another entry of the name");
    let notes = Notes { gone: &leaves, record: &note, back: &comes };
    one.replace(&name, &record, &notes).await.expect("replace the entry");
    assert_holds(other, &name, &record, "a replaced entry has the new record").await;
    assert_kind(other.get(&comes).await, ErrorKind::NotFound, "the key that came is not noted as removed");
    if one.capabilities().notes_removals {
        assert_holds(other, &leaves, &note, "the key that was replaced is noted as removed").await;
        one.erase(&leaves).await.expect("erase the note");
    }
    one.erase(&name).await.expect("erase the entry");
}

/// Whoever finds neither the key nor its note takes the key for lost.
async fn a_reader_sees_the_key_or_the_note<S: KeyStore>(one: &Arc<S>, other: &Arc<S>) {
    let (name, gone) = (entry("contract-atomic"), gone("contract-atomic", 4));
    let (record, note) = (bytes("record"), bytes("note"));
    one.create(&name, &record).await.expect("create an entry");
    for _ in 0..ROUNDS {
        let reader = sees_go(other, &name, &gone);
        one.remove(&name, &gone, &note).await.expect("remove the key");
        assert!(reader.await.expect("the reader ends"), "a key that is gone has its note at the same time");
        let reader = sees_go(other, &gone, &name);
        one.bring_back(&name, &record, &gone).await.expect("bring the key back");
        assert!(reader.await.expect("the reader ends"), "a note that is gone has its key at the same time");
    }
    one.erase(&name).await.expect("erase the entry");
}

/// Reads an entry until it is gone, and returns whether another one is there then.
fn sees_go<S: KeyStore>(store: &Arc<S>, goes: &EntryName, comes: &EntryName) -> JoinHandle<bool> {
    let (store, goes, comes) = (Arc::clone(store), goes.clone(), comes.clone());
    tokio::spawn(async move {
        let end = Instant::now() + PATIENCE;
        while store.get(&goes).await.is_ok() {
            assert!(Instant::now() < end, "the reader sees the change");
            tokio::task::yield_now().await;
        }
        store.get(&comes).await.is_ok()
    })
}

async fn changes_are_heard(store: &dyn KeyStore, mut changes: Changes) {
    let name = key("contract-heard");
    let (record, first) = (bytes("record"), Fingerprint::from_bytes([5; 16]));
    let began = Instant::now();
    // Until the store listens, nothing is told.
    loop {
        assert!(began.elapsed() < PATIENCE, "a store that tells changes begins to");
        store.create(&EntryName::from(&name), &record).await.expect("create an entry");
        let gone = EntryName::gone(&name, &first);
        store.remove(&EntryName::from(&name), &gone, &record).await.expect("remove it");
        if hears(&mut changes, &name, HEARD).await {
            break;
        }
    }
    while next(&mut changes, SILENCE).await.is_some() {}
    let entry = EntryName::from(&name);
    store.create(&entry, &record).await.expect("create an entry");
    let version = EntryName::version(&name, &first, 2);
    store.create(&version, &record).await.expect("create a version");
    assert!(!hears(&mut changes, &name, SILENCE).await, "that a key or a version was made is not told");
    let markers = [
        EntryName::deleted(&name, &first),
        EntryName::disabled(&name, &first, 1),
        EntryName::under_way(&name, &first),
    ];
    for marker in &markers {
        store.create(marker, &record).await.expect("create a marker");
        assert!(hears(&mut changes, &name, HEARD).await, "that '{marker}' was made is told");
        store.delete(marker).await.expect("delete a marker");
        assert!(hears(&mut changes, &name, HEARD).await, "that '{marker}' was removed is told");
    }
    let gone = EntryName::gone(&name, &first);
    store.remove(&entry, &gone, &record).await.expect("remove the key");
    assert!(hears(&mut changes, &name, HEARD).await, "a removal is told");
    store.bring_back(&entry, &record, &gone).await.expect("bring the key back");
    assert!(!hears(&mut changes, &name, SILENCE).await, "that a key came back is not told");
    store.delete(&entry).await.expect("delete the key");
    assert!(hears(&mut changes, &name, HEARD).await, "a delete is told");
    store.erase(&version).await.expect("erase the version");
}

/// Waits until a change of this key is told.
async fn hears(changes: &mut Changes, name: &KeyName, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match next(changes, left).await {
            Some(Change::Key(told)) if told == *name => return true,
            Some(_) => {}
            None => return false,
        }
    }
}

async fn next(changes: &mut Changes, patience: Duration) -> Option<Change> {
    let next = poll_fn(|context| changes.as_mut().poll_next(context));
    let told = tokio::time::timeout(patience, next).await.ok()?;
    assert!(told.is_some(), "changes end only with the store");
    told
}

async fn assert_holds(store: &dyn KeyStore, name: &EntryName, content: &SecretBytes, rule: &str) {
    let read = store.get(name).await.unwrap_or_else(|error| panic!("{rule}: {error:?}"));
    assert!(read == *content, "{rule}");
}

fn bytes(text: &str) -> SecretBytes {
    SecretBytes::from(text.as_bytes())
}

fn entry(name: &str) -> EntryName {
    EntryName::from(&key(name))
}

fn gone(name: &str, number: u8) -> EntryName {
    EntryName::gone(&key(name), &Fingerprint::from_bytes([number; 16]))
}
