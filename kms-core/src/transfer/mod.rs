//! Moving keys from one store to another, whole and with a proof.
//!
//! A [`StoredKey`] is a key with all that belongs to it: its versions, and the markers of disabled versions and of a
//! deletion. It is read from one store and written to another one, or into an archive. [`names`] lists what there is to move.
//!
//! ```
//! use kms_core::store::{KeyStore, MemoryStore};
//! use kms_core::transfer::{StoredKey, Written, names};
//! # use kms_core::{CacheConfig, Identity, KeyName, KeyRing};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (from, to) = (std::sync::Arc::new(MemoryStore::new()), MemoryStore::new());
//! # let ring = KeyRing::new(std::sync::Arc::clone(&from), CacheConfig::default());
//! # ring.client(Identity::of_program("docs")).create(&KeyName::new("my-key")?).await?;
//! for name in names(&from).await? {
//!     let key = StoredKey::read(&from, &name).await?;
//!     let probes = key.seal_probes()?;
//!     assert_eq!(key.write(&to).await?, Written::Stored);
//!     StoredKey::read(&to, &name).await?.open_probes(&probes)?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The order of the writes makes each step safe to cut off: markers first, then the versions in their order, and the entry
//! of the key last. So a key that can be used is whole. The same call completes what was cut off.

mod parts;
mod probe;
mod read;
mod replace;
mod write;

pub use self::parts::StoredKey;
pub use self::probe::Probe;
pub use self::replace::{Replaced, former_name};
pub use self::write::Written;

use crate::error::Result;
use crate::listing::ListQuery;
use crate::name::KeyName;
use crate::store::KeyStore;

/// Lists the names of all keys of `store`, in byte order. Deleted keys that can be restored are among them.
///
/// # Errors
///
/// Those of [`KeyStore::list`].
pub async fn names(store: &(impl KeyStore + ?Sized)) -> Result<Vec<KeyName>> {
    let mut names: Vec<KeyName> = Vec::new();
    loop {
        let after = names.last().cloned();
        let query = ListQuery { after: after.as_ref().map(KeyName::as_str), ..ListQuery::prefix("") };
        let page = store.list(&query).await?;
        let is_last = !page.more || page.names.is_empty();
        names.extend(page.names);
        if is_last {
            return Ok(names);
        }
    }
}
