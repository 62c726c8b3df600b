//! Envelope encryption with master keys that any key store can hold.
//!
//! A program asks for a data encryption key under a named master key. It encrypts an object with the plaintext of the
//! data key, forgets it, and stores the sealed data key with the object. The master key never leaves the library.
//!
//! ```
//! use kms_core::store::MemoryStore;
//! use kms_core::{CacheConfig, Identity, KeyName, KeyRing};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ring = KeyRing::new(MemoryStore::new(), CacheConfig::default());
//! let client = ring.client(Identity::of_program("invoices"));
//! let name = KeyName::new("my-key")?;
//!
//! client.create(&name).await?;
//! let data_key = client.generate(&name, b"bucket/object").await?;
//! let opened = client.decrypt(&name, &data_key.ciphertext, b"bucket/object").await?;
//! assert_eq!(opened.expose(), data_key.plaintext.expose());
//! # Ok(())
//! # }
//! ```
//!
//! # Using keys
//!
//! The items of this page. A [`KeyRing`] is a key management service in this process, with a cache of the keys that it
//! read from its store. A [`Client`] calls it, or any other [`Kms`], for one caller, whose [`Identity`] it holds. All
//! operations return an [`Error`], and its [`ErrorKind`] says what a caller can do about it.
//!
//! A `KeyRing` needs a tokio runtime with a timer.
//!
//! # Storing keys
//!
//! The module [`store`], for authors of a backend. A [`KeyStore`](store::KeyStore) keeps records, and a
//! [`Wrapper`](store::Wrapper) is a root key that another system holds. [`Wrapped`](store::Wrapped) combines any store
//! with any wrapper. The module `contract` (feature `contract`) checks that a backend keeps the rules.
//!
//! # Roots
//!
//! The module [`roots`], for programs whose store has several root keys: each of them opens the one store key, under
//! which the records are sealed.
//!
//! # Building blocks
//!
//! The module [`primitives`]: sealing under one key, secrets that are wiped, and reading files that hold them.
//!
//! [`transfer`] moves whole keys from one store to another.
//!
//! For a [`Kms`] that holds keys itself, [`cache`] and [`single_flight`] have the parts that `KeyRing` is made of.
//!
//! # Features
//!
//! * `contract`: the contract suite, for the tests of a backend.
//! * `model`: builds the unit tests as model checks. The library is the same.

pub mod cache;
mod client;
#[cfg(feature = "contract")]
#[allow(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a broken rule has to panic"
)]
pub mod contract;
mod counters;
mod deletion;
mod error;
mod identity;
mod kms;
mod listing;
mod name;
pub mod primitives;
#[cfg(doctest)]
mod readme;
mod ring;
pub mod roots;
pub mod single_flight;
mod status;
pub mod store;
mod sync;
pub mod transfer;

pub use client::Client;
pub use counters::CacheCounters;
pub use deletion::{DeletedKey, DeletedPage, Deletion, Purge, Purged, Resolution};
pub use error::{Error, ErrorKind, Result};
pub use identity::{Identity, Request, Waiter};
pub use kms::{Capabilities, ImportedKey, KeyInfo, Kms, Rotation, VersionInfo, VersionUse};
pub use listing::{ListQuery, Page};
pub use name::{InvalidName, KeyName};
pub use primitives::seal::DataKey;
pub use ring::{CacheConfig, KeyRing};
pub use status::StoreStatus;
pub use store::entry::MAX_VERSIONS;
