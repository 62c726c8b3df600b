//! The forms of records: sealed under the store key, and wrapped one by one as earlier releases did.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::root::Root;
use super::store_key::StoreKey;
use crate::error::{Error, ErrorKind, Result};
use crate::primitives::SecretBytes;
use crate::status::StoreStatus;
use crate::store::{EntryName, Wrapper};

/// The forms of the records of one kind of store.
pub trait Form: Send + Sync + 'static {
    /// Returns the wrapper that seals new records under `key`, and opens records of every form of the store.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Internal`]: a defect of the form.
    fn under(&self, key: &StoreKey) -> Result<Arc<dyn Wrapper>>;

    /// Returns the wrapper of records before the store has a store key; `None` if there were no such records.
    fn earlier(&self) -> Option<Arc<dyn Wrapper>>;

    /// Returns `true` if a record is not sealed under a store key, so that no other root protects it.
    fn is_earlier(&self, record: &[u8]) -> bool;
}

/// The forms of a store whose records roots wrapped one by one before it had a store key.
///
/// The first bytes of a record say which form it has. New records of a store without a store key are wrapped by the first
/// root; they are opened with any.
pub struct WrappedOneByOne(Arc<Earlier>);

impl WrappedOneByOne {
    /// Creates the forms of a store under `roots`, of which the first wraps.
    pub fn new(roots: &[Root]) -> Self {
        Self(Arc::new(Earlier(roots.iter().map(|root| Arc::clone(root.wrapper())).collect())))
    }
}

impl Form for WrappedOneByOne {
    fn under(&self, key: &StoreKey) -> Result<Arc<dyn Wrapper>> {
        Ok(Arc::new(Sealed { key: key.clone(), earlier: Arc::clone(&self.0) }))
    }

    fn earlier(&self) -> Option<Arc<dyn Wrapper>> {
        Some(Arc::clone(&self.0) as Arc<dyn Wrapper>)
    }

    fn is_earlier(&self, record: &[u8]) -> bool {
        !StoreKey::sealed_so(record)
    }
}

/// The form of a store that was never without a store key: whatever is not sealed under it is none of its records.
///
/// So a record that a root wrapped for another store does not open here.
#[derive(Debug)]
pub struct SealedAlways;

impl Form for SealedAlways {
    fn under(&self, key: &StoreKey) -> Result<Arc<dyn Wrapper>> {
        Ok(Arc::new(Sealed { key: key.clone(), earlier: Arc::new(Earlier(Vec::new())) }))
    }

    fn earlier(&self) -> Option<Arc<dyn Wrapper>> {
        None
    }

    fn is_earlier(&self, _: &[u8]) -> bool {
        false
    }
}

/// Seals under the store key, and opens both forms.
struct Sealed {
    key: StoreKey,
    earlier: Arc<Earlier>,
}

#[async_trait]
impl Wrapper for Sealed {
    fn binds_name(&self) -> bool {
        true
    }

    fn is_local(&self) -> bool {
        true
    }

    async fn wrap(&self, name: &EntryName, record: &SecretBytes) -> Result<Vec<u8>> {
        self.key.seal(name, record)
    }

    async fn unwrap(&self, name: &EntryName, wrapped: &[u8]) -> Result<SecretBytes> {
        if StoreKey::sealed_so(wrapped) {
            self.key.open(name, wrapped)
        } else {
            self.earlier.unwrap(name, wrapped).await
        }
    }

    async fn status(&self) -> Result<StoreStatus> {
        Ok(StoreStatus::ok(Duration::ZERO))
    }
}

/// Records that were wrapped one by one, each by one of the roots.
struct Earlier(Vec<Arc<dyn Wrapper>>);

#[async_trait]
impl Wrapper for Earlier {
    fn binds_name(&self) -> bool {
        self.0.iter().all(Wrapper::binds_name)
    }

    fn is_local(&self) -> bool {
        self.0.iter().all(Wrapper::is_local)
    }

    async fn wrap(&self, name: &EntryName, record: &SecretBytes) -> Result<Vec<u8>> {
        let none = || Error::with_source(ErrorKind::Internal, format!("wrap entry '{name}'"), "no root");
        self.0.first().ok_or_else(none)?.wrap(name, record).await
    }

    async fn unwrap(&self, name: &EntryName, wrapped: &[u8]) -> Result<SecretBytes> {
        if StoreKey::sealed_so(wrapped) {
            let why = "it is sealed under a store key, which is not open";
            return Err(Error::with_source(ErrorKind::Corrupt, format!("open entry '{name}'"), why));
        }
        let mut refused: Option<Error> = None;
        for wrapper in &self.0 {
            match wrapper.unwrap(name, wrapped).await {
                Ok(record) => return Ok(record),
                // A root that does not answer may be the one.
                Err(error)
                    if refused.as_ref().is_none_or(|before| rank(error.kind()) > rank(before.kind())) =>
                {
                    refused = Some(error);
                }
                Err(_) => {}
            }
        }
        let none = || Error::with_source(ErrorKind::Internal, format!("open entry '{name}'"), "no root");
        Err(refused.unwrap_or_else(none))
    }

    async fn status(&self) -> Result<StoreStatus> {
        let none = || Error::with_source(ErrorKind::Internal, "ask the roots how they are", "no root");
        self.0.first().ok_or_else(none)?.status().await
    }
}

/// Returns how much the error of one root says of a record that several may have wrapped.
fn rank(kind: ErrorKind) -> u8 {
    match kind {
        // It is another root's.
        ErrorKind::Corrupt | ErrorKind::NotAuthentic => 0,
        kind if kind.is_outage() => 2,
        _ => 1,
    }
}
