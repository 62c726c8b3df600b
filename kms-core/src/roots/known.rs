//! What a running server knows of its store.

use super::id::RootId;
use super::store_key::StoreKey;

/// The store key that a server opened, and the roots that did so at its last look.
#[derive(Clone)]
pub(super) struct Known {
    pub key: StoreKey,
    pub roots: Vec<RootId>,
}
