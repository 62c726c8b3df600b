//! Removals of which nobody heard the end.

use super::*;

/// A store that does not come back from a removal, or refuses it.
#[derive(Default)]
struct Odd {
    store: MemoryStore,
    removal: Mutex<Option<Removal>>,
    /// What reads fail with.
    away: Mutex<Option<ErrorKind>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removal {
    DoneAndHang,
    Hang,
    Fails(ErrorKind),
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
        let away = *self.away.lock().unwrap();
        match away {
            Some(kind) => Err(Error::new(kind, "get")),
            None => self.store.get(name).await,
        }
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        let removal = *self.removal.lock().unwrap();
        match removal {
            None => self.store.delete(name).await,
            Some(Removal::Fails(kind)) => Err(Error::new(kind, "delete")),
            Some(Removal::Hang) => std::future::pending().await,
            Some(Removal::DoneAndHang) => {
                self.store.delete(name).await?;
                std::future::pending().await
            }
        }
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.store.list(query).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.store.status().await
    }
}

/// Makes a key, and begins to remove it. Copies the file as a kill would leave it then, and returns a fixture of it.
async fn killed(store: &Arc<Odd>, removal: Removal) -> Fixture {
    let fixture = Fixture::new();
    let escrowed = fixture.open(store.clone());
    escrowed.create(&entry("my-key"), &record(1)).await.unwrap();
    *store.removal.lock().unwrap() = Some(removal);
    let patience = Duration::from_millis(300);
    assert!(tokio::time::timeout(patience, escrowed.delete(&entry("my-key"))).await.is_err());
    let mut killed = Fixture::new();
    killed.identity = fixture.identity.clone();
    fs::copy(fixture.path(), killed.path()).unwrap();
    killed
}

fn state(fixture: &Fixture) -> State {
    held(vec![read(&fixture.path())]).last().unwrap().state
}

#[tokio::test]
async fn a_removal_whose_end_was_lost_brings_no_key_back_unasked_and_hides_none() {
    for removal in [Removal::DoneAndHang, Removal::Hang] {
        let store = Arc::new(Odd::default());
        let fixture = killed(&store, removal).await;
        assert_eq!(state(&fixture), State::Removing);
        assert_eq!(fixture.restored(), []);
        let held_now = held(vec![read(&fixture.path())]);
        let plan = Plan::of(&held_now, &[]);
        assert!(plan.in_doubt.contains_key(&name("my-key")), "it is asked for");
        let fingerprint = held_now[0].subject.fingerprint.to_string();
        assert!(Plan::of(&held_now, &[fingerprint]).choices.contains_key(&name("my-key")));

        // The next start finds out.
        let (_escrowed, figures) = open(&fixture.settings(EscrowFailure::Refuse), store.clone()).unwrap();
        until(|| figures.is_complete()).await;
        let expected = if removal == Removal::Hang { State::Stored } else { State::Gone };
        assert_eq!(state(&fixture), expected, "{removal:?}");
        let held_now = held(vec![read(&fixture.path())]);
        assert_eq!(Plan::of(&held_now, &[]).in_doubt.len(), 0);
        assert_eq!(held_now.len(), 1, "nothing was sealed once more");
    }
}

#[tokio::test]
async fn while_the_store_does_not_say_it_stays_in_doubt() {
    let store = Arc::new(Odd::default());
    let fixture = killed(&store, Removal::Hang).await;
    *store.away.lock().unwrap() = Some(ErrorKind::Denied);
    let (_escrowed, _) = open(&fixture.settings(EscrowFailure::Refuse), store.clone()).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(state(&fixture), State::Removing);
    *store.away.lock().unwrap() = None;
    until(|| state(&fixture) == State::Stored).await;
}

#[tokio::test]
async fn another_key_of_the_name_says_that_the_removal_was_done() {
    let store = Arc::new(Odd::default());
    let fixture = killed(&store, Removal::DoneAndHang).await;
    let other = record(2);
    store.store.create(&entry("my-key"), &other).await.unwrap();
    let (_escrowed, figures) = open(&fixture.settings(EscrowFailure::Refuse), store.clone()).unwrap();
    until(|| figures.is_complete()).await;
    assert!(fixture.restores("my-key", &other));
    assert_eq!(fixture.restored().len(), 1);
}

#[tokio::test]
async fn a_removal_that_the_store_refuses_leaves_the_key_in_escrow() {
    for kind in [ErrorKind::Denied, ErrorKind::Unreachable] {
        let (fixture, store) = (Fixture::new(), Arc::new(Odd::default()));
        let escrowed = fixture.open(store.clone());
        let kept = record(1);
        escrowed.create(&entry("my-key"), &kept).await.unwrap();
        *store.removal.lock().unwrap() = Some(Removal::Fails(kind));
        assert!(escrowed.delete(&entry("my-key")).await.is_err());
        until(|| state(&fixture) == State::Stored).await;
        assert!(fixture.restores("my-key", &kept));
        *store.removal.lock().unwrap() = None;
        escrowed.delete(&entry("my-key")).await.unwrap();
        assert_eq!(state(&fixture), State::Gone);
    }
}

#[tokio::test]
async fn a_refused_purge_does_not_make_a_deleted_key_live() {
    let (fixture, store) = (Fixture::new(), Arc::new(Odd::default()));
    let escrowed = fixture.open(store.clone());
    let config = CacheConfig::default().with_any(Duration::from_millis(100)).with_offline(Duration::ZERO);
    let ring = KeyRing::keeping_deleted(Arc::clone(&escrowed), config, Duration::from_secs(60));
    let client = ring.client(Identity::of_program("tests"));
    client.create(&name("my-key")).await.unwrap();
    client.delete(&name("my-key")).await.unwrap();
    assert_eq!(state(&fixture), State::Deleted);
    *store.removal.lock().unwrap() = Some(Removal::Fails(ErrorKind::Denied));
    assert!(escrowed.delete(&entry("my-key")).await.is_err());
    assert_eq!(state(&fixture), State::Deleted);
}

#[tokio::test]
async fn a_removal_does_not_wait_for_a_disk_that_hangs() {
    let (store, fixture) = (Arc::new(Odd::default()), Fixture::new());
    store.create(&entry("my-key"), &record(1)).await.unwrap();
    let EscrowSettings { recipients, on_failure, .. } = fixture.settings(EscrowFailure::Refuse);
    let escrowed = Arc::new_cyclic(|this| Escrowed {
        this: this.clone(),
        inner: store.clone(),
        writer: Writer::hanging(),
        recipients: Recipients::parse(&recipients).unwrap(),
        on_failure,
        known: Arc::new(Known::new(&[])),
    });
    let removal = async { escrowed.delete(&entry("my-key")).await };
    assert!(
        tokio::time::timeout(Duration::from_secs(13), removal).await.is_err(),
        "the last line is awaited"
    );
    assert_eq!(kind(store.get(&entry("my-key")).await), Some(ErrorKind::NotFound));
}
