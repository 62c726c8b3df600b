//! A store with its roots: what every operation on roots works on.

use std::sync::Arc;

use super::form::Form;
use super::root::Root;
use crate::error::{Error, ErrorKind, Result};
use crate::store::KeyStore;

/// A store and its configured roots.
#[derive(Clone)]
pub struct Roots {
    pub(super) store: Arc<dyn KeyStore>,
    pub(super) all: Arc<[Root]>,
    pub(super) form: Arc<dyn Form>,
}

impl Roots {
    /// Creates the roots of `store`, whose records have the forms of `form`.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidInput`]: there is no root, two have one id, or two have one local root key.
    pub fn new(store: Arc<dyn KeyStore>, roots: Vec<Root>, form: Arc<dyn Form>) -> Result<Self> {
        let refused = |why: String| Err(Error::with_source(ErrorKind::InvalidInput, "use the roots", why));
        if roots.is_empty() {
            return refused("there is none".to_owned());
        }
        for (n, root) in roots.iter().enumerate() {
            if roots[..n].iter().any(|before| before.id() == root.id()) {
                return refused(format!(
                    "two have the id '{}': if they are one and the same, take one out, since a root protects nothing twice; if \
                     they are not, give one of them another 'id'",
                    root.id()
                ));
            }
            if let Some(before) = roots[..n].iter().find(|before| before.has_key_of(root)) {
                return refused(format!(
                    "'{}' and '{}' have the same root key, so they are one root, which protects nothing twice: take one out",
                    before.id(),
                    root.id()
                ));
            }
        }
        Ok(Self { store, all: roots.into(), form })
    }

    /// Returns the store underneath, with records as they are stored.
    pub fn store(&self) -> Arc<dyn KeyStore> {
        Arc::clone(&self.store)
    }

    /// Returns the roots.
    pub fn roots(&self) -> &[Root] {
        &self.all
    }
}
