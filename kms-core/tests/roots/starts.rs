//! First starts, and starts after them.

use std::sync::Arc;

use kms_core::contract;
use kms_core::primitives::Fingerprint;
use kms_core::roots::{Making, RootState, Roots, WrappedOneByOne};
use kms_core::store::{EntryName, KeyStore, MemoryStore};
use kms_core::{ErrorKind, KeyName, ListQuery};

use super::mocks::*;

#[tokio::test]
async fn each_root_opens_what_was_written_under_both() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let way = Way::to(&store);
    let opened = open(&way, &[("one", &one), ("two", &two)]).await.unwrap();
    assert!(opened.is_new && opened.warnings.is_empty(), "{:?}", opened.warnings);
    put(&*opened.store, "my-key").await;
    let sealed = store.get(&entry("my-key")).await.unwrap();
    assert!(sealed.expose().starts_with(b"kms:sealed:v1:"));
    for all in [&[("one", &one)] as &[_], &[("two", &two)], &[("two", &two), ("one", &one)]] {
        let opened = open(&way, all).await.unwrap();
        assert!(!opened.is_new && opened.warnings.is_empty(), "{:?}", opened.warnings);
        holds(&opened.store, &["my-key"]).await;
    }
}

#[tokio::test]
async fn a_store_with_roots_keeps_the_contract_and_lists_no_entry_of_a_root() {
    let (one, two) = (Elsewhere::new(1), Elsewhere::new(2));
    let opened = open(&Way::to(&memory()), &[("one", &one), ("two", &two)]).await.unwrap();
    contract::key_store(&opened.store).await;
    assert!(opened.store.list(&ListQuery::prefix("")).await.unwrap().names.is_empty());
    let ring = Arc::new(kms_core::KeyRing::new(opened.store, kms_core::CacheConfig::default()));
    contract::kms(ring).await;
}

#[tokio::test]
async fn notes_of_removed_keys_are_sealed_and_count_as_records() {
    let (store, one) = (Arc::new(MemoryStore::noting()), Elsewhere::new(1));
    let all = || {
        let all = vec![root("one", &one)];
        let form = Arc::new(WrappedOneByOne::new(&all));
        Roots::new(Arc::clone(&store) as Arc<dyn KeyStore>, all, form).unwrap()
    };
    let opened = all().open(Making::OnEmpty).await.unwrap().store;
    contract::key_store(&opened).await;
    contract::shared_store(&opened, &opened).await;
    put(&*opened, "my-key").await;
    let before = all().count_records().await.unwrap().sealed;
    let gone = EntryName::gone(&KeyName::new("my-key").unwrap(), &Fingerprint::from_bytes([1; 16]));
    opened.remove(&entry("my-key"), &gone, &record("note")).await.unwrap();
    let sealed = store.get(&gone).await.unwrap();
    assert!(sealed.expose().starts_with(b"kms:sealed:v1:"));
    assert!(opened.get(&gone).await.unwrap() == record("note"));
    assert_eq!(all().count_records().await.unwrap().sealed, before, "the key went, and its note came");
}

#[tokio::test]
async fn where_the_listing_is_denied_no_store_key_is_made() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let way = Way::to(&store);
    *way.denies_list.lock().unwrap() = true;
    refused(
        open(&way, &[("one", &one), ("two", &two)]).await,
        ErrorKind::Conflict,
        &["not known", "kms root init"],
    );
    // One root served such stores before, and does so still.
    let opened = open(&way, &[("one", &one)]).await.unwrap();
    assert!(!opened.store.has_key() && opened.warnings[0].contains("kms root init"));
    put(&*opened.store, "my-key").await;
    refused(roots(&way, &[("one", &one)]).init().await, ErrorKind::Denied, &["list"]);
    assert_eq!(everything(&store).await.len(), 1, "only the record was written");
}

