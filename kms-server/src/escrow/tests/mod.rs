//! No acknowledged key is missing in the file, whatever becomes of the store, the file and the process.

mod doubts;
mod failures;
mod format;
mod lives;
mod looks;
mod records;
mod replaced;
mod store;

use std::collections::VecDeque;
use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use age::secrecy::ExposeSecret as _;
use async_trait::async_trait;
use kms_core::primitives::{Cipher, SecretBytes, SecretKey};
use kms_core::store::{EntryName, KeyRecord, KeyStore, MemoryStore, StoreCapabilities};
use kms_core::{
    CacheConfig, Error, ErrorKind, Identity, KeyName, KeyRing, ListQuery, Page, Result, StoreStatus,
};
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use super::file::EscrowFile;
use super::line::{Line, Place, Says, Sealed};
use super::writer::{Draft, Writer};
use super::*;
use crate::recipients::Identities;
use crate::settings::EscrowFailure;

/// A directory with an escrow file, and the secret key that opens it.
struct Fixture {
    dir: TempDir,
    identity: age::x25519::Identity,
}

impl Fixture {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), identity: age::x25519::Identity::generate() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("escrow")
    }

    fn settings(&self, on_failure: EscrowFailure) -> EscrowSettings {
        let recipients = vec![self.identity.to_public().to_string()];
        EscrowSettings { recipients, path: self.path(), on_failure }
    }

    fn open(&self, store: Arc<dyn KeyStore>) -> Arc<Escrowed> {
        self.open_with(store, EscrowFailure::Refuse)
    }

    fn open_with(&self, store: Arc<dyn KeyStore>, on_failure: EscrowFailure) -> Arc<Escrowed> {
        open(&self.settings(on_failure), store).unwrap().0
    }

    fn identities(&self) -> Identities {
        use std::os::unix::fs::PermissionsExt as _;
        let file = self.dir.path().join("identity");
        fs::write(&file, self.identity.to_string().expose_secret()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        Identities::from_file(&file).unwrap()
    }

    /// Opens the file, and looks through the store again and again.
    fn open_eager(&self, store: Arc<dyn KeyStore>) -> (Arc<Escrowed>, Figures) {
        let pace = Pace { begin_after: Duration::ZERO, again: Duration::from_millis(200) };
        open_at(&self.settings(EscrowFailure::Refuse), store, pace).unwrap()
    }

    /// Drops the store, and waits until its file is free: a look that is under way holds the store until it ends.
    async fn closed(&self, escrowed: Arc<Escrowed>) {
        drop(escrowed);
        let file = fs::File::open(self.path()).unwrap();
        until(|| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()).await;
    }

    /// Returns what a restore from the present file would bring back: names of entries and their records.
    fn restored(&self) -> Vec<(String, Vec<u8>)> {
        let held = held(vec![read(&self.path())]);
        let plan = Plan::of(&held, &[]);
        let identities = self.identities();
        let records = plan.choices.values().flat_map(Choice::records);
        let opened = records.map(|index| open_record(&held[index], &identities).unwrap());
        opened.map(|(name, record)| (name, record.expose().to_vec())).collect()
    }

    fn restores(&self, name: &str, record: &SecretBytes) -> bool {
        self.restored().contains(&(name.to_owned(), record.expose().to_vec()))
    }
}

fn read(path: &Path) -> Contents {
    Contents::read(BufReader::new(fs::File::open(path).unwrap()), true).unwrap()
}

fn states(path: &Path) -> Vec<(String, State)> {
    held(vec![read(path)]).into_iter().map(|one| (one.subject.name.to_string(), one.state)).collect()
}

fn name(text: &str) -> KeyName {
    KeyName::new(text).unwrap()
}

fn entry(text: &str) -> EntryName {
    EntryName::from(&name(text))
}

fn record(byte: u8) -> SecretBytes {
    KeyRecord::new(SecretKey::take(&mut [byte; 32]), Cipher::Aes256, "tests").unwrap().encode()
}

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind())
}

async fn until(what: impl Fn() -> bool) {
    let began = Instant::now();
    while !what() {
        assert!(began.elapsed() < Duration::from_secs(20), "it took too long");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Begins a create, and drops it after a while. Returns whether it was still under way.
async fn is_cut_off(escrowed: &Escrowed, name: &str, byte: u8) -> bool {
    let (entry, record) = (entry(name), record(byte));
    let create = escrowed.create(&entry, &record);
    tokio::time::timeout(Duration::from_millis(300), create).await.is_err()
}

/// What the next create of a [`Scripted`] store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Yes,
    No(ErrorKind),
    DoneAnd(ErrorKind),
    NotDoneAnd(ErrorKind),
    DoneAndHang,
    HangFirst,
}

/// A store that does as it is told, and counts the creates that reach it.
#[derive(Default)]
struct Scripted {
    store: MemoryStore,
    steps: Mutex<VecDeque<Step>>,
    creates: Mutex<usize>,
    denies_list: bool,
}

impl Scripted {
    fn with(steps: &[Step]) -> Arc<Self> {
        Arc::new(Self { steps: Mutex::new(steps.iter().copied().collect()), ..Self::default() })
    }

    fn creates(&self) -> usize {
        *self.creates.lock().unwrap()
    }
}

#[async_trait]
impl KeyStore for Scripted {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::shared("scripted")
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        *self.creates.lock().unwrap() += 1;
        let step = self.steps.lock().unwrap().pop_front().unwrap_or(Step::Yes);
        let failed = |kind| Err(Error::new(kind, "create"));
        match step {
            Step::Yes => self.store.create(name, record).await,
            Step::No(kind) | Step::NotDoneAnd(kind) => failed(kind),
            Step::DoneAnd(kind) => {
                self.store.create(name, record).await?;
                failed(kind)
            }
            Step::DoneAndHang => {
                self.store.create(name, record).await?;
                std::future::pending().await
            }
            Step::HangFirst => std::future::pending().await,
        }
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        self.store.get(name).await
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.store.delete(name).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        if self.denies_list {
            return Err(Error::new(ErrorKind::Denied, "list"));
        }
        self.store.list(query).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.store.status().await
    }
}
