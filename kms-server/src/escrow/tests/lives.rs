//! What becomes of keys: the file says the same as the store, whoever stops waiting, fails or forgets.

use std::sync::atomic::{AtomicBool, Ordering};

use kms_core::primitives::SealingKey;

use super::*;

/// A store whose marks of deleted keys are slow or stuck, and that spoils entries.
#[derive(Default)]
struct Odd {
    store: MemoryStore,
    /// How long the removal of a mark takes.
    takes: Mutex<Duration>,
    /// The key that is removed while its mark is read.
    vanishes: Mutex<Option<EntryName>>,
    /// Whether entries of keys are denied.
    denies: AtomicBool,
}

#[async_trait]
impl KeyStore for Odd {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::shared("odd")
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        self.store.create(name, record).await
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        if self.denies.load(Ordering::Relaxed) && !name.is_hidden() {
            return Err(Error::new(ErrorKind::Denied, "get"));
        }
        if name.as_str().starts_with(".d/") {
            let vanishes = self.vanishes.lock().unwrap().take();
            if let Some(entry) = vanishes {
                self.store.delete(&entry).await?;
            }
        }
        self.store.get(name).await
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        let takes = *self.takes.lock().unwrap();
        if name.as_str().starts_with(".d/") {
            tokio::time::sleep(takes).await;
        }
        self.store.delete(name).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.store.list(query).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.store.status().await
    }
}

fn ring(store: Arc<dyn KeyStore>) -> KeyRing<Arc<dyn KeyStore>> {
    let config = CacheConfig::default().with_any(Duration::from_millis(100)).with_offline(Duration::ZERO);
    KeyRing::keeping_deleted(store, config, Duration::from_millis(200))
}

/// Makes a key and deletes it with a grace. Returns the name of its mark.
async fn deleted(store: Arc<dyn KeyStore>) -> EntryName {
    let client = ring(Arc::clone(&store)).client(Identity::of_program("tests"));
    client.create(&name("my-key")).await.unwrap();
    client.delete(&name("my-key")).await.unwrap();
    mark(&*store).await
}

async fn mark(store: &dyn KeyStore) -> EntryName {
    let KeyRecord { key, cipher, .. } =
        KeyRecord::decode(store.get(&entry("my-key")).await.unwrap().expose()).unwrap();
    EntryName::deleted(&name("my-key"), &SealingKey::new(key, cipher).fingerprint())
}

fn state(fixture: &Fixture) -> Option<State> {
    let held = held(vec![read(&fixture.path())]);
    held.last().map(|one| one.state)
}

#[tokio::test]
async fn a_restore_is_in_the_file_before_the_store_does_it_and_after_its_caller_went() {
    let (fixture, store) = (Fixture::new(), Arc::new(Odd::default()));
    let escrowed = fixture.open(store.clone());
    let mark = deleted(escrowed.clone()).await;
    assert_eq!(state(&fixture), Some(State::Deleted));
    *store.takes.lock().unwrap() = Duration::from_millis(1_500);
    let patience = Duration::from_millis(300);
    assert!(tokio::time::timeout(patience, escrowed.erase(&mark)).await.is_err());
    assert_eq!(state(&fixture), Some(State::Stored), "the store has not done it");
    // Meanwhile the look through the store finds it deleted, and says so.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(store.store.get(&mark).await.is_err());
    until(|| state(&fixture) == Some(State::Stored)).await;
    assert_eq!(fixture.restored().len(), 1);
}

#[tokio::test]
async fn a_deletion_is_noted_although_its_caller_went() {
    let (fixture, store) = (Fixture::new(), Arc::new(Odd::default()));
    let escrowed = fixture.open(store.clone());
    let mark = deleted(escrowed.clone()).await;
    store.store.delete(&entry("my-key")).await.unwrap();
    *store.takes.lock().unwrap() = Duration::from_millis(500);
    let patience = Duration::from_millis(100);
    assert!(tokio::time::timeout(patience, escrowed.erase(&mark)).await.is_err());
    until(|| state(&fixture) == Some(State::Gone)).await;
}

#[tokio::test]
async fn a_start_finds_what_was_restored_or_deleted_elsewhere() {
    let (fixture, store) = (Fixture::new(), Arc::new(MemoryStore::new()));
    let escrowed = fixture.open(store.clone());
    let mark = deleted(escrowed.clone()).await;
    fixture.closed(escrowed).await;
    assert_eq!(state(&fixture), Some(State::Deleted));
    let content = store.get(&mark).await.unwrap();
    store.delete(&mark).await.unwrap();
    let (escrowed, figures) = open(&fixture.settings(EscrowFailure::Refuse), store.clone()).unwrap();
    until(|| figures.is_complete()).await;
    assert_eq!(state(&fixture), Some(State::Stored), "it is in use");
    fixture.closed(escrowed).await;
    store.create(&mark, &content).await.unwrap();
    let (_escrowed, figures) = open(&fixture.settings(EscrowFailure::Refuse), store).unwrap();
    until(|| figures.is_complete()).await;
    assert_eq!(state(&fixture), Some(State::Deleted));
}

