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
    /// Another program was faster.
    ByAnother,
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
            Some(Removal::ByAnother) => {
                self.store.delete(name).await?;
                Err(Error::new(ErrorKind::NotFound, "delete"))
            }
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

#[tokio::test]
async fn a_key_that_another_program_removed_first_is_gone() {
    let (fixture, store) = (Fixture::new(), Arc::new(Odd::default()));
    let escrowed = fixture.open(store.clone());
    escrowed.create(&entry("my-key"), &record(1)).await.unwrap();
    *store.removal.lock().unwrap() = Some(Removal::ByAnother);
    assert_eq!(kind(escrowed.delete(&entry("my-key")).await), Some(ErrorKind::NotFound));
    assert_eq!(state(&fixture), State::Gone);
    assert_eq!(fixture.restored(), []);
}

/// Writes a file of these lines, each with its second, as a server would.
fn file_of(says: Vec<(u32, Says)>) -> Contents {
    let mut text = String::new();
    let begins = Says::Begins { version: FORMAT.into() };
    for (batch, (second, says)) in (1..).zip([(0, begins)].into_iter().chain(says)) {
        let at = format!("2026-01-02T03:04:{second:02}Z").parse().unwrap();
        Line { place: Place { batch, n: 1 }, of: 1, at, says }.push_to(&mut text);
    }
    let contents = Contents::read(text.as_bytes(), true).unwrap();
    assert!(contents.flaws.is_empty(), "{:?}", contents.flaws);
    contents
}

#[test]
fn a_doubt_in_one_file_stays_whatever_another_server_wrote() {
    let key = seal::subject("my-key", &record(1));
    let stored_at = |second, more: Vec<(u32, Says)>| {
        let sealed = Sealed::Whole(b"sealed".to_vec());
        let mut says = vec![
            (second, Says::Entry { subject: key.clone(), sealed }),
            (second, Says::Stored { entry: Place { batch: 2, n: 1 }, subject: key.clone() }),
        ];
        says.extend(more);
        file_of(says)
    };
    let removing = || (20, Says::Removing(key.clone()));
    let kept = || (40, Says::Kept(key.clone()));
    let plan = |files| {
        let plan = Plan::of(&held(files), &[]);
        (plan.choices.len(), plan.in_doubt.len())
    };
    let asks = (0, 1);
    for second in [5, 10, 30] {
        assert_eq!(plan(vec![stored_at(10, vec![removing()]), stored_at(second, vec![])]), asks, "{second}");
        assert_eq!(plan(vec![stored_at(second, vec![]), stored_at(10, vec![removing()])]), asks, "{second}");
    }
    // A refusal that another server heard is no word about this removal.
    assert_eq!(plan(vec![stored_at(10, vec![removing()]), stored_at(30, vec![kept()])]), asks);
    // The server itself found out.
    assert_eq!(plan(vec![stored_at(10, vec![removing(), kept()]), stored_at(30, vec![])]), (1, 0));
    let gone = || (50, Says::Gone(key.clone()));
    assert_eq!(plan(vec![stored_at(10, vec![removing(), gone()]), stored_at(30, vec![])]), (0, 0));
    assert_eq!(plan(vec![stored_at(10, vec![removing()]), stored_at(30, vec![gone()])]), (0, 0));
    // Deleted in a store that keeps it, and restored by another server.
    let deleted = || (21, Says::Deleted(key.clone()));
    let restored = || (40, Says::Restored(key.clone()));
    assert_eq!(
        plan(vec![stored_at(10, vec![removing(), deleted()]), stored_at(15, vec![restored()])]),
        (1, 0)
    );
}
