//! A key takes the place of another one: wherever that is cut off, no key is lost, and the same call completes it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyStore, MemoryStore, Notes, StoreCapabilities, survey};
use kms_core::transfer::{Probe, StoredKey, Written, former_name, names};
use kms_core::{
    CacheConfig, Client, Error, ErrorKind, Identity, KeyName, KeyRing, Kms as _, ListQuery, Page, Request,
    Result, StoreStatus,
};

fn name() -> KeyName {
    KeyName::new("my-key").unwrap()
}

fn caller() -> Identity {
    Identity::of_program("a test")
}

/// Returns a service under which a new version seals at once, and a deleted key is kept.
fn ring(store: &Arc<MemoryStore>) -> KeyRing<Arc<MemoryStore>> {
    let any = Duration::from_millis(1);
    let config = CacheConfig::new().with_any(any).with_unused(any);
    KeyRing::keeping_deleted(Arc::clone(store), config, Duration::from_secs(3600))
}

fn client(store: &Arc<MemoryStore>) -> Client {
    ring(store).client(caller())
}

/// Makes a key with three versions of which the second is disabled.
async fn key_in(store: &Arc<MemoryStore>) -> StoredKey {
    let ring = ring(store);
    let client = ring.client(caller());
    client.create(&name()).await.unwrap();
    for _ in 0..2 {
        client.rotate(&name()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        client.encrypt(&name(), b"text", b"").await.unwrap();
    }
    ring.retire(&Request::new(caller(), Duration::from_secs(10)), &name(), 2).await.unwrap();
    StoredKey::read(store, &name()).await.unwrap()
}

/// A store with a key of this name, which is deleted if `deleted`; that key; and another key from elsewhere.
async fn two_keys(deleted: bool) -> (Arc<MemoryStore>, StoredKey, StoredKey) {
    let (from, to) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    key_in(&to).await;
    if deleted {
        client(&to).delete(&name()).await.unwrap();
    }
    let theirs = StoredKey::read(&to, &name()).await.unwrap();
    (to, theirs, key_in(&from).await)
}

/// Checks that the store has both keys whole, and nothing else.
async fn assert_replaced(store: &Arc<MemoryStore>, theirs: &StoredKey, ours: &StoredKey, what: &str) {
    let former = former_name(&name(), &theirs.fingerprint()).unwrap();
    assert_eq!(names(store).await.unwrap(), [name(), former.clone()], "{what}");
    let there = StoredKey::read(store, &name()).await.unwrap();
    there.open_probes(&ours.seal_probes().unwrap()).expect(what);
    assert_eq!((there.versions(), there.disabled().collect::<Vec<_>>()), (3, vec![2]), "{what}");
    let kept = StoredKey::read(store, &former).await.unwrap();
    kept.open_probes(&theirs.renamed(&former).unwrap().seal_probes().unwrap()).expect(what);
    assert_eq!((kept.versions(), kept.disabled().collect::<Vec<_>>()), (3, vec![2]), "{what}");
    assert_eq!(kept.is_deleted(), theirs.is_deleted(), "{what}");
    assert_eq!(survey(store.as_ref()).await.unwrap().remnants, [], "{what}: nothing of it is left behind");
    assert!(store.bytes(&EntryName::replacing(&name())).is_none(), "{what}");
}

#[tokio::test]
async fn the_key_that_was_there_is_kept_under_a_name_of_its_own() {
    let (store, theirs, ours) = two_keys(false).await;
    let sealed = client(&store).encrypt(&name(), b"old", b"").await.unwrap();
    let done = ours.replace(&store).await.unwrap();
    assert_eq!(done.written, Written::Stored);
    let former = done.former.unwrap();
    assert_eq!(former.as_str(), format!("my-key-was-{}", &hex::encode(theirs.fingerprint().as_bytes())[..8]));
    assert_replaced(&store, &theirs, &ours, "at once").await;
    assert_eq!(client(&store).decrypt(&former, &sealed, b"").await.unwrap().expose(), b"old");

    // The same call again finds nothing to do, and a key without another one is only written.
    let again = ours.replace(&store).await.unwrap();
    assert_eq!((again.written, again.former), (Written::There { added: 0, differs: None }, None));
    let empty = MemoryStore::new();
    let done = ours.replace(&empty).await.unwrap();
    assert_eq!((done.written, done.former), (Written::Stored, None));
}

#[tokio::test]
async fn a_long_name_is_shortened_so_that_the_new_one_is_a_name() {
    let fingerprint = key_in(&Arc::new(MemoryStore::new())).await.fingerprint();
    for len in [1, 66, 67, 68, 80] {
        let former = former_name(&KeyName::new("k".repeat(len)).unwrap(), &fingerprint).unwrap();
        assert_eq!(former.as_str().len(), (len + 13).min(KeyName::MAX_LEN));
        assert!(former.as_str().contains("-was-"));
    }
}

#[tokio::test]
async fn a_replacement_that_was_cut_off_anywhere_loses_no_key_and_is_completed() {
    for deleted in [false, true] {
        for is_one_step in [false, true] {
            let mut steps = 0;
            loop {
                let (store, theirs, ours) = two_keys(deleted).await;
                let probes = (theirs.seal_probes().unwrap(), ours.seal_probes().unwrap());
                let cut = CutOff::after(&store, steps, is_one_step);
                let is_done = ours.replace(&cut).await.is_ok();
                let what = format!("{steps} steps, deleted: {deleted}, one step: {is_one_step}");
                assert!(is_kept(&store, &theirs, &probes.0).await, "{what}: the key that was there is lost");
                let noted = store.get(&EntryName::replacing(&name())).await.is_ok();
                let seen = survey(store.as_ref()).await.unwrap();
                assert_eq!(seen.cut_off, if noted { vec![name()] } else { Vec::new() }, "{what}");
                assert!(!noted || seen.remnants.is_empty(), "{what}: what the same call removes is told");
                let would =
                    ours.would_replace(&store).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                assert_eq!(would.resumed, noted, "{what}");
                let done = ours.replace(&store).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                assert_eq!((&would.former, would.resumed), (&done.former, done.resumed), "{what}");
                assert!(matches!(done.written, Written::Stored | Written::There { .. }), "{what}");
                assert_replaced(&store, &theirs, &ours, &what).await;
                if is_done {
                    break;
                }
                steps += 1;
            }
            assert!(steps > 10, "{steps} steps were tried");
        }
    }
}

/// Returns whether a key can be read whole, under its name or the name for a former key.
async fn is_kept(store: &Arc<MemoryStore>, key: &StoredKey, probes: &[Probe]) -> bool {
    let former = former_name(key.name(), &key.fingerprint()).unwrap();
    let here = StoredKey::read(store, key.name()).await.is_ok_and(|read| read.open_probes(probes).is_ok());
    let probes = key.renamed(&former).unwrap().seal_probes().unwrap();
    here || StoredKey::read(store, &former).await.is_ok_and(|read| read.open_probes(&probes).is_ok())
}

#[tokio::test]
async fn a_third_key_that_came_meanwhile_is_a_conflict_that_names_it() {
    // The old entry is erased, and then the process ends.
    let mut steps = 0;
    let (store, theirs, ours) = loop {
        let (store, theirs, ours) = two_keys(false).await;
        assert!(ours.replace(&CutOff::after(&store, steps, false)).await.is_err());
        if store.get(&EntryName::from(&name())).await.is_err() {
            break (store, theirs, ours);
        }
        steps += 1;
    };
    client(&store).create(&name()).await.unwrap();
    let third = StoredKey::read(&store, &name()).await.unwrap();
    assert_eq!(ours.would_replace(&store).await.err().unwrap().kind(), ErrorKind::Conflict);
    let error = ours.replace(&store).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let text = error.chain().to_string();
    assert!(text.contains(&hex::encode(third.fingerprint().as_bytes())), "{text}");
    assert!(StoredKey::read(&store, &name()).await.unwrap().fingerprint() == third.fingerprint());
    assert!(is_kept(&store, &theirs, &theirs.seal_probes().unwrap()).await);

    // A third source waits for the end of the replacement, too.
    let other = key_in(&Arc::new(MemoryStore::new())).await;
    assert_eq!(other.would_replace(&store).await.err().unwrap().kind(), ErrorKind::Conflict);
    assert_eq!(other.replace(&store).await.err().unwrap().kind(), ErrorKind::Conflict);

    store.delete(&EntryName::from(&name())).await.unwrap();
    ours.replace(&store).await.unwrap();
    assert_replaced(&store, &theirs, &ours, "after the third key").await;
}

#[tokio::test]
async fn keys_may_take_a_place_one_after_the_other() {
    let (store, first, second) = two_keys(false).await;
    let third = key_in(&Arc::new(MemoryStore::new())).await;
    second.replace(&store).await.unwrap();
    third.replace(&store).await.unwrap();
    for key in [&first, &second] {
        assert!(is_kept(&store, key, &key.seal_probes().unwrap()).await);
    }
    assert!(StoredKey::read(&store, &name()).await.unwrap().fingerprint() == third.fingerprint());
    assert_eq!(survey(store.as_ref()).await.unwrap().remnants, []);
}

#[tokio::test]
async fn a_key_that_cannot_be_kept_is_not_replaced() {
    let (store, theirs, ours) = two_keys(false).await;
    let former = former_name(&name(), &theirs.fingerprint()).unwrap();
    client(&store).create(&former).await.unwrap();
    assert_eq!(ours.would_replace(&store).await.err().unwrap().kind(), ErrorKind::Conflict);
    let error = ours.replace(&store).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.chain().to_string().contains(former.as_str()), "{}", error.chain());
    assert!(StoredKey::read(&store, &name()).await.unwrap().fingerprint() == theirs.fingerprint());
    assert!(
        store.bytes(&EntryName::replacing(&name())).is_none(),
        "nothing was begun, so nothing is cut off"
    );

    let (store, theirs, ours) = two_keys(false).await;
    store.overwrite(&EntryName::version(&name(), &theirs.fingerprint(), 2), b"damaged");
    assert_eq!(ours.replace(&store).await.err().unwrap().kind(), ErrorKind::Corrupt);
    assert!(store.get(&EntryName::from(&name())).await.is_ok());
}

/// A mock of a store whose process ends: the first changes are kept, and then every change fails.
struct CutOff {
    store: Arc<MemoryStore>,
    left: AtomicUsize,
    /// Whether the store replaces an entry in one step.
    is_one_step: bool,
}

impl CutOff {
    fn after(store: &Arc<MemoryStore>, steps: usize, is_one_step: bool) -> Self {
        Self { store: Arc::clone(store), left: AtomicUsize::new(steps), is_one_step }
    }

    fn step(&self) -> Result<()> {
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| Error::new(ErrorKind::ReadOnly, "change an entry after the end"))
    }
}

#[async_trait]
impl KeyStore for CutOff {
    fn capabilities(&self) -> StoreCapabilities {
        self.store.capabilities()
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        self.step()?;
        self.store.create(name, record).await
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        self.store.get(name).await
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.step()?;
        self.store.delete(name).await
    }

    async fn replace(&self, name: &EntryName, record: &SecretBytes, notes: &Notes<'_>) -> Result<()> {
        if self.is_one_step {
            self.step()?;
            return self.store.replace(name, record, notes).await;
        }
        self.erase(name).await?;
        self.create(name, record).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.store.list(query).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.store.status().await
    }
}