#[tokio::test]
async fn the_end_of_a_purge_is_no_restore_though_its_beginning_was_not_noted() {
    let (fixture, store) = (Fixture::new(), Arc::new(MemoryStore::new()));
    let escrowed = fixture.open(store.clone());
    let mark = deleted(escrowed.clone()).await;
    // As by a server that was killed between the store and the file.
    store.delete(&entry("my-key")).await.unwrap();
    escrowed.erase(&mark).await.unwrap();
    assert_eq!(state(&fixture), Some(State::Gone));
    assert_eq!(fixture.restored(), []);
}

#[tokio::test]
async fn while_the_file_is_away_no_restore_is_done_of_which_it_would_not_know() {
    let (fixture, store) = (Fixture::new(), Arc::new(MemoryStore::new()));
    let escrowed = fixture.open(store.clone());
    let mark = deleted(escrowed.clone()).await;
    fs::rename(fixture.path(), fixture.dir.path().join("away")).unwrap();
    let error = escrowed.erase(&mark).await.unwrap_err();
    assert!(error.kind() == ErrorKind::ReadOnly && NoEscrow::is_under(&error), "{error:?}");
    store.get(&mark).await.unwrap();
}

/// Damages the record in the n-th entry line of the file.
fn damage(path: &Path, n: usize) {
    let text = fs::read_to_string(path).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let line = lines.iter_mut().filter(|line| line.contains(" entry ")).nth(n).unwrap();
    let last = line.pop().unwrap();
    line.push(if last == 'A' { 'B' } else { 'A' });
    fs::write(path, lines.join("\n") + "\n").unwrap();
}

#[tokio::test]
async fn a_key_whose_record_is_damaged_is_added_again() {
    let (fixture, store) = (Fixture::new(), Arc::new(MemoryStore::new()));
    let escrowed = fixture.open(store.clone());
    escrowed.create(&entry("my-key"), &record(1)).await.unwrap();
    fixture.closed(escrowed).await;
    damage(&fixture.path(), 0);
    let (_escrowed, figures) = open(&fixture.settings(EscrowFailure::Refuse), store).unwrap();
    until(|| figures.is_complete()).await;
    assert_eq!(fixture.restored().len(), 1);
    assert_eq!(held(vec![read(&fixture.path())]).iter().filter(|one| !one.is_damaged).count(), 1);
}

#[tokio::test]
async fn a_damaged_version_leaves_the_versions_before_it() {
    let (fixture, store) = (Fixture::new(), Arc::new(MemoryStore::new()));
    let escrowed = fixture.open(store);
    let client = ring(escrowed.clone()).client(Identity::of_program("tests"));
    let key = name("my-key");
    client.create(&key).await.unwrap();
    client.rotate(&key).await.unwrap();
    client.rotate(&key).await.unwrap();
    drop(client);
    fixture.closed(escrowed).await;
    for (damaged, versions) in [(2, 2), (1, 1)] {
        damage(&fixture.path(), damaged);
        let held = held(vec![read(&fixture.path())]);
        let plan = Plan::of(&held, &[]);
        let opened = plan.choices[&key].open(&key, &held, &fixture.identities()).unwrap();
        assert_eq!(opened.key.versions(), versions);
        assert!(opened.missing.unwrap().contains("damaged"));
    }
}

#[tokio::test]
async fn a_key_that_cannot_be_read_stays_missing_until_it_can() {
    let (fixture, store) = (Fixture::new(), Arc::new(Odd::default()));
    store.store.create(&entry("my-key"), &record(1)).await.unwrap();
    store.denies.store(true, Ordering::Relaxed);
    let (_escrowed, figures) = open(&fixture.settings(EscrowFailure::Refuse), store.clone()).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((figures.missing(), figures.is_complete()), (1, false));
    store.denies.store(false, Ordering::Relaxed);
    until(|| figures.is_complete()).await;
    assert_eq!(figures.missing(), 0);
    assert_eq!(fixture.restored().len(), 1);
}

#[tokio::test]
async fn a_key_that_is_purged_while_it_is_added_does_not_come_back() {
    let (fixture, store) = (Fixture::new(), Arc::new(Odd::default()));
    store.store.create(&entry("my-key"), &record(1)).await.unwrap();
    *store.vanishes.lock().unwrap() = Some(entry("my-key"));
    let (_escrowed, figures) = open(&fixture.settings(EscrowFailure::Refuse), store.clone()).unwrap();
    until(|| figures.is_complete()).await;
    assert_eq!(state(&fixture), Some(State::Gone));
}
