//! The store: what is in the file after each step.

use super::*;

#[tokio::test]
async fn after_yes_the_file_has_the_key_and_the_mark() {
    let fixture = Fixture::new();
    let escrowed = fixture.open(Arc::new(MemoryStore::new()));
    escrowed.create(&entry("my-key"), &record(1)).await.unwrap();
    // The file is read while the server has it open, as after a kill.
    assert_eq!(states(&fixture.path()), [("my-key".to_owned(), State::Stored)]);
    let text = fs::read_to_string(fixture.path()).unwrap();
    let secret = String::from_utf8(record(1).expose().to_vec()).unwrap();
    assert!(!text.contains(&secret));
    assert_eq!(kind(escrowed.create(&entry("my-key"), &record(2)).await), Some(ErrorKind::AlreadyExists));
    assert_eq!(fs::read_to_string(fixture.path()).unwrap(), text, "a name that is taken writes no line");
}

#[tokio::test]
async fn the_entry_is_in_the_file_before_the_store_is_asked_and_unmarked_until_it_says_yes() {
    let fixture = Fixture::new();
    let store = Scripted::with(&[Step::HangFirst, Step::DoneAndHang]);
    let escrowed = fixture.open(store.clone());
    for (name, byte) in [("first", 1), ("second", 2)] {
        assert!(is_cut_off(&escrowed, name, byte).await);
        assert!(states(&fixture.path()).contains(&(name.to_owned(), State::Unmarked)));
    }
    // A caller that reads it back hears that it is there only when the mark is in the file.
    assert_eq!(kind(escrowed.get(&entry("first")).await), Some(ErrorKind::NotFound));
    escrowed.get(&entry("second")).await.unwrap();
    let states = states(&fixture.path());
    assert!(states.contains(&("first".to_owned(), State::Unmarked)), "{states:?}");
    assert!(states.contains(&("second".to_owned(), State::Stored)), "{states:?}");
}

#[tokio::test]
async fn each_outcome_of_the_store_leaves_the_file_right() {
    let unknown = [
        ErrorKind::Unreachable,
        ErrorKind::Sealed,
        ErrorKind::Throttled,
        ErrorKind::Timeout,
        ErrorKind::Internal,
    ];
    let no = [ErrorKind::AlreadyExists, ErrorKind::Denied, ErrorKind::ReadOnly, ErrorKind::LoginRefused];
    let steps = unknown.map(Step::DoneAnd).into_iter().chain(unknown.map(Step::NotDoneAnd));
    for step in steps.chain(no.map(Step::No)).chain([Step::Yes]) {
        let fixture = Fixture::new();
        let escrowed = fixture.open(Scripted::with(&[step]));
        let ring = KeyRing::new(Arc::clone(&escrowed), CacheConfig::default());
        let client = ring.client(Identity::of_program("tests"));
        let created = client.create(&name("my-key")).await;
        let stored = escrowed.inner.get(&entry("my-key")).await.ok();
        let is_done = matches!(step, Step::Yes | Step::DoneAnd(_));
        assert_eq!(created.is_ok(), is_done, "{step:?}: {created:?}");
        assert_eq!(stored.is_some(), is_done, "{step:?}");
        let expected = match step {
            Step::No(_) => State::Refused,
            Step::NotDoneAnd(_) => State::Unmarked,
            _ => State::Stored,
        };
        let path = fixture.path();
        until(|| states(&path) == [("my-key".to_owned(), expected)]).await;
        if let Some(stored) = stored {
            assert!(fixture.restores("my-key", &stored), "{step:?}");
        }
    }
}

#[tokio::test]
async fn what_a_killed_process_left_unmarked_is_completed_before_a_read_is_answered() {
    let fixture = Fixture::new();
    let store = Scripted::with(&[Step::DoneAndHang]);
    let escrowed = fixture.open(store.clone());
    assert!(is_cut_off(&escrowed, "my-key", 1).await);
    fixture.closed(escrowed).await;
    let escrowed = fixture.open(store);
    let stored = escrowed.get(&entry("my-key")).await.unwrap();
    assert!(fixture.restores("my-key", &stored));
}

#[tokio::test]
async fn the_loser_of_a_race_is_taken_back() {
    let fixture = Fixture::new();
    let store = Scripted::with(&[Step::No(ErrorKind::AlreadyExists)]);
    let escrowed = fixture.open(store.clone());
    assert_eq!(kind(escrowed.create(&entry("my-key"), &record(1)).await), Some(ErrorKind::AlreadyExists));
    // The winner's key is found when it is read.
    store.store.create(&entry("my-key"), &record(2)).await.unwrap();
    let winner = escrowed.get(&entry("my-key")).await.unwrap();
    until(|| fixture.restored().len() == 1).await;
    assert!(fixture.restores("my-key", &winner));
}

