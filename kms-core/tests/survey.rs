//! A survey of all keys: it finds the unusable ones and reads a bounded number at once.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kms_core::primitives::{Cipher, SecretBytes, SecretKey};
use kms_core::store::{
    EntryName, KeyRecord, KeyStore, MemoryStore, StoreCapabilities, Survey, survey, survey_kms,
};
use kms_core::{CacheConfig, ErrorKind, KeyName, KeyRing, ListQuery, Page, Result, StoreStatus};

/// The number of keys that a survey reads at once.
const AT_ONCE: usize = 16;

/// A mock whose reads are slow and counted, and that lists a name without an entry.
#[derive(Default)]
struct Slow {
    inner: MemoryStore,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    listings: AtomicUsize,
    /// Whether only the first listing shows the name without an entry, as if its key were deleted meanwhile.
    goes: bool,
}

const GHOST: &str = "key-0-ghost";

#[async_trait]
impl KeyStore for Slow {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::shared("slow")
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        self.inner.create(name, record).await
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        let at_once = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.at_once.fetch_sub(1, Ordering::Relaxed);
        self.inner.get(name).await
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.inner.delete(name).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        let mut page = self.inner.list(query).await?;
        if query.after.is_none() && (self.listings.fetch_add(1, Ordering::Relaxed) == 0 || !self.goes) {
            page.names.push(KeyName::new(GHOST).unwrap());
            page.names.sort_unstable();
        }
        Ok(page)
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.inner.status().await
    }
}

async fn filled(goes: bool) -> Slow {
    let store = Slow { goes, ..Slow::default() };
    for n in 0..ListQuery::MAX_LIMIT + 100 {
        let name = EntryName::from(&KeyName::new(format!("key-{n}")).unwrap());
        let record = match n {
            7 => SecretBytes::from(b"".as_slice()),
            1100 => SecretBytes::from(b"no record".as_slice()),
            _ => KeyRecord::new(SecretKey::random().unwrap(), Cipher::Aes256, "").unwrap().encode(),
        };
        store.create(&name, &record).await.unwrap();
    }
    store
}

fn names(survey: &Survey) -> Vec<(&str, ErrorKind)> {
    survey.unusable.iter().map(|(name, error)| (name.as_str(), error.kind())).collect()
}

#[tokio::test]
async fn every_key_is_read_and_those_that_cannot_be_used_are_named() {
    let store = filled(false).await;
    let found = survey(&store).await.unwrap();
    assert_eq!(found.good, ListQuery::MAX_LIMIT + 98);
    let bad = [(GHOST, ErrorKind::NotFound), ("key-1100", ErrorKind::Corrupt), ("key-7", ErrorKind::Corrupt)];
    assert_eq!(names(&found), bad);
    assert_eq!(store.most_at_once.load(Ordering::Relaxed), AT_ONCE);
    let why = found.unusable[2].1.chain().to_string();
    assert_eq!(why, "decode entry 'key-7' in slow: stored data is corrupt: it is empty");
}

#[tokio::test]
async fn a_key_that_goes_meanwhile_is_none() {
    let store = filled(true).await;
    let found = survey(&store).await.unwrap();
    assert_eq!(names(&found), [("key-1100", ErrorKind::Corrupt), ("key-7", ErrorKind::Corrupt)]);
}

#[tokio::test]
async fn a_service_is_asked_to_use_every_key() {
    let kms = KeyRing::new(filled(true).await, CacheConfig::default());
    let found = survey_kms(&kms, Duration::from_secs(10)).await.unwrap();
    assert_eq!(found.good, ListQuery::MAX_LIMIT + 98);
    assert_eq!(names(&found), [("key-1100", ErrorKind::Corrupt), ("key-7", ErrorKind::Corrupt)]);
}

#[tokio::test]
async fn a_version_that_is_damaged_or_missing_is_found() {
    let store = std::sync::Arc::new(MemoryStore::new());
    let ring = KeyRing::new(std::sync::Arc::clone(&store), CacheConfig::default());
    let client = ring.client(kms_core::Identity::of_program("the test"));
    let names = ["whole", "damaged", "gap"].map(|name| KeyName::new(name).unwrap());
    for name in &names {
        client.create(name).await.unwrap();
        for _ in 0..3 {
            client.rotate(name).await.unwrap();
        }
    }
    assert_eq!(survey(&store).await.unwrap().good, 3);
    for (name, number, content) in [(&names[1], 3, Some(b"damaged".as_slice())), (&names[2], 3, None)] {
        let first = client.describe(name).await.unwrap().fingerprint.unwrap();
        let entry = EntryName::version(name, &first, number);
        store.delete(&entry).await.unwrap();
        if let Some(content) = content {
            store.create(&entry, &SecretBytes::from(content)).await.unwrap();
        }
    }
    let found = survey(&store).await.unwrap();
    let unusable: Vec<_> = found.unusable.iter().map(|(name, error)| (name.as_str(), error.kind())).collect();
    assert_eq!(unusable, [("damaged", ErrorKind::Corrupt), ("gap", ErrorKind::Corrupt)]);
    for (_, error) in &found.unusable {
        assert!(error.chain().to_string().contains("/3"), "it names the entry: {}", error.chain());
    }
}
