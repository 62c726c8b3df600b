//! Stores that answer from memory are read where the request runs.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use async_trait::async_trait;
use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyStore, MemoryStore, StoreCapabilities};
use kms_core::{CacheConfig, ErrorKind, Identity, KeyName, KeyRing, ListQuery, Page, Result, StoreStatus};

/// A store that says it answers at once, and waits all the same.
struct Late(Arc<MemoryStore>);

#[async_trait]
impl KeyStore for Late {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::exclusive("late").reading_at_once()
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        self.0.create(name, record).await
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        self.0.get(name).await
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.0.delete(name).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.0.list(query).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.0.status().await
    }
}

#[tokio::test]
async fn a_read_from_memory_waits_for_no_other_task_and_one_that_waits_goes_on_in_one() {
    let (store, name) = (Arc::new(MemoryStore::new()), KeyName::new("my-key").unwrap());
    let who = Identity::of_program("test");
    KeyRing::new(Arc::clone(&store), CacheConfig::default()).client(who).create(&name).await.unwrap();

    let ring = KeyRing::new(Arc::clone(&store), CacheConfig::default()).client(who);
    let mut generate = pin!(ring.generate(&name, b""));
    assert!(generate.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    let absent = ring.generate(&KeyName::new("absent").unwrap(), b"").await.err();
    assert_eq!(absent.map(|error| error.kind()), Some(ErrorKind::NotFound));

    let ring = KeyRing::new(Late(store), CacheConfig::default()).client(who);
    let mut left = Box::pin(ring.generate(&name, b""));
    assert!(left.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    // Whoever asked first leaves; the read goes on for the others.
    drop(left);
    ring.generate(&name, b"").await.unwrap();
}
