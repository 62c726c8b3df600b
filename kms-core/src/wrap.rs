//! A root key that lives elsewhere: records are wrapped with it before they are stored.

use async_trait::async_trait;

use crate::{EntryName, KeyStore, ListQuery, Page, Result, SecretBytes, StoreCapabilities, StoreStatus};

/// Something that encrypts records under a root key.
///
/// Both methods may fail with the kinds of an outage, with `Denied`, `LoginRefused`, `Internal`, and with `Disabled`
/// when the root key cannot be used.
#[async_trait]
pub trait Wrapper: Send + Sync + 'static {
    /// Tells whether a wrapped record opens only under the name it was wrapped for.
    fn binds_name(&self) -> bool;

    /// Encrypts `record` for the entry `name`.
    async fn wrap(&self, name: &EntryName, record: &SecretBytes) -> Result<Vec<u8>>;

    /// Decrypts what [`wrap`](Wrapper::wrap) made for the entry `name`.
    ///
    /// Fails with `Corrupt` when the bytes were not wrapped by this root key, for this name if it
    /// [`binds_name`](Wrapper::binds_name).
    async fn unwrap(&self, name: &EntryName, wrapped: &[u8]) -> Result<SecretBytes>;

    /// Asks the holder of the root key whether it can serve.
    async fn status(&self) -> Result<StoreStatus>;
}

#[async_trait]
impl<W: Wrapper + ?Sized> Wrapper for std::sync::Arc<W> {
    fn binds_name(&self) -> bool {
        (**self).binds_name()
    }

    async fn wrap(&self, name: &EntryName, record: &SecretBytes) -> Result<Vec<u8>> {
        (**self).wrap(name, record).await
    }

    async fn unwrap(&self, name: &EntryName, wrapped: &[u8]) -> Result<SecretBytes> {
        (**self).unwrap(name, wrapped).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        (**self).status().await
    }
}

/// A store whose records are wrapped by `W` before they reach `S`: any store under any root.
pub struct Wrapped<S, W> {
    store: S,
    wrapper: W,
}

impl<S: KeyStore, W: Wrapper> Wrapped<S, W> {
    /// Puts `wrapper` in front of `store`.
    pub fn new(store: S, wrapper: W) -> Self {
        Self { store, wrapper }
    }

    /// Lends the store underneath.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Lends the wrapper.
    pub fn wrapper(&self) -> &W {
        &self.wrapper
    }
}

#[async_trait]
impl<S: KeyStore, W: Wrapper> KeyStore for Wrapped<S, W> {
    fn capabilities(&self) -> StoreCapabilities {
        self.store.capabilities()
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        let wrapped = SecretBytes::new(self.wrapper.wrap(name, record).await?);
        self.store.create(name, &wrapped).await
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        let wrapped = self.store.get(name).await?;
        self.wrapper.unwrap(name, wrapped.expose()).await
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.store.delete(name).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.store.list(query).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        let store = self.store.status().await?;
        let wrapper = self.wrapper.status().await?;
        Ok(StoreStatus {
            latency: store.latency + wrapper.latency,
            reachable: store.reachable && wrapper.reachable,
            degraded: store.degraded.or(wrapper.degraded),
        })
    }
}
