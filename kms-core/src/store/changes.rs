//! Changes of a shared store, as others make them.

use std::pin::Pin;

use futures_core::Stream;

use crate::name::KeyName;

/// A change of a shared store that another process made, or may have made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The key of this name may have changed, and is to be read again. It never means that the key is deleted.
    Key(KeyName),
    /// Changes may have been missed, so every key is to be read again.
    Missed,
}

/// The changes of a store, as [`KeyStore::changes`](super::KeyStore::changes) returns them.
pub type Changes = Pin<Box<dyn Stream<Item = Change> + Send>>;
