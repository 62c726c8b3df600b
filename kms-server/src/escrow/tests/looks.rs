//! The looks through the store: now and then, in parts, and over keys that the store itself keeps deleted.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::*;

#[tokio::test]
async fn what_other_programs_bring_is_added_without_a_start_or_a_read() {
    let (fixture, store) = (Fixture::new(), Arc::new(MemoryStore::new()));
    let (_escrowed, figures) = fixture.open_eager(store.clone());
    until(|| figures.is_complete()).await;
    let brought = record(1);
    store.create(&entry("my-key"), &brought).await.unwrap();
    until(|| fixture.restores("my-key", &brought)).await;
    let len = fs::metadata(fixture.path()).unwrap().len();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fs::metadata(fixture.path()).unwrap().len(), len, "later looks write nothing");
}

#[tokio::test]
async fn what_a_look_adds_is_written_in_parts() {
    let (fixture, store) = (Fixture::new(), Arc::new(MemoryStore::new()));
    let names: Vec<String> = (0..20).map(|n| format!("key-{n}")).collect();
    for name in &names {
        let key = SecretKey::random().unwrap();
        let large = KeyRecord::new(key, Cipher::Aes256, "x".repeat(100_000)).unwrap().encode();
        store.create(&entry(name), &large).await.unwrap();
    }
    let (_escrowed, figures) = fixture.open_eager(store);
    until(|| figures.is_complete()).await;
    assert_eq!(fixture.restored().len(), names.len());
    let text = fs::read_to_string(fixture.path()).unwrap();
    let mut batches: BTreeMap<u64, usize> = BTreeMap::new();
    for line in text.split_inclusive('\n') {
        let place = Line::parse(line.as_bytes()).unwrap().place;
        *batches.entry(place.batch).or_default() += line.len();
    }
    // A start writes the last 4 MiB anew, so that a kill leaves nothing there that no disk has.
    let longest = batches.values().max().unwrap();
    assert!(*longest < 1 << 20, "a batch has {longest} bytes");
    assert!(batches.len() > text.len() >> 20, "{} batches", batches.len());
}

/// A store that keeps deleted keys and does not list them, as Secrets Manager does.
#[derive(Default)]
struct Keeping {
    store: MemoryStore,
    kept: Mutex<BTreeSet<EntryName>>,
}

impl Keeping {
    fn delete_elsewhere(&self, text: &str) {
        self.kept.lock().unwrap().insert(entry(text));
    }

    fn restore_elsewhere(&self, text: &str) {
        self.kept.lock().unwrap().remove(&entry(text));
    }

    fn is_kept(&self, name: &EntryName) -> bool {
        self.kept.lock().unwrap().contains(name)
    }
}

#[async_trait]
impl KeyStore for Keeping {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::shared("keeping").keeping_deleted()
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        if self.is_kept(name) {
            return Err(Error::new(ErrorKind::AlreadyExists, "create"));
        }
        self.store.create(name, record).await
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        if self.is_kept(name) {
            return Err(Error::new(ErrorKind::Deleted, "get"));
        }
        self.store.get(name).await
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.get(name).await?;
        self.kept.lock().unwrap().insert(name.clone());
        Ok(())
    }

    async fn restore(&self, name: &EntryName) -> Result<()> {
        self.kept.lock().unwrap().remove(name);
        Ok(())
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        let mut page = self.store.list(query).await?;
        page.names.retain(|name| !self.is_kept(&EntryName::from(name)));
        Ok(page)
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.store.status().await
    }
}

fn state(fixture: &Fixture) -> State {
    held(vec![read(&fixture.path())]).last().unwrap().state
}

#[tokio::test]
async fn a_start_notes_what_the_store_keeps_deleted_and_what_came_back() {
    let (fixture, store) = (Fixture::new(), Arc::new(Keeping::default()));
    let escrowed = fixture.open(store.clone());
    escrowed.create(&entry("my-key"), &record(1)).await.unwrap();
    fixture.closed(escrowed).await;
    store.delete_elsewhere("my-key");
    let (escrowed, figures) = fixture.open_eager(store.clone());
    until(|| figures.is_complete()).await;
    assert_eq!(state(&fixture), State::Deleted, "a restore would bring it back as if it lived");
    let len = fs::metadata(fixture.path()).unwrap().len();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(fs::metadata(fixture.path()).unwrap().len(), len, "it is noted once");
    store.restore_elsewhere("my-key");
    until(|| state(&fixture) == State::Stored).await;
    store.delete_elsewhere("my-key");
    fixture.closed(escrowed).await;
    let (_escrowed, figures) = fixture.open_eager(store);
    until(|| figures.is_complete()).await;
    assert_eq!(state(&fixture), State::Deleted);
}

#[tokio::test]
async fn a_key_that_the_server_deletes_and_restores_is_noted_once_each() {
    let (fixture, store) = (Fixture::new(), Arc::new(Keeping::default()));
    let (escrowed, figures) = fixture.open_eager(store.clone());
    until(|| figures.is_complete()).await;
    let kept = record(1);
    escrowed.create(&entry("my-key"), &kept).await.unwrap();
    escrowed.delete(&entry("my-key")).await.unwrap();
    assert_eq!(state(&fixture), State::Deleted);
    let len = fs::metadata(fixture.path()).unwrap().len();
    drop(figures);
    fixture.closed(escrowed).await;
    let (escrowed, figures) = fixture.open_eager(store);
    until(|| figures.is_complete()).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(fs::metadata(fixture.path()).unwrap().len(), len);
    escrowed.restore(&entry("my-key")).await.unwrap();
    until(|| fixture.restores("my-key", &kept)).await;
}
