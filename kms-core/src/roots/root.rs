//! A root of a store.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::id::RootId;
use super::store_key::StoreKey;
use crate::error::{Error, ErrorKind, Result};
use crate::primitives::{Fingerprint, SealingKey, SecretBytes};
use crate::status::StoreStatus;
use crate::store::{EntryName, Wrapper};

/// A root of a store: it wraps the store key.
#[derive(Clone)]
pub struct Root {
    id: RootId,
    wrapper: Arc<dyn Wrapper>,
    held: Option<StoreKey>,
    later: Option<Arc<Load>>,
}

/// Reads a root that could not be read before.
type Load = dyn Fn() -> Result<Root> + Send + Sync;

impl Root {
    /// Creates a root whose wrapped store key is in the entry [`RootId::entry`].
    pub fn new(id: RootId, wrapper: Arc<dyn Wrapper>) -> Self {
        Self { id, wrapper, held: None, later: None }
    }

    /// Creates a root that keeps the wrapped store key elsewhere than in an entry, and that opened it already.
    ///
    /// The header of a local store is such a place.
    #[must_use]
    pub fn holding(mut self, key: StoreKey) -> Self {
        self.held = Some(key);
        self
    }

    /// Creates a root that cannot be read now, such as one whose file is on a volume that is not mounted.
    ///
    /// `load` reads it at each use, and answers with an outage until that works. Then it opens the entry of the id that it
    /// has by then; `id` only names it until the next start. Nothing is written for such a root.
    pub fn later(id: RootId, load: impl Fn() -> Result<Self> + Send + Sync + 'static) -> Self {
        let load: Arc<Load> = Arc::new(load);
        Self { id, wrapper: Arc::new(Later(Arc::clone(&load))), held: None, later: Some(load) }
    }

    /// Returns the id.
    pub fn id(&self) -> &RootId {
        &self.id
    }

    /// Returns the wrapper.
    pub fn wrapper(&self) -> &Arc<dyn Wrapper> {
        &self.wrapper
    }

    pub(super) fn held(&self) -> Option<&StoreKey> {
        self.held.as_ref()
    }

    /// Returns `true` if both have one local root key, as far as it can be read now: then they are one root.
    pub fn has_key_of(&self, other: &Self) -> bool {
        let key = self.wrapper.root_key();
        key.is_some() && key == other.wrapper.root_key()
    }

    /// Returns `true` if nobody knows the entry of this root.
    pub(super) fn is_later(&self) -> bool {
        self.later.is_some()
    }

    /// Returns the root as it can be read now.
    pub(super) fn loaded(&self) -> Result<Self> {
        self.later.as_ref().map_or_else(|| Ok(self.clone()), |load| load())
    }
}

/// A root that is read at each use.
struct Later(Arc<Load>);

#[async_trait]
impl Wrapper for Later {
    fn binds_name(&self) -> bool {
        true
    }

    fn root_key(&self) -> Option<Fingerprint> {
        (self.0)().ok()?.wrapper().root_key()
    }

    async fn wrap(&self, name: &EntryName, record: &SecretBytes) -> Result<Vec<u8>> {
        (self.0)()?.wrapper().wrap(name, record).await
    }

    async fn unwrap(&self, name: &EntryName, wrapped: &[u8]) -> Result<SecretBytes> {
        (self.0)()?.wrapper().unwrap(name, wrapped).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        (self.0)()?.wrapper().status().await
    }
}

/// The first bytes of what a local root key wrapped. The rest is base64, since K/V engines keep text.
const WRAPPED: &str = "kms:local:v1:";

/// A root key in this process as a [`Wrapper`].
pub struct LocalRoot(SealingKey);

impl LocalRoot {
    /// Creates the wrapper of a root key.
    pub fn new(key: SealingKey) -> Self {
        Self(key)
    }

    /// Returns the id of the root: `local-<fingerprint>`.
    pub fn id(&self) -> RootId {
        RootId::of_local(&self.0.fingerprint())
    }

    fn context(name: &EntryName) -> Vec<u8> {
        [b"kms local root v1\0".as_slice(), name.as_str().as_bytes()].concat()
    }
}

#[async_trait]
impl Wrapper for LocalRoot {
    fn binds_name(&self) -> bool {
        true
    }

    fn is_local(&self) -> bool {
        true
    }

    fn root_key(&self) -> Option<Fingerprint> {
        Some(self.0.fingerprint())
    }

    async fn wrap(&self, name: &EntryName, record: &SecretBytes) -> Result<Vec<u8>> {
        let sealed = self.0.seal(record.expose(), &Self::context(name))?;
        let mut text = WRAPPED.to_owned();
        STANDARD.encode_string(sealed, &mut text);
        Ok(text.into_bytes())
    }

    async fn unwrap(&self, name: &EntryName, wrapped: &[u8]) -> Result<SecretBytes> {
        let sealed = wrapped.strip_prefix(WRAPPED.as_bytes()).and_then(|text| STANDARD.decode(text).ok());
        let opened = sealed.and_then(|sealed| self.0.open(&sealed, &Self::context(name)).ok());
        opened.ok_or_else(|| {
            let why = "it was not wrapped by this root key for this entry, or was changed";
            Error::with_source(ErrorKind::Corrupt, format!("open '{name}' with a local root key"), why)
        })
    }

    async fn status(&self) -> Result<StoreStatus> {
        Ok(StoreStatus::ok(Duration::ZERO))
    }
}
