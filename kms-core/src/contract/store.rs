//! The rules for a [`KeyStore`].

use std::sync::Arc;

use super::fixture::{RACERS, assert_kind, key};
use crate::error::ErrorKind;
use crate::identity::Identity;
use crate::listing::ListQuery;
use crate::name::KeyName;
use crate::primitives::{Cipher, Fingerprint, SecretBytes, SecretKey};
use crate::store::{EntryName, KeyRecord, KeyStore, Notes};

/// Checks a fresh, empty store against every rule of [`KeyStore`].
///
/// # Panics
///
/// If the store breaks a rule, or if there is no current tokio runtime.
pub async fn key_store<S: KeyStore>(store: &Arc<S>) {
    entries_come_and_go(store.as_ref()).await;
    nothing_is_overwritten(store.as_ref()).await;
    a_replaced_entry_has_only_the_new_record(store.as_ref()).await;
    of_many_creators_one_wins(store).await;
    names_of_all_shapes_are_apart(store.as_ref()).await;
    slots_are_hidden_from_listings(store.as_ref()).await;
    listings_are_sorted_and_paged(store.as_ref()).await;
    let status = store.status().await;
    assert!(status.as_ref().is_ok_and(|status| status.reachable), "a working store is reachable: {status:?}");
}

async fn entries_come_and_go(store: &dyn KeyStore) {
    let (name, content) = (entry("contract-entry"), record("first"));
    assert_kind(store.get(&name).await, ErrorKind::NotFound, "reading an absent entry");
    assert_kind(store.delete(&name).await, ErrorKind::NotFound, "deleting an absent entry");
    store.create(&name, &content).await.expect("create an entry");
    assert_holds(store, &name, &content, "an entry reads as it was created").await;
    store.delete(&name).await.expect("delete an entry");
    assert_kind(store.get(&name).await, ErrorKind::NotFound, "reading a deleted entry");
    let content = record("second");
    store.create(&name, &content).await.expect("create an entry anew after it was deleted");
    assert_holds(store, &name, &content, "an entry made anew has the new record").await;
    store.delete(&name).await.expect("delete the entry made anew");
}

async fn nothing_is_overwritten(store: &dyn KeyStore) {
    let (name, first) = (entry("contract-once"), record("first"));
    store.create(&name, &first).await.expect("create an entry");
    assert_kind(
        store.create(&name, &record("second")).await,
        ErrorKind::AlreadyExists,
        "creating over an entry",
    );
    assert_kind(store.create(&name, &first).await, ErrorKind::AlreadyExists, "creating the same entry twice");
    assert_holds(store, &name, &first, "a refused create leaves the entry as it was").await;
    store.delete(&name).await.expect("delete the entry");
}

async fn a_replaced_entry_has_only_the_new_record(store: &dyn KeyStore) {
    let (name, content) = (entry("contract-replaced"), record("second"));
    let [gone, back] =
        [1, 2].map(|byte| EntryName::gone(&key("contract-replaced"), &Fingerprint::from_bytes([byte; 16])));
    let notes = Notes { gone: &gone, record: &record("note"), back: &back };
    assert_kind(
        store.replace(&name, &content, &notes).await,
        ErrorKind::NotFound,
        "replacing an absent entry",
    );
    assert_kind(store.get(&name).await, ErrorKind::NotFound, "a refused replacement makes no entry");
    store.create(&name, &record("first")).await.expect("create an entry");
    store.replace(&name, &content, &notes).await.expect("replace an entry");
    assert_holds(store, &name, &content, "a replaced entry has the new record").await;
    assert_eq!(list_all(store, "contract-r", 3).await, ["contract-replaced"], "a replaced entry is one");
    store.delete(&name).await.expect("delete a replaced entry");
    assert_kind(store.get(&name).await, ErrorKind::NotFound, "nothing of the replaced record comes back");
}

async fn of_many_creators_one_wins<S: KeyStore>(store: &Arc<S>) {
    let name = entry("contract-race");
    let racers = (0..RACERS).map(|racer| {
        let (store, name) = (Arc::clone(store), name.clone());
        tokio::spawn(async move { store.create(&name, &record(&format!("racer {racer}"))).await })
    });
    let mut winners = Vec::new();
    for (racer, outcome) in racers.collect::<Vec<_>>().into_iter().enumerate() {
        match outcome.await.expect("a create does not panic") {
            Ok(()) => winners.push(racer),
            Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "a lost race: {error:?}"),
        }
    }
    assert_eq!(winners.len(), 1, "of {RACERS} creators at once exactly one wins");
    let won = record(&format!("racer {}", winners[0]));
    assert_holds(store.as_ref(), &name, &won, "the entry is the winner's").await;
    store.delete(&name).await.expect("delete the entry");
}

