//! Storing keys: for authors of a backend.
//!
//! A [`KeyStore`] keeps records: implement its five operations, and a [`KeyRing`](crate::KeyRing) makes a key management
//! service of it. Three things help an author:
//!
//! * The contract suite (`kms_core::contract`, feature `contract`) checks in a backend's tests that it keeps every rule.
//! * [`MemoryStore`] is a complete store in a hundred lines.
//! * [`Wrapped`] adds a root key to any store. A [`Wrapper`] is such a root key, in a system of its own.
//!
//! ```
//! use kms_core::KeyName;
//! use kms_core::store::{EntryName, KeyStore, MemoryStore};
//! use kms_core::primitives::SecretBytes;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = MemoryStore::new();
//! let name = EntryName::from(&KeyName::new("my-key")?);
//! store.create(&name, &SecretBytes::from(b"record".as_slice())).await?;
//! assert_eq!(store.get(&name).await?.expose(), b"record");
//! # Ok(())
//! # }
//! ```
//!
//! The other items read what a store holds: [`KeyRecord`] decodes a record, and [`survey`] finds the unusable ones.

pub(crate) mod belonging;
mod changes;
pub(crate) mod entry;
mod finding;
pub(crate) mod gone;
mod key_store;
mod memory;
mod record;
mod setting;
pub(crate) mod survey;
mod wrapped;

pub use self::changes::{Change, Changes};
pub use self::entry::{EntryName, next_segments};
pub use self::finding::{At, FailedStep, Finding, Findings, Level, StepError};
pub use self::gone::Notes;
pub use self::key_store::{KeyStore, StoreCapabilities};
pub use self::memory::MemoryStore;
pub use self::record::{HmacKey, KeyRecord};
pub use self::setting::InvalidSetting;
pub use self::survey::{Survey, cut_off_replacements, survey, survey_kms};
pub use self::wrapped::{Wrapped, Wrapper};
