//! The client handle: it calls the service with its own identity and timeout.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kms_core::primitives::{Cipher, SecretBytes, SecretKey};
use kms_core::store::{EntryName, KeyStore, MemoryStore, StoreCapabilities};
use kms_core::{
    CacheConfig, Client, ErrorKind, Identity, ImportedKey, KeyName, KeyRing, ListQuery, Page, Result,
    StoreStatus,
};

#[tokio::test]
async fn every_operation_reaches_the_service() {
    let me = Identity::of_program("the test");
    let client = KeyRing::new(MemoryStore::new(), CacheConfig::default()).client(me);
    let (made, imported) = (KeyName::new("made").unwrap(), KeyName::new("imported").unwrap());

    client.create(&made).await.unwrap();
    client.import(&imported, ImportedKey::new(SecretKey::random().unwrap(), Cipher::Aes256)).await.unwrap();
    assert_eq!(client.describe(&made).await.unwrap().created_by, me.to_string());
    assert_eq!(client.list(&ListQuery::prefix("")).await.unwrap().names, [imported.clone(), made.clone()]);

    let data_key = client.generate(&made, b"context").await.unwrap();
    let opened = client.decrypt(&made, &data_key.ciphertext, b"context").await.unwrap();
    assert!(opened.expose() == data_key.plaintext.expose());
    let sealed = client.encrypt(&made, b"text", b"").await.unwrap();
    assert!(client.decrypt(&made, &sealed, b"").await.unwrap().expose() == b"text");
    let mac = client.hmac(&made, b"message").await.unwrap();
    assert_eq!(mac, client.hmac(&made, b"message").await.unwrap());

    assert_eq!(client.rotate(&made).await.unwrap().version, Some(2));
    assert_eq!(client.versions(&made).await.unwrap().len(), 2);
    let rewrapped = client.rewrap(&made, &sealed, b"").await.unwrap();
    assert!(client.decrypt(&made, &rewrapped, b"").await.unwrap().expose() == b"text");

    client.delete(&imported).await.unwrap();
    let absent = client.describe(&imported).await.unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    assert!(client.status().await.unwrap().reachable);
    assert_eq!(client.capabilities().backend, "memory");
    assert!(client.counters().unwrap().hits > 0);
}

#[tokio::test]
async fn clones_of_a_ring_share_one_cache() {
    let ring = KeyRing::new(MemoryStore::new(), CacheConfig::default());
    let (one, other) = (Identity::of_program("one"), Identity::of_program("other"));
    let name = KeyName::new("key").unwrap();
    ring.client(one).create(&name).await.unwrap();
    ring.clone().client(other).generate(&name, b"").await.unwrap();
    let counters = ring.counters();
    assert_eq!(
        (counters.hits, counters.misses),
        (1, 0),
        "the key that one made is in the cache of the other"
    );
}

#[tokio::test]
async fn a_call_ends_at_the_timeout_of_its_client() {
    let ring = KeyRing::new(Hanging, CacheConfig::default());
    let client = Client::new(Arc::new(ring), Identity::of_program("the test"));
    assert_eq!(client.timeout(), Client::DEFAULT_TIMEOUT);
    let client = client.with_timeout(Duration::from_millis(50));
    let began = Instant::now();
    let outcome = client.generate(&KeyName::new("key").unwrap(), b"").await;
    assert_eq!(outcome.err().map(|error| error.kind()), Some(ErrorKind::Timeout));
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn no_timeout_is_too_long() {
    let ring = KeyRing::new(MemoryStore::new(), CacheConfig::default());
    let client = ring.client(Identity::of_program("the test")).with_timeout(Duration::MAX);
    client.create(&KeyName::new("key").unwrap()).await.unwrap();
}

#[test]
fn a_program_is_known_by_its_name() {
    let identity = Identity::of_program("invoices");
    // The identity is stored with each key that the program creates, so it must never change.
    assert_eq!(identity.to_string(), "4e2546146ad578fc0e05628cb1194cd6c8ea37b9175b554b462d972a5695520f");
    assert_ne!(identity, Identity::of_program("invoice"));
    assert_ne!(identity, Identity::of_public_key(b"invoices"));
}

/// A mock of a store that never answers a read.
struct Hanging;

#[async_trait]
impl KeyStore for Hanging {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::shared("hanging")
    }

    async fn create(&self, _: &EntryName, _: &SecretBytes) -> Result<()> {
        std::future::pending().await
    }

    async fn get(&self, _: &EntryName) -> Result<SecretBytes> {
        std::future::pending().await
    }

    async fn delete(&self, _: &EntryName) -> Result<()> {
        std::future::pending().await
    }

    async fn list(&self, _: &ListQuery<'_>) -> Result<Page> {
        std::future::pending().await
    }

    async fn status(&self) -> Result<StoreStatus> {
        std::future::pending().await
    }
}