async fn names_of_all_shapes_are_apart(store: &dyn KeyStore) {
    let longest = "z".repeat(KeyName::MAX_LEN);
    let names = ["a", "A", "a-b", "a_b", "__", "0", "contract", "contract-", "contract-a", longest.as_str()];
    let names: Vec<EntryName> =
        names.iter().filter_map(|name| KeyName::new(*name).ok()).map(|name| EntryName::from(&name)).collect();
    for name in &names {
        store.create(name, &record(name.as_str())).await.expect("create an entry of any valid name");
    }
    for name in &names {
        assert_holds(store, name, &record(name.as_str()), "entries of similar names are apart").await;
        store.delete(name).await.expect("delete the entry");
    }
}

async fn slots_are_hidden_from_listings(store: &dyn KeyStore) {
    let slot = EntryName::version(&key("contract-slots"), &Fingerprint::from_bytes([0x5a; 16]), 2);
    let (first, content) = (entry("contract-slots"), record("second version"));
    store.create(&first, &record("first version")).await.expect("create an entry");
    store.create(&slot, &content).await.expect("create the slot of a later version");
    assert_kind(store.create(&slot, &content).await, ErrorKind::AlreadyExists, "creating over a slot");
    assert_holds(store, &slot, &content, "a slot reads as it was created").await;
    assert_eq!(list_all(store, "", 1).await, ["contract-slots"], "a listing shows keys and no slots");
    store.delete(&slot).await.expect("delete the slot");
    assert_kind(store.get(&slot).await, ErrorKind::NotFound, "reading a deleted slot");
    store.delete(&first).await.expect("delete the entry");
}

async fn listings_are_sorted_and_paged(store: &dyn KeyStore) {
    let page = store.list(&ListQuery::prefix("")).await.expect("list an empty store");
    assert!(page.names.is_empty() && !page.more, "an empty store lists nothing: {page:?}");
    let mut names: Vec<String> =
        ["b-1", "b-10", "b-2", "B-1", "a", "b", "c", "b_1"].map(str::to_owned).into();
    for name in &names {
        store.create(&entry(name), &record(name)).await.expect("create an entry");
    }
    names.sort_unstable();
    for limit in [1, 3, names.len(), ListQuery::MAX_LIMIT] {
        assert_eq!(list_all(store, "", limit).await, names, "all names in byte order, {limit} a page");
        assert_eq!(
            list_all(store, "b-", limit).await,
            ["b-1", "b-10", "b-2"],
            "names by prefix, {limit} a page"
        );
    }
    assert_eq!(list_all(store, "nothing-like-it", 3).await, [""; 0], "no name has this prefix");
    let after = ListQuery { prefix: "b", after: Some("b-15"), limit: 2 };
    let page = store.list(&after).await.expect("list after a name that is absent");
    assert_eq!(
        page.names.iter().map(KeyName::as_str).collect::<Vec<_>>(),
        ["b-2", "b_1"],
        "names after 'b-15'"
    );
    assert!(!page.more, "nothing is left after the last name");
    for name in &names {
        store.delete(&entry(name)).await.expect("delete the entry");
    }
}

async fn assert_holds(store: &dyn KeyStore, name: &EntryName, content: &SecretBytes, rule: &str) {
    let read = store.get(name).await.unwrap_or_else(|error| panic!("{rule}: {error:?}"));
    assert!(read == *content, "{rule}");
}

async fn list_all(store: &dyn KeyStore, prefix: &str, limit: usize) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    loop {
        let after = names.last().cloned();
        let query = ListQuery { prefix, after: after.as_deref(), limit };
        let page = store.list(&query).await.expect("list a page");
        assert!(page.names.len() <= limit, "a page holds at most {limit} names");
        assert!(!page.names.is_empty() || !page.more, "an empty page is the last one");
        names.extend(page.names.iter().map(ToString::to_string));
        if !page.more {
            return names;
        }
    }
}

/// Returns a record as a key ring stores it; the same seed gives the same record.
fn record(seed: &str) -> SecretBytes {
    let mut bytes = *Identity::of_public_key(seed.as_bytes()).as_bytes();
    KeyRecord {
        key: SecretKey::take(&mut bytes),
        cipher: Cipher::Aes256,
        hmac_key: None,
        created_at: None,
        created_by: seed.to_owned(),
    }
    .encode()
}

fn entry(name: &str) -> EntryName {
    EntryName::from(&key(name))
}
