//! A store of known content, copies of it to damage, and the allowed outcomes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use kms_core::primitives::{Cipher, SecretBytes, SecretKey};
use kms_core::store::{EntryName, KeyRecord, KeyStore};
use kms_core::{ErrorKind, KeyName, ListQuery};
use kms_fs::{FsConfig, FsStore, OpenMode, Opened, RootKey, open};
use tempfile::TempDir;

/// Words of libraries and of Rust's `Debug` that no operator should read.
const DEBUG_TEXTS: [&str; 8] =
    ["backtrace", "None", "Some(", "Corruption", "ReportableBug", "panicked", "unwrap", "file offset"];

/// A closed store of known content.
pub struct Sample {
    dir: TempDir,
    pub root: RootKey,
    /// The number of keys: `key-0000` and so on. Every tenth was deleted after it had been made.
    pub keys: u64,
}

/// What became of a damaged store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The store was not opened, and nothing was written.
    Refused,
    /// The store was opened, and this number of keys is unreadable.
    Opened { unreadable: u64, read_only: bool },
}

impl Sample {
    /// Makes a store of `keys` keys in several runs, as a server leaves it that was stopped or killed.
    pub async fn make(keys: u64) -> Self {
        let sample = Self { dir: tempfile::tempdir().unwrap(), root: RootKey::random().unwrap(), keys };
        for run in 0..3 {
            let store = sample.open_at(&sample.path()).unwrap().store;
            let store = std::sync::Arc::new(store);
            let tasks: Vec<_> = (0..8)
                .map(|task| {
                    let store = std::sync::Arc::clone(&store);
                    let numbers: Vec<u64> = (0..keys).filter(|n| n % 3 == run && n / 3 % 8 == task).collect();
                    tokio::spawn(async move {
                        for n in numbers {
                            store.create(&entry(n), &record(n)).await.unwrap();
                            if is_deleted(n) {
                                store.delete(&entry(n)).await.unwrap();
                            }
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        }
        sample
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Copies the store into a directory of its own.
    pub fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_tree(&self.path(), copy.path());
        copy
    }

    pub fn open_at(&self, path: &Path) -> Result<Opened, kms_fs::OpenError> {
        open(&config(path), &self.root, OpenMode::CreateOrOpen)
    }

    /// Opens a damaged store twice. Checks that no acknowledged key is absent or changed.
    pub async fn judge(&self, path: &Path, what: &str) -> Outcome {
        let first = self.judge_once(path, what).await;
        let second = self.judge_once(path, &format!("{what}, opened again")).await;
        assert!(is_no_worse(second, first), "{what}: first {first:?}, then {second:?}");
        first
    }

    pub async fn judge_once(&self, path: &Path, what: &str) -> Outcome {
        let before = content(path);
        let opened = match self.open_at(path) {
            Ok(opened) => opened,
            Err(refused) => {
                let told = refused.to_string();
                assert!(told.contains(&path.display().to_string()), "{what}: {told}");
                assert_no_debug_text(&told, what);
                assert!(content(path) == before, "{what}: refused, but something was written");
                return Outcome::Refused;
            }
        };
        assert!(!opened.is_new, "{what}: a new store was made");
        for warning in &opened.warnings {
            assert_no_debug_text(warning, what);
        }
        let status = opened.store.status().await.unwrap().degraded;
        let read_only = status.as_ref().is_some_and(|why| why.contains("read-only"));
        let unreadable = self.check_keys(&opened.store, read_only, what).await;
        if unreadable > 0 {
            assert!(
                status.is_some(),
                "{what}: {unreadable} keys are unreadable, and the store says that it is well"
            );
            assert!(!opened.warnings.is_empty(), "{what}: and nothing is told of it");
        }
        Outcome::Opened { unreadable, read_only }
    }

    async fn check_keys(&self, store: &FsStore, read_only: bool, what: &str) -> u64 {
        let listed = names(store).await;
        let mut unreadable = 0;
        for n in 0..self.keys {
            let name = entry(n);
            match store.get(&name).await {
                Ok(found) => {
                    // If the line about the delete is lost, nobody knows of it. Nothing may be written then.
                    assert!(!is_deleted(n) || read_only, "{what}: deleted key {name} is back");
                    assert!(found == record(n), "{what}: key {name} is another");
                }
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    assert_no_debug_text(&error.chain().to_string(), what);
                    unreadable += u64::from(!is_deleted(n));
                }
                Err(error) => {
                    assert!(is_deleted(n), "{what}: acknowledged key {name}: {error:?}");
                    assert_eq!(error.kind(), ErrorKind::NotFound, "{what}: deleted key {name}");
                }
            }
            if !is_deleted(n) && n % 50 == 1 {
                let created = store.create(&name, &record(n + 1)).await.err().map(|error| error.kind());
                let right = match created {
                    Some(ErrorKind::AlreadyExists) => true,
                    Some(ErrorKind::ReadOnly) => read_only,
                    _ => false,
                };
                assert!(right, "{what}: a create over key {name}: {created:?}");
            }
            if !is_deleted(n) && !read_only {
                assert!(listed.contains(name.as_str()), "{what}: key {name} is not listed");
            }
        }
        unreadable
    }
}

/// Returns whether a store that was opened again is as well as before.
pub fn is_no_worse(now: Outcome, before: Outcome) -> bool {
    match (now, before) {
        (_, Outcome::Refused) => true,
        (Outcome::Refused, _) => false,
        (Outcome::Opened { unreadable: now, .. }, Outcome::Opened { unreadable: before, .. }) => {
            now <= before
        }
    }
}

pub fn is_deleted(n: u64) -> bool {
    n % 10 == 3
}

pub fn config(path: &Path) -> FsConfig {
    FsConfig { ballast: 64 << 10, ..FsConfig::new(path) }
}

pub fn entry(n: u64) -> EntryName {
    EntryName::from(&KeyName::new(format!("key-{n:04}")).unwrap())
}

pub fn record(n: u64) -> SecretBytes {
    let mut key = [0x6b; 32];
    key[..8].copy_from_slice(&n.to_le_bytes());
    let cipher = Cipher::Aes256;
    let created_by = "a test of damage, whose name is as long as an identity is in real life".into();
    KeyRecord { key: SecretKey::take(&mut key), cipher, hmac_key: None, created_at: None, created_by }
        .encode()
}

pub async fn names(store: &impl KeyStore) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut after: Option<String> = None;
    loop {
        let query = ListQuery { after: after.as_deref(), ..ListQuery::prefix("") };
        let page = store.list(&query).await.unwrap();
        names.extend(page.names.iter().map(ToString::to_string));
        if !page.more {
            return names;
        }
        after = page.names.last().map(ToString::to_string);
    }
}

/// Reads all files of a store except for the lock, which names its last holder.
pub fn content(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = files(path).into_iter().filter(|file| !file.ends_with("lock"));
    files.map(|file| (file.clone(), fs::read(file).unwrap())).collect()
}

pub fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn assert_no_debug_text(text: &str, what: &str) {
    for debug in DEBUG_TEXTS {
        assert!(!text.contains(debug), "{what}: '{debug}' in: {text}");
    }
}
