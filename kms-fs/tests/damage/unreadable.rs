//! The contract for entries that cannot be used.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kms_core::contract::{Spoiler, Spoilt, unreadable};
use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyStore};
use kms_core::{CacheConfig, KeyName, KeyRing, Kms};
use kms_fs::{FsStore, OpenError, OpenMode, RootKey, open};
use tempfile::TempDir;

use crate::store::config;

/// A store whose entries somebody changes, with the root key or without it.
struct Sled {
    dir: TempDir,
    root: RootKey,
    good: Mutex<Option<SecretBytes>>,
}

impl Sled {
    /// Opens the store. A background task of a dropped key ring may hold it for a moment, so this waits.
    fn store(&self) -> FsStore {
        let began = Instant::now();
        loop {
            match open(&config(self.dir.path()), &self.root, OpenMode::CreateOrOpen) {
                Err(OpenError::InUse { .. }) if began.elapsed() < Duration::from_secs(10) => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                opened => return opened.unwrap().store,
            }
        }
    }
}

#[async_trait]
impl Spoiler for Sled {
    async fn open(&self) -> Arc<dyn Kms> {
        Arc::new(KeyRing::new(self.store(), CacheConfig::default()))
    }

    async fn spoil(&self, name: &KeyName, state: Spoilt) -> bool {
        let (store, entry) = (self.store(), EntryName::from(name));
        let sealed = store.store().get(&entry).await.unwrap();
        let bytes = |text: &str| SecretBytes::from(text.as_bytes());
        match state {
            Spoilt::Unreadable => {
                // A record with a broken seal.
                store.store().delete(&entry).await.unwrap();
                store.store().create(&entry, &bytes("never sealed")).await.unwrap();
            }
            Spoilt::Undecodable | Spoilt::Empty => {
                store.delete(&entry).await.unwrap();
                let content = if state == Spoilt::Empty { "" } else { "no record of a key" };
                store.create(&entry, &bytes(content)).await.unwrap();
            }
            // One process has the files, so nobody could deny or keep one of its entries.
            _ => return false,
        }
        *self.good.lock().unwrap() = Some(sealed);
        true
    }

    async fn mend(&self, name: &KeyName, _: Spoilt) {
        let (store, entry) = (self.store(), EntryName::from(name));
        let good = self.good.lock().unwrap().take().unwrap();
        store.store().delete(&entry).await.unwrap();
        store.store().create(&entry, &good).await.unwrap();
    }

    async fn content(&self, name: &KeyName) -> Vec<u8> {
        self.store().store().get(&EntryName::from(name)).await.unwrap().expose().to_vec()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_not_absent() {
    let sled =
        Sled { dir: tempfile::tempdir().unwrap(), root: RootKey::random().unwrap(), good: Mutex::default() };
    assert_eq!(unreadable(&sled).await, [Spoilt::Unreadable, Spoilt::Undecodable, Spoilt::Empty]);
}
