//! The contract suite: the rules for every key store and every [`Kms`](crate::Kms), in executable form.
//!
//! The tests of a backend call [`key_store`] and [`kms`], each with a fresh backend, [`deletions`] with two services that
//! keep deleted keys, [`shared_store`] with two handles on one store, and [`unreadable`] with a [`Spoiler`] that damages entries. A broken rule panics, and the message states the rule. A backend declares in its
//! capabilities what it cannot do, and the suite checks that it then fails with
//! [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).
//!
//! The module needs the feature `contract`. Enable it under `[dev-dependencies]`.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use std::sync::Arc;
//! use kms_core::store::MemoryStore;
//! use kms_core::{KeyRing, contract};
//!
//! contract::key_store(&Arc::new(MemoryStore::new())).await;
//! let shared = Arc::new(MemoryStore::noting());
//! contract::shared_store(&shared, &shared).await;
//! contract::kms(Arc::new(KeyRing::new(MemoryStore::new(), Default::default()))).await;
//! # }
//! ```

mod deletions;
mod fixture;
mod service;
mod shared;
mod store;
mod unreadable;
mod versions;

pub use self::deletions::deletions;
pub use self::service::kms;
pub use self::shared::shared_store;
pub use self::store::key_store;
pub use self::unreadable::{Spoiler, Spoilt, unreadable};