#[tokio::test]
async fn rotations_deletions_restores_and_purges_are_in_the_file() {
    let fixture = Fixture::new();
    let escrowed = fixture.open(Arc::new(MemoryStore::new()));
    let config = CacheConfig::default().with_any(Duration::from_millis(100)).with_offline(Duration::ZERO);
    let ring = KeyRing::keeping_deleted(Arc::clone(&escrowed), config, Duration::from_millis(200));
    let client = ring.client(Identity::of_program("tests"));
    let key = name("my-key");
    client.create(&key).await.unwrap();
    client.rotate(&key).await.unwrap();
    assert_eq!(fixture.restored().len(), 2, "both versions");
    let stored = kms_core::transfer::StoredKey::read(&escrowed.inner, &key).await.unwrap();
    let probes = stored.seal_probes().unwrap();
    let held_now = held(vec![read(&fixture.path())]);
    let plan = Plan::of(&held_now, &[]);
    let restored = plan.choices[&key].open(&key, &held_now, &fixture.identities()).unwrap();
    let restored = restored.key;
    restored.open_probes(&probes).unwrap();

    client.delete(&key).await.unwrap();
    assert_eq!(fixture.restored(), [], "a deleted key is not restored");
    client.restore(&key).await.unwrap();
    assert_eq!(fixture.restored().len(), 2, "it came back");
    client.delete(&key).await.unwrap();
    let fingerprint = hex::encode(restored.fingerprint().as_bytes());
    let held_now = held(vec![read(&fixture.path())]);
    let plan = Plan::of(&held_now, &[fingerprint]);
    assert_eq!(plan.choices[&key].records().count(), 2, "it is taken by its fingerprint");

    // A purge removes the entries, and then the mark of the deletion, which is no restore.
    for hidden in [false, true] {
        let version = EntryName::version(&key, &restored.fingerprint(), 2);
        let entry = if hidden { version } else { entry("my-key") };
        escrowed.erase(&entry).await.unwrap();
    }
    escrowed.erase(&EntryName::deleted(&key, &restored.fingerprint())).await.unwrap();
    assert_eq!(fixture.restored(), []);
    // The same bytes again are another entry.
    escrowed.create(&entry("my-key"), &record(9)).await.unwrap();
    assert_eq!(fixture.restored().len(), 1);
}

#[tokio::test]
async fn keys_of_before_are_added_at_the_start_and_found_at_the_next_one() {
    let fixture = Fixture::new();
    let store = Arc::new(MemoryStore::new());
    let ring = KeyRing::new(Arc::clone(&store), CacheConfig::default());
    let client = ring.client(Identity::of_program("tests"));
    for n in 0..70 {
        client.create(&name(&format!("key-{n}"))).await.unwrap();
    }
    client.rotate(&name("key-5")).await.unwrap();
    let (escrowed, figures) = open(&fixture.settings(EscrowFailure::Refuse), store.clone()).unwrap();
    until(|| figures.is_complete()).await;
    assert_eq!(figures.missing(), 0);
    assert_eq!(fixture.restored().len(), 71);
    fixture.closed(escrowed).await;
    let len = fs::metadata(fixture.path()).unwrap().len();
    let (_escrowed, figures) = open(&fixture.settings(EscrowFailure::Refuse), store).unwrap();
    until(|| figures.is_complete()).await;
    assert_eq!(fs::metadata(fixture.path()).unwrap().len(), len, "nothing is written twice");
}

#[tokio::test]
async fn without_a_listing_a_key_is_added_when_it_is_first_read() {
    let fixture = Fixture::new();
    let store = Arc::new(Scripted { denies_list: true, ..Scripted::default() });
    store.store.create(&entry("my-key"), &record(1)).await.unwrap();
    let (escrowed, figures) = open(&fixture.settings(EscrowFailure::Refuse), store).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fixture.restored(), []);
    let stored = escrowed.get(&entry("my-key")).await.unwrap();
    until(|| fixture.restores("my-key", &stored) && figures.missing() == 0).await;
    assert!(!figures.is_complete());
}

#[tokio::test]
async fn garbage_in_the_place_of_a_key_does_not_take_the_place_of_the_key_in_escrow() {
    let fixture = Fixture::new();
    let store = Arc::new(MemoryStore::new());
    let escrowed = fixture.open(store.clone());
    let good = record(1);
    escrowed.create(&entry("my-key"), &good).await.unwrap();
    store.delete(&entry("my-key")).await.unwrap();
    store.create(&entry("my-key"), &SecretBytes::from(b"garbage".as_slice())).await.unwrap();
    escrowed.get(&entry("my-key")).await.unwrap();
    fixture.closed(escrowed).await;
    let (escrowed, figures) = open(&fixture.settings(EscrowFailure::Refuse), store).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((figures.missing(), figures.is_complete()), (1, false), "it cannot be compared");
    assert!(fixture.restores("my-key", &good));
    // What cannot be read is removed so that the key can come back.
    escrowed.erase(&entry("my-key")).await.unwrap();
    assert!(fixture.restores("my-key", &good));
}
