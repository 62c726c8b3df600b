//! Mocks of roots and of a way to a store, and what operators do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use kms_core::primitives::{Cipher, SealingKey, SecretBytes, SecretKey};
use kms_core::roots::{
    Anchor, LocalRoot, Making, Opened, Root, RootId, RootState, Rooted, Roots, WrappedOneByOne,
};
use kms_core::store::{EntryName, KeyRecord, KeyStore, MemoryStore, StoreCapabilities, Wrapped, Wrapper};
use kms_core::{Error, ErrorKind, KeyName, ListQuery, Page, Result, StoreStatus};

/// A mock of a root elsewhere: a local root key that can be away, refuse, or lie.
pub struct Elsewhere {
    key: LocalRoot,
    pub fails: Mutex<Option<ErrorKind>>,
    /// What it unwraps is not what it wrapped.
    pub lies: Mutex<bool>,
}

impl Elsewhere {
    pub fn new(byte: u8) -> Arc<Self> {
        let key = SealingKey::new(SecretKey::take(&mut [byte; 32]), Cipher::Aes256);
        Arc::new(Self { key: LocalRoot::new(key), fails: Mutex::default(), lies: Mutex::default() })
    }

    pub fn fail(&self, kind: impl Into<Option<ErrorKind>>) {
        *self.fails.lock().unwrap() = kind.into();
    }

    fn check(&self) -> Result<()> {
        match *self.fails.lock().unwrap() {
            Some(kind) => Err(Error::with_source(kind, "ask the root", "words of the holder")),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Wrapper for Elsewhere {
    fn binds_name(&self) -> bool {
        true
    }

    async fn wrap(&self, name: &EntryName, record: &SecretBytes) -> Result<Vec<u8>> {
        self.check()?;
        self.key.wrap(name, record).await
    }

    async fn unwrap(&self, name: &EntryName, wrapped: &[u8]) -> Result<SecretBytes> {
        self.check()?;
        let opened = self.key.unwrap(name, wrapped).await?;
        if *self.lies.lock().unwrap() {
            let mut other = opened.expose().to_vec();
            other.reverse();
            other[0] = 1;
            return Ok(SecretBytes::new(other));
        }
        Ok(opened)
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.check()?;
        Ok(StoreStatus::ok(std::time::Duration::ZERO))
    }
}

/// A mock of a way to a shared store: it can be cut off, deny listings, and take a random time.
pub struct Way {
    pub store: Arc<MemoryStore>,
    pub denies_list: Mutex<bool>,
    pub denies: Mutex<Option<(String, ErrorKind)>>,
    /// Writes until the process dies, and whether the last one still arrives.
    pub dies_after: Mutex<Option<(usize, bool)>>,
    pub writes: AtomicUsize,
    /// Whether it is the way to a store that can lose what it acknowledged.
    pub can_lose: AtomicBool,
    dice: Mutex<Option<u64>>,
}

impl Way {
    pub fn to(store: &Arc<MemoryStore>) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::clone(store),
            denies_list: Mutex::default(),
            denies: Mutex::default(),
            dies_after: Mutex::default(),
            writes: AtomicUsize::default(),
            can_lose: AtomicBool::default(),
            dice: Mutex::default(),
        })
    }

    /// Lets others go first at random moments.
    pub fn with_dice(self: Arc<Self>, seed: u64) -> Arc<Self> {
        *self.dice.lock().unwrap() = Some(seed | 1);
        self
    }

    async fn wait(&self) {
        let turns = {
            let mut dice = self.dice.lock().unwrap();
            let Some(state) = dice.as_mut() else { return };
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            *state % 7
        };
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }

    fn is_dead(&self) -> bool {
        let writes = self.writes.load(Ordering::SeqCst);
        self.dies_after.lock().unwrap().is_some_and(|(after, _)| writes > after)
    }

    fn check(&self, name: &str) -> Result<()> {
        if self.is_dead() {
            return Err(Error::new(ErrorKind::Unreachable, "the process died"));
        }
        match &*self.denies.lock().unwrap() {
            Some((prefix, kind)) if name.starts_with(prefix) => {
                Err(Error::new(*kind, format!("touch {name}")))
            }
            _ => Ok(()),
        }
    }

    /// Counts a write. The error says that the process died at it, and the flag whether it arrives.
    fn write(&self) -> (bool, Result<()>) {
        let written = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        match *self.dies_after.lock().unwrap() {
            Some((after, arrives)) if written > after => {
                (arrives && written == after + 1, Err(Error::new(ErrorKind::Unreachable, "the process died")))
            }
            _ => (true, Ok(())),
        }
    }
}