#[tokio::test]
async fn where_the_store_cannot_create_atomically_only_an_operator_makes_the_key() {
    let (store, one) = (memory(), Elsewhere::new(1));
    let way = Way::to(&store);
    let opened = roots(&way, &[("one", &one)]).open(Making::Explicit).await.unwrap();
    assert!(!opened.store.has_key() && everything(&store).await.is_empty());
    roots(&way, &[("one", &one)]).init().await.unwrap();
    let opened = roots(&way, &[("one", &one)]).open(Making::Explicit).await.unwrap();
    assert!(opened.store.has_key());
    refused(roots(&way, &[("one", &one)]).init().await, ErrorKind::Conflict, &["already"]);
}

#[tokio::test]
async fn a_wrong_root_is_refused_before_anything_is_written() {
    let (store, one, wrong) = (memory(), Elsewhere::new(1), Elsewhere::new(9));
    let way = Way::to(&store);
    let first = open(&way, &[("one", &one)]).await.unwrap();
    put(&*first.store, "my-key").await;
    let before = everything(&store).await;
    let fingerprint = format!("{:?}", anchor(&store).await.unwrap().fingerprint);
    for all in [&[("one", &wrong)] as &[_], &[("other", &wrong)], &[("one", &wrong), ("other", &wrong)]] {
        refused(open(&way, all).await, ErrorKind::Corrupt, &["no root opens it", &fingerprint]);
        assert_eq!(everything(&store).await, before);
    }
    // Beside the right root it is told, and no entry is made for it.
    let opened = open(&way, &[("other", &wrong), ("one", &one)]).await.unwrap();
    assert!(
        opened.warnings[0].contains("'other' is in the config but has no entry")
            && opened.warnings[0].contains("root add")
    );
    assert_eq!(opened.store.closed(), 1);
    assert_eq!(everything(&store).await, before);
}

#[tokio::test]
async fn two_roots_of_one_id_are_refused() {
    let (one, two) = (Elsewhere::new(1), Elsewhere::new(2));
    let all = vec![root("same", &one), root("same", &two)];
    let form = Arc::new(WrappedOneByOne::new(&all));
    refused(
        Roots::new(memory(), all, form).map(drop),
        ErrorKind::InvalidInput,
        &["'same'", "take one out", "'id'"],
    );
}

#[tokio::test]
async fn an_entry_with_another_key_is_written_anew_unless_that_key_opens_a_record() {
    for (opens_a_record, denies_list) in [(false, false), (true, false), (false, true)] {
        let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
        // The entry of the second root comes from a store of its own.
        let other = memory();
        let foreign = open(&Way::to(&other), &[("two", &two)]).await.unwrap();
        put(&*foreign.store, "theirs").await;
        let way = Way::to(&store);
        let ours = open(&way, &[("one", &one)]).await.unwrap();
        put(&*ours.store, "ours").await;
        for name in [id("two").entry()].into_iter().chain(opens_a_record.then(|| entry("theirs"))) {
            store.create(&name, &other.get(&name).await.unwrap()).await.unwrap();
        }
        *way.denies_list.lock().unwrap() = denies_list;
        let before = everything(&store).await;
        let outcome = open(&way, &[("two", &two), ("one", &one)]).await;
        let prints = [&store, &other].map(|store| anchor(store));
        let [first, second] = prints;
        let prints = [first.await.unwrap(), second.await.unwrap()].map(|a| format!("{:?}", a.fingerprint));
        if opens_a_record {
            refused(outcome, ErrorKind::Conflict, &[&prints[0], &prints[1], "'two'"]);
            assert_eq!(everything(&store).await, before);
            continue;
        }
        let opened = outcome.unwrap();
        holds(&opened.store, &["ours"]).await;
        let warning = &opened.warnings[0];
        assert!(prints.iter().all(|print| warning.contains(print)), "{warning}");
        *way.denies_list.lock().unwrap() = false;
        let both = roots(&way, &[("one", &one), ("two", &two)]);
        if denies_list {
            assert_eq!(everything(&store).await, before, "the entry stays");
            assert_eq!(opened.store.closed(), 1);
            assert_eq!(states(&both).await, [RootState::Opens, RootState::OtherKey]);
        } else {
            assert_eq!(states(&both).await, [RootState::Opens; 2]);
        }
    }
}
