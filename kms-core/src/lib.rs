//! Envelope encryption with master keys that rest in any key store.
//!
//! The three traits are orthogonal: a [`KeyStore`] is where records rest, a [`Wrapper`] is a root key that
//! lives elsewhere, and a [`Kms`] is what clients ask for. [`KeyRing`] makes a `Kms` of any `KeyStore`, with
//! the master keys cached in this process.
//!
//! ```
//! use std::time::Duration;
//! use kms_core::{Identity, KeyName, KeyRing, Kms, MemoryStore, Request};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let kms = KeyRing::new(MemoryStore::new(), Default::default());
//! let me = Identity::of_public_key(b"whoever asks");
//! let name = KeyName::new("my-key")?;
//!
//! kms.create(&Request::new(me, Duration::from_secs(5)), &name).await?;
//! let dek = kms.generate(&Request::new(me, Duration::from_secs(5)), &name, b"bucket/object").await?;
//! let same = kms.decrypt(&Request::new(me, Duration::from_secs(5)), &name, &dek.ciphertext, b"bucket/object").await?;
//! assert_eq!(dek.plaintext.expose(), same.expose());
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "contract")]
#[allow(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a broken rule has to panic"
)]
pub mod contract;
mod error;
mod file;
mod finding;
mod identity;
mod kms;
mod legacy;
mod lock;
mod memory;
pub mod name;
mod record;
mod ring;
mod seal;
mod secret;
mod setting;
pub mod single_flight;
mod store;
mod survey;
mod sync;
mod wrap;

pub use error::{Error, ErrorKind, Result};
#[cfg(unix)]
#[doc(hidden)]
pub use file::rename_new;
pub use file::{open_file, read_secret_file};
pub use finding::{Finding, Findings, Level};
pub use identity::{Identity, Request, Waiter};
pub use kms::{Capabilities, DataKey, ImportedKey, KeyInfo, Kms};
pub use lock::lock_keys_in_memory;
pub use memory::MemoryStore;
pub use name::{EntryName, InvalidName, KeyName};
pub use record::{HmacKey, KeyRecord};
pub use ring::{
    Away, CacheConfig, CacheCounters, Counter, Counters, Gate, KeyRing, Outage, Pass, Unreadable,
    policy as cache_policy,
};
pub use seal::{Cipher, Fingerprint, SealingKey};
pub use secret::{SecretBytes, SecretKey, fill_random};
pub use setting::InvalidSetting;
pub use store::{KeyStore, ListQuery, Page, StoreCapabilities, StoreStatus};
pub use survey::{Survey, survey, survey_kms};
pub use wrap::{Wrapped, Wrapper};