#[async_trait]
impl KeyStore for Way {
    fn capabilities(&self) -> StoreCapabilities {
        let way = StoreCapabilities::shared("way");
        if self.can_lose.load(Ordering::SeqCst) { way.noting_removals() } else { way }
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        self.wait().await;
        self.check(name.as_str())?;
        let (arrives, outcome) = self.write();
        let written = if arrives { self.store.create(name, record).await } else { Ok(()) };
        self.wait().await;
        outcome.and(written)
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        self.wait().await;
        self.check(name.as_str())?;
        let read = self.store.get(name).await;
        self.wait().await;
        read
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.wait().await;
        self.check(name.as_str())?;
        let (arrives, outcome) = self.write();
        let written = if arrives { self.store.delete(name).await } else { Ok(()) };
        self.wait().await;
        outcome.and(written)
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.wait().await;
        self.check("")?;
        if *self.denies_list.lock().unwrap() {
            return Err(Error::new(ErrorKind::Denied, "list"));
        }
        self.store.list(query).await
    }

    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        if *self.denies_list.lock().unwrap() {
            return Err(Error::new(ErrorKind::Denied, "list"));
        }
        self.store.segments(directory).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.store.status().await
    }
}

pub fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new())
}

/// The root of a mock, with the mock's number as its id.
pub fn root(id: &str, wrapper: &Arc<Elsewhere>) -> Root {
    Root::new(RootId::new(id).unwrap(), Arc::clone(wrapper) as Arc<dyn Wrapper>)
}

pub fn id(id: &str) -> RootId {
    RootId::new(id).unwrap()
}

/// The roots of a server: each named as given.
pub fn roots(way: &Arc<Way>, all: &[(&str, &Arc<Elsewhere>)]) -> Roots {
    let all: Vec<Root> = all.iter().map(|(id, wrapper)| root(id, wrapper)).collect();
    let form = Arc::new(WrappedOneByOne::new(&all));
    Roots::new(Arc::clone(way) as Arc<dyn KeyStore>, all, form).unwrap()
}

pub async fn open(way: &Arc<Way>, all: &[(&str, &Arc<Elsewhere>)]) -> Result<Opened> {
    roots(way, all).open(Making::OnEmpty).await
}

pub fn entry(name: &str) -> EntryName {
    EntryName::from(&KeyName::new(name).unwrap())
}

/// A record of a key, the same for the same name.
pub fn record(name: &str) -> SecretBytes {
    let mut bytes = [0; 32];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    KeyRecord {
        key: SecretKey::take(&mut bytes),
        cipher: Cipher::Aes256,
        hmac_key: None,
        created_at: None,
        created_by: String::new(),
    }
    .encode()
}

pub async fn put(store: &dyn KeyStore, name: &str) {
    store.create(&entry(name), &record(name)).await.unwrap_or_else(|error| panic!("{error:?}"));
}

#[track_caller]
pub fn assert_same(read: Result<SecretBytes>, name: &str) {
    assert!(read.unwrap_or_else(|error| panic!("{name}: {error:?}")) == record(name), "{name} is another");
}

pub async fn holds(store: &Rooted, names: &[&str]) {
    for name in names {
        assert_same(store.get(&entry(name)).await, name);
    }
}

/// A store of an earlier release: its records were wrapped one by one.
pub async fn earlier(store: &Arc<MemoryStore>, wrapper: &Arc<Elsewhere>, names: &[&str]) {
    let before = Wrapped::new(Arc::clone(store), Arc::clone(wrapper));
    for name in names {
        put(&before, name).await;
    }
}

pub async fn anchor(store: &MemoryStore) -> Option<Anchor> {
    Anchor::read(store).await.unwrap()
}

/// All entries of the store, to see that nothing was written.
pub async fn everything(store: &MemoryStore) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for name in store.list(&ListQuery::prefix("")).await.unwrap().names {
        let name = EntryName::from(&name);
        all.insert(name.to_string(), store.get(&name).await.unwrap().expose().to_vec());
    }
    for segment in store.segments(".r/").await.unwrap() {
        let name = match RootId::new(&segment) {
            Ok(id) => id.entry(),
            Err(_) if segment == "store" => Anchor::entry(),
            // The mark of a removal.
            Err(_) => {
                all.insert(segment, Vec::new());
                continue;
            }
        };
        all.insert(name.to_string(), store.get(&name).await.unwrap().expose().to_vec());
    }
    all
}

/// The states of the roots, in their order.
pub async fn states(roots: &Roots) -> Vec<RootState> {
    roots.status().await.unwrap().roots.iter().map(|root| root.state).collect()
}

#[track_caller]
pub fn refused<T>(outcome: Result<T>, kind: ErrorKind, words: &[&str]) {
    let Err(error) = outcome else { panic!("it has to be refused with {words:?}") };
    let text = error.chain().to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}

/// Waits for what happens in the background.
pub async fn until(happened: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if happened() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("it did not happen within ten seconds");
}
