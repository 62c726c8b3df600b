//! Moving keys between stores: a key arrives whole, or not at all, and what it sealed opens.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod mocks;

use std::sync::Arc;
use std::time::Duration;

use kms_core::primitives::{Cipher, SecretBytes, SecretKey};
use kms_core::store::{EntryName, HmacKey, KeyRecord, KeyStore, MemoryStore};
use kms_core::transfer::{Probe, StoredKey, Written, names};
use kms_core::{CacheConfig, Client, Error, ErrorKind, Identity, KeyName, KeyRing, Kms as _, Request};

use self::mocks::{CutOff, Denying};

fn name() -> KeyName {
    KeyName::new("my-key").unwrap()
}

/// A cache under which a new version seals at once.
fn config() -> CacheConfig {
    CacheConfig::new().with_any(Duration::from_millis(1)).with_unused(Duration::from_millis(1))
}

fn client<S: KeyStore>(store: S) -> Client {
    KeyRing::new(store, config()).client(Identity::of_program("a test"))
}

fn keeping(store: Arc<MemoryStore>) -> Client {
    let ring = KeyRing::keeping_deleted(store, config(), Duration::from_secs(3600));
    ring.client(Identity::of_program("a test"))
}

/// Makes a key with three versions of which the first is disabled. Returns a ciphertext of each version.
async fn key_in(store: &Arc<MemoryStore>) -> Vec<Vec<u8>> {
    let ring = KeyRing::new(Arc::clone(store), config());
    let caller = Identity::of_program("a test");
    let client = ring.client(caller);
    client.create(&name()).await.unwrap();
    let mut sealed = vec![client.encrypt(&name(), b"1", b"").await.unwrap()];
    for version in ["2", "3"] {
        client.rotate(&name()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        sealed.push(client.encrypt(&name(), version.as_bytes(), b"").await.unwrap());
    }
    ring.retire(&Request::new(caller, Duration::from_secs(10)), &name(), 2).await.unwrap();
    sealed
}

fn bytes_of(store: &MemoryStore, key: &StoredKey) -> Vec<Option<SecretBytes>> {
    key.entries().iter().map(|(entry, _)| store.bytes(entry)).collect()
}

#[tokio::test]
async fn a_key_arrives_with_its_versions_and_markers_and_opens_what_was_sealed() {
    let (from, to) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let sealed = key_in(&from).await;
    let key = StoredKey::read(&from, &name()).await.unwrap();
    assert_eq!((key.versions(), key.disabled().collect::<Vec<_>>()), (3, vec![2]));
    let probes = key.seal_probes().unwrap();
    assert_eq!(probes.iter().map(|probe| probe.version).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(key.write(&to).await.unwrap(), Written::Stored);

    let there = StoredKey::read(&to, &name()).await.unwrap();
    there.open_probes(&probes).unwrap();
    assert!(bytes_of(&from, &key) == bytes_of(&to, &there));
    let client = client(Arc::clone(&to));
    for (version, sealed) in [("1", &sealed[0]), ("3", &sealed[2])] {
        let opened = client.decrypt(&name(), sealed, b"").await.unwrap();
        assert_eq!(opened.expose(), version.as_bytes());
    }
    let disabled = client.decrypt(&name(), &sealed[1], b"").await.err().unwrap();
    assert_eq!(disabled.kind(), ErrorKind::Conflict, "the disabled version is disabled there too");
    assert_eq!(names(&to).await.unwrap(), [name()]);
}

#[tokio::test]
async fn a_deleted_key_arrives_deleted_and_can_be_restored() {
    let (from, to) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let sealed = key_in(&from).await;
    keeping(Arc::clone(&from)).delete(&name()).await.unwrap();
    let key = StoredKey::read(&from, &name()).await.unwrap();
    assert!(key.is_deleted());
    assert_eq!(key.write(&to).await.unwrap(), Written::Stored);
    let client = keeping(Arc::clone(&to));
    assert_eq!(client.generate(&name(), b"").await.err().unwrap().kind(), ErrorKind::Deleted);
    client.restore(&name()).await.unwrap();
    assert_eq!(client.decrypt(&name(), &sealed[2], b"").await.unwrap().expose(), b"3");
}

#[tokio::test]
async fn a_write_that_was_cut_off_anywhere_is_completed_and_never_shows_half_a_key() {
    let from = Arc::new(MemoryStore::new());
    key_in(&from).await;
    keeping(Arc::clone(&from)).delete(&name()).await.unwrap();
    let key = StoredKey::read(&from, &name()).await.unwrap();
    let steps = key.entries().len();
    assert_eq!(steps, 5, "the deletion, a disabled version, two versions, and the entry");
    for kept in 0..steps {
        for is_acknowledged in [false, true] {
            let inner = Arc::new(MemoryStore::new());
            let mut store = CutOff::after_creates(Arc::clone(&inner), kept);
            store.is_kept = is_acknowledged;
            assert!(key.write(&store).await.is_err());
            let read = StoredKey::read(&inner, &name()).await;
            let is_there = is_acknowledged && kept + 1 == steps;
            assert_eq!(
                read.err().map(|error| error.kind()),
                Some(ErrorKind::NotFound).filter(|_| !is_there),
                "{kept}"
            );
            let expected =
                if is_there { Written::There { added: 0, differs: None } } else { Written::Stored };
            assert_eq!(key.write(&inner).await.unwrap(), expected, "{kept}");
            assert!(bytes_of(&inner, &key) == bytes_of(&from, &key));
        }
    }
}

#[tokio::test]
async fn a_second_move_brings_the_versions_made_meanwhile_and_no_others() {
    let (from, to) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let source = client(Arc::clone(&from));
    source.create(&name()).await.unwrap();
    let move_it = || async { StoredKey::read(&from, &name()).await.unwrap().write(&to).await };
    assert_eq!(move_it().await.unwrap(), Written::Stored);
    assert_eq!(move_it().await.unwrap(), Written::There { added: 0, differs: None });
    source.rotate(&name()).await.unwrap();
    source.rotate(&name()).await.unwrap();
    assert_eq!(move_it().await.unwrap(), Written::There { added: 2, differs: None });
    assert_eq!(StoredKey::read(&to, &name()).await.unwrap().versions(), 3);

    // The target went its own way, and then the source.
    client(Arc::clone(&to)).rotate(&name()).await.unwrap();
    assert_eq!(move_it().await.unwrap(), Written::There { added: 0, differs: None });
    source.rotate(&name()).await.unwrap();
    let error = move_it().await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.chain().to_string().contains("version 4 is another key"), "{}", error.chain());
}

#[tokio::test]
async fn another_key_of_the_name_is_left_as_it_is() {
    let (from, to) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    key_in(&from).await;
    client(Arc::clone(&to)).create(&name()).await.unwrap();
    let theirs = StoredKey::read(&to, &name()).await.unwrap();
    let before = bytes_of(&to, &theirs);
    let key = StoredKey::read(&from, &name()).await.unwrap();
    assert_eq!(key.write(&to).await.unwrap(), Written::Other(theirs.fingerprint()));
    assert!(bytes_of(&to, &theirs) == before);
    assert_eq!(StoredKey::read(&to, &name()).await.unwrap().versions(), 1);
    let error = theirs.open_probes(&key.seal_probes().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAuthentic);
}

#[tokio::test]
async fn what_is_left_of_the_same_key_is_a_conflict_before_anything_is_written() {
    let from = Arc::new(MemoryStore::new());
    key_in(&from).await;
    let key = StoredKey::read(&from, &name()).await.unwrap();
    keeping(Arc::clone(&from)).delete(&name()).await.unwrap();
    let deleted = StoredKey::read(&from, &name()).await.unwrap();
    let fingerprint = key.fingerprint();
    let marker = deleted.entries()[0].0.clone();
    assert_eq!(marker, EntryName::deleted(&name(), &fingerprint));
    let left = [
        // The key was deleted there, and its entry removed by hand.
        (marker, SecretBytes::from(deleted.entries()[0].1.expose())),
        // It is being purged there. The marker of such a purge cannot be signed.
        (EntryName::under_way(&name(), &fingerprint), SecretBytes::from(b"anything".as_slice())),
        // Somebody planted a version.
        (EntryName::version(&name(), &fingerprint, 2), SecretBytes::from(b"anything".as_slice())),
    ];
    for (entry, bytes) in left {
        let to = MemoryStore::new();
        to.create(&entry, &bytes).await.unwrap();
        let error = key.write(&to).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{entry}");
        let text = error.chain().to_string();
        assert!(
            text.contains(entry.as_str()) || text.contains("kms key purge my-key --fingerprint"),
            "{text}"
        );
        let written =
            key.entries().iter().filter(|(name, _)| *name != entry && to.bytes(name).is_some()).count();
        assert_eq!(written, 0, "{entry}");
    }
}

#[tokio::test]
async fn a_look_says_what_a_write_would_do_and_changes_nothing() {
    let (from, to) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    key_in(&from).await;
    let key = StoredKey::read(&from, &name()).await.unwrap();
    assert_eq!(key.would_write(&to).await.unwrap(), Written::Stored);
    assert!(key.entries().iter().all(|(entry, _)| to.bytes(entry).is_none()));
    key.write(&to).await.unwrap();
    client(Arc::clone(&from)).rotate(&name()).await.unwrap();
    let newer = StoredKey::read(&from, &name()).await.unwrap();
    assert_eq!(newer.would_write(&to).await.unwrap(), Written::There { added: 1, differs: None });
    assert_eq!(StoredKey::read(&to, &name()).await.unwrap().versions(), 3);
    let other = Arc::new(MemoryStore::new());
    client(Arc::clone(&other)).create(&name()).await.unwrap();
    let theirs = StoredKey::read(&other, &name()).await.unwrap();
    assert_eq!(key.would_write(&other).await.unwrap(), Written::Other(theirs.fingerprint()));
}

#[tokio::test]
async fn a_key_that_is_its_own_hmac_key_seals_and_refuses_the_message_that_would_show_a_seal_s_key() {
    let (store, bytes) = (Arc::new(MemoryStore::new()), [7; 32]);
    let secret = || SecretKey::from_slice(&bytes).unwrap();
    let mut record = KeyRecord::new(secret(), Cipher::Aes256, "a test").unwrap();
    record.hmac_key = Some(HmacKey(secret()));
    store.create(&EntryName::from(&name()), &record.encode()).await.unwrap();
    let client = client(store);
    for len in [0, 15, 17, 32] {
        client.hmac(&name(), &vec![1; len]).await.unwrap();
    }
    let error = client.hmac(&name(), &[1; 16]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    client.create(&KeyName::new("other").unwrap()).await.unwrap();
    client.hmac(&KeyName::new("other").unwrap(), &[1; 16]).await.unwrap();
}

#[tokio::test]
async fn a_key_that_is_not_whole_does_not_move() {
    let store = Arc::new(MemoryStore::new());
    key_in(&store).await;
    let key = StoredKey::read(&store, &name()).await.unwrap();
    let slot = |number| EntryName::version(&name(), &key.fingerprint(), number);
    let restore = |number: usize| key.entries()[number - 1].1.expose().to_vec();

    let second = store.bytes(&slot(2)).unwrap();
    store.delete(&slot(2)).await.unwrap();
    let error = StoredKey::read(&store, &name()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(
        error.chain().to_string().contains("it is missing, and a newer version is there"),
        "{}",
        error.chain()
    );
    store.create(&slot(2), &second).await.unwrap();
    assert!(restore(2) == second.expose());

    // What somebody made who does not know the key has no effect, unless it takes the place of a version.
    store.overwrite(&slot(4), b"planted");
    store.overwrite(&EntryName::deleted(&name(), &key.fingerprint()), b"planted");
    store.overwrite(&EntryName::under_way(&name(), &key.fingerprint()), b"planted");
    let read = StoredKey::read(&store, &name()).await.unwrap();
    assert_eq!((read.versions(), read.is_deleted()), (3, false));
    store.overwrite(&slot(2), b"planted");
    let error = StoredKey::read(&store, &name()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.chain().to_string().contains("and a newer version is there"), "{}", error.chain());
}

#[tokio::test]
async fn a_key_whose_restore_or_purge_was_cut_off_does_not_move() {
    let store = Arc::new(MemoryStore::new());
    key_in(&store).await;
    let client = keeping(Arc::clone(&store));
    client.delete(&name()).await.unwrap();
    let key = StoredKey::read(&store, &name()).await.unwrap();
    let run = EntryName::under_way(&name(), &key.fingerprint());
    let cut = CutOff::after_creates(Arc::clone(&store), 1);
    let ring = KeyRing::keeping_deleted(cut, config(), Duration::from_secs(3600));
    assert!(ring.client(Identity::of_program("a test")).restore(&name()).await.is_err());
    assert!(store.bytes(&run).is_some(), "the restore was cut off behind its marker");
    let error = StoredKey::read(&store, &name()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.chain().to_string().contains("--resume"), "{}", error.chain());
}

#[tokio::test]
async fn a_key_under_another_name_opens_what_it_sealed_under_that_name() {
    let store = Arc::new(MemoryStore::new());
    let sealed = key_in(&store).await;
    let key = StoredKey::read(&store, &name()).await.unwrap();
    let other = KeyName::new("my-key-was-01234567").unwrap();
    let renamed = key.renamed(&other).unwrap();
    assert_eq!(renamed.write(&store).await.unwrap(), Written::Stored);
    let there = StoredKey::read(&store, &other).await.unwrap();
    assert_eq!(there.fingerprints(), key.fingerprints());
    assert_eq!(there.disabled().collect::<Vec<_>>(), [2]);
    let client = client(Arc::clone(&store));
    assert_eq!(client.decrypt(&other, &sealed[2], b"").await.unwrap().expose(), b"3");
    assert!(there.open_probes(&key.seal_probes().unwrap()).is_err(), "a probe belongs to its name");
}

#[tokio::test]
async fn a_key_is_put_together_from_its_entries_and_from_nothing_less() {
    let store = Arc::new(MemoryStore::new());
    key_in(&store).await;
    keeping(Arc::clone(&store)).delete(&name()).await.unwrap();
    let key = StoredKey::read(&store, &name()).await.unwrap();
    let entries = || {
        let entries = key.entries().into_iter();
        entries
            .map(|(name, bytes)| (name.as_str().to_owned(), SecretBytes::from(bytes.expose())))
            .collect::<Vec<_>>()
    };
    let whole = StoredKey::from_entries(&name(), entries()).unwrap();
    whole.open_probes(&key.seal_probes().unwrap()).unwrap();
    assert!(bytes_of(&store, &whole) == bytes_of(&store, &key) && whole.entries().len() == 5);
    for at in 0..5 {
        let mut fewer = entries();
        let (gone, _) = fewer.remove(at);
        let put = StoredKey::from_entries(&name(), fewer);
        // Without a marker, or without the newest version, it is the same key in an earlier state.
        let is_earlier = gone.starts_with(".d/") || gone.starts_with(".x/") || gone.ends_with("/3");
        assert_eq!(
            put.err().map(|error| error.kind()),
            Some(ErrorKind::Corrupt).filter(|_| !is_earlier),
            "{gone}"
        );

        let mut changed = entries();
        let mut bytes = changed[at].1.expose().to_vec();
        bytes[70] ^= 1;
        changed[at].1 = SecretBytes::new(bytes);
        let put = StoredKey::from_entries(&name(), changed);
        let is_refused = put.and_then(|put| put.open_probes(&key.seal_probes().unwrap())).is_err();
        assert!(is_refused, "entry {at} was changed");
    }
    let mut surplus = entries();
    surplus.push((".v/other/00/2".to_owned(), SecretBytes::from(b"x".as_slice())));
    assert!(StoredKey::from_entries(&name(), surplus).is_err());
    assert!(whole.open_probes(&[Probe::new(4, Vec::new(), None)]).is_err());
}

#[tokio::test]
async fn what_is_denied_is_not_taken_for_absent() {
    let store = Arc::new(MemoryStore::new());
    key_in(&store).await;
    keeping(Arc::clone(&store)).delete(&name()).await.unwrap();
    for denied in [".v/", ".x/", ".d/", ".p/"] {
        let store = Denying { store: Arc::clone(&store), denied };
        let error = StoredKey::read(&store, &name()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Denied, "{denied}");
    }
    let store = Denying { store, denied: "." };
    let key = StoredKey::read_without_hidden(&store, &name()).await.unwrap();
    assert_eq!((key.versions(), key.is_deleted()), (1, false), "as a caller asked for");
}

#[tokio::test]
async fn however_many_versions_are_missing_a_newer_one_is_not_left_behind() {
    for can_list in [true, false] {
        let store = Arc::new(MemoryStore::new());
        let client = client(Arc::clone(&store));
        client.create(&name()).await.unwrap();
        for _ in 2..=5 {
            client.rotate(&name()).await.unwrap();
        }
        let fingerprint = StoredKey::read(&store, &name()).await.unwrap().fingerprint();
        for number in [2, 3, 4] {
            store.delete(&EntryName::version(&name(), &fingerprint, number)).await.unwrap();
        }
        let error = if can_list {
            StoredKey::read(&store, &name()).await.err().unwrap()
        } else {
            StoredKey::read(&CutOff::after_creates(store, 0), &name()).await.err().unwrap()
        };
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.chain().to_string().contains("/2"), "{}", error.chain());
    }
}

#[tokio::test]
async fn a_key_of_which_a_server_lost_many_versions_is_not_given_out_for_a_backup() {
    let store = Arc::new(MemoryStore::new());
    let ring = KeyRing::new(Arc::clone(&store), config());
    let request = || Request::new(Identity::of_program("a test"), Duration::from_secs(10));
    ring.create(&request(), &name()).await.unwrap();
    for _ in 2..=30 {
        ring.rotate(&request(), &name(), None).await.unwrap();
    }
    let key = ring.export(&request(), &name()).await.unwrap();
    assert_eq!(key.versions(), 30);
    // So many that steps which grow would pass over the one that is left.
    for number in 2..30 {
        store.delete(&EntryName::version(&name(), &key.fingerprint(), number)).await.unwrap();
    }
    let error = ring.export(&request(), &name()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_key_that_would_open_less_there_is_a_conflict() {
    let (from, to) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    key_in(&from).await;
    let key = StoredKey::read(&from, &name()).await.unwrap();
    let enabled = {
        let marker = EntryName::disabled(&name(), &key.fingerprint(), 2);
        let bytes = from.bytes(&marker).unwrap();
        from.delete(&marker).await.unwrap();
        let enabled = StoredKey::read(&from, &name()).await.unwrap();
        from.create(&marker, &bytes).await.unwrap();
        enabled
    };
    key.write(&to).await.unwrap();
    let conflict = |error: Option<Error>| {
        let error = error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        error.chain().to_string()
    };
    let told = conflict(enabled.write(&to).await.err());
    assert!(told.contains("'kms key enable my-key --version 2'"), "{told}");
    keeping(Arc::clone(&to)).delete(&name()).await.unwrap();
    let told = conflict(key.write(&to).await.err());
    assert!(told.contains("'kms key restore my-key'"), "{told}");

    // What opens more there is told.
    let other = MemoryStore::new();
    enabled.write(&other).await.unwrap();
    let written = key.write(&other).await.unwrap();
    assert!(matches!(written, Written::There { added: 0, differs: Some(_) }), "{written:?}");
}
