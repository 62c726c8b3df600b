//! Another key in the place of one that lives by the file, as `kms migrate --force` leaves it.

use std::sync::atomic::{AtomicBool, Ordering};

use kms_core::transfer::StoredKey;

use super::*;

async fn put_in_place(store: &MemoryStore, byte: u8) {
    store.delete(&entry("my-key")).await.unwrap();
    store.create(&entry("my-key"), &record(byte)).await.unwrap();
}

fn fingerprint(byte: u8) -> String {
    seal::subject("my-key", &record(byte)).fingerprint.to_string()
}

/// Returns the key that a restore takes, by its fingerprint, and the number of names of which it asks which key they mean.
fn chosen(files: &[&Fixture], wanted: &[String]) -> (Option<String>, usize) {
    let held = held(files.iter().map(|fixture| read(&fixture.path())).collect());
    let plan = Plan::of(&held, wanted);
    let key =
        plan.choices.get(&name("my-key")).map(|choice| held[choice.key].subject.fingerprint.to_string());
    (key, plan.ambiguous.len())
}

#[tokio::test]
async fn the_key_that_the_store_has_is_the_current_one_and_the_former_one_can_be_asked_for() {
    let (fixture, store) = (Fixture::new(), Arc::new(MemoryStore::new()));
    let escrowed = fixture.open(store.clone());
    escrowed.create(&entry("my-key"), &record(1)).await.unwrap();
    fixture.closed(escrowed).await;
    let other = Arc::new(MemoryStore::new());
    other.create(&entry("my-key"), &record(2)).await.unwrap();
    let moved = StoredKey::read(&other, &name("my-key")).await.unwrap();
    let former = moved.replace(&store).await.unwrap().former.unwrap();
    let (escrowed, figures) = fixture.open_eager(store);
    until(|| figures.is_complete()).await;
    assert_eq!(chosen(&[&fixture], &[]), (Some(fingerprint(2)), 0));
    assert_eq!(figures.ambiguous(), 0);
    let names: Vec<_> = fixture.restored().into_iter().map(|(name, _)| name).collect();
    assert!(names.iter().any(|name| name == former.as_str()), "it is kept under its new name: {names:?}");
    assert_eq!(chosen(&[&fixture], &[fingerprint(1)]), (Some(fingerprint(1)), 0));
    let held = held(vec![read(&fixture.path())]);
    assert_eq!(held[0].state, State::Replaced, "nothing says that it was removed");
    let len = fs::metadata(fixture.path()).unwrap().len();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(fs::metadata(fixture.path()).unwrap().len(), len, "it is noted once");
    fixture.closed(escrowed).await;
}

#[tokio::test]
async fn a_key_that_comes_back_is_the_current_one_again() {
    let (fixture, store) = (Fixture::new(), Arc::new(MemoryStore::new()));
    let (escrowed, figures) = fixture.open_eager(store.clone());
    until(|| figures.is_complete()).await;
    escrowed.create(&entry("my-key"), &record(1)).await.unwrap();
    for byte in [2, 1, 2] {
        put_in_place(&store, byte).await;
        until(|| chosen(&[&fixture], &[]) == (Some(fingerprint(byte)), 0)).await;
    }
}

#[tokio::test]
async fn a_key_that_the_store_does_not_have_is_not_replaced() {
    let (fixture, store) = (Fixture::new(), Arc::new(MemoryStore::new()));
    let escrowed = fixture.open(store.clone());
    escrowed.create(&entry("my-key"), &record(1)).await.unwrap();
    fixture.closed(escrowed).await;
    store.delete(&entry("my-key")).await.unwrap();
    let (_escrowed, figures) = fixture.open_eager(store);
    until(|| figures.is_complete()).await;
    assert_eq!(
        chosen(&[&fixture], &[]),
        (Some(fingerprint(1)), 0),
        "what the store lost comes back from escrow"
    );
}

/// A store that shows what was there before when it is read for the first time.
#[derive(Default)]
struct Stale {
    store: MemoryStore,
    was_read: AtomicBool,
}

#[async_trait]
impl KeyStore for Stale {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::shared("stale").settling_in(Duration::from_millis(100))
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        self.store.create(name, record).await
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        if *name == entry("my-key") && !self.was_read.swap(true, Ordering::Relaxed) {
            return Ok(record(2));
        }
        self.store.get(name).await
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.store.delete(name).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.store.list(query).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.store.status().await
    }
}

#[tokio::test]
async fn an_answer_that_is_late_does_not_hide_the_key_of_the_store() {
    let (fixture, store) = (Fixture::new(), Arc::new(Stale::default()));
    store.was_read.store(true, Ordering::Relaxed);
    let escrowed = fixture.open(store.clone());
    escrowed.create(&entry("my-key"), &record(1)).await.unwrap();
    fixture.closed(escrowed).await;
    store.was_read.store(false, Ordering::Relaxed);
    let (_escrowed, figures) = fixture.open_eager(store);
    until(|| figures.is_complete()).await;
    until(|| chosen(&[&fixture], &[]) == (Some(fingerprint(1)), 0)).await;
}

#[tokio::test]
async fn the_files_of_two_servers_agree_on_the_key_that_the_store_has() {
    let (one, two, store) = (Fixture::new(), Fixture::new(), Arc::new(MemoryStore::new()));
    let first = one.open(store.clone());
    first.create(&entry("my-key"), &record(1)).await.unwrap();
    let (second, figures) = two.open_eager(store.clone());
    until(|| figures.is_complete()).await;
    one.closed(first).await;
    two.closed(second).await;
    put_in_place(&store, 2).await;
    let (first, figures) = one.open_eager(store.clone());
    until(|| figures.is_complete()).await;
    assert_eq!(
        chosen(&[&one, &two], &[]),
        (Some(fingerprint(2)), 0),
        "the line of one server counts for both"
    );
    // The former key comes back by the other server, which has not heard of all this.
    put_in_place(&store, 1).await;
    until(|| chosen(&[&one], &[]) == (Some(fingerprint(1)), 0)).await;
    assert_eq!(chosen(&[&one, &two], &[]), (Some(fingerprint(1)), 0));
    one.closed(first).await;
}

#[tokio::test]
async fn in_a_race_the_winner_is_not_replaced() {
    let (one, two, store) = (Fixture::new(), Fixture::new(), Arc::new(MemoryStore::new()));
    let (first, figures) = one.open_eager(store.clone());
    let (second, _) = two.open_eager(store.clone());
    until(|| figures.is_complete()).await;
    for n in 0..20 {
        let key = format!("key-{n}");
        let (ours, theirs) = (record(1), record(2));
        let (mine, other) = tokio::join!(async { first.create(&entry(&key), &ours).await.is_ok() }, async {
            second.create(&entry(&key), &theirs).await.is_ok()
        },);
        assert!(mine != other);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let held = held(vec![read(&one.path()), read(&two.path())]);
    let plan = Plan::of(&held, &[]);
    assert_eq!((plan.choices.len(), plan.ambiguous.len()), (20, 0));
    assert!(held.iter().all(|one| one.state != State::Replaced));
    for (key, choice) in &plan.choices {
        let there = store.get(&EntryName::from(key)).await.unwrap();
        assert_eq!(seal::subject(key.as_str(), &there), held[choice.key].subject);
    }
}
