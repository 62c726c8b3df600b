//! Roots: several root keys of one store, each of which opens the one store key.
//!
//! Records are sealed under a random store key. Each [`Root`] wraps that key in an entry `.r/<root id>`, and the
//! [`Anchor`] `.r/store` names the store id and the fingerprint of the store key. A root's entry is written first and the
//! anchor after it. The anchor decides: it is created only if it is absent and never changed. So of several
//! servers that start on one empty store with their roots in another order, all end with the key of one of them.
//!
//! # Rules
//!
//! * A store key is made only when all roots answer and the store is known to be empty, or by [`Roots::init`] or
//!   [`Roots::adopt`]. Where a listing is denied, nobody knows.
//! * Any root opens the store. One that is away is tried again in the background.
//! * A root's entry that holds another key than the anchor names is written anew, but never while that other key opens a
//!   record.
//! * Once the store has a key, only [`Roots::add`] writes an entry for a root that has none. Where the store lost anchor or
//!   entries, a running server writes its own back, and makes no other key.
//! * The last root that opens is never removed, and no root is removed while a record opens with it only.
//! * The anchor is read before each record is created, so that none is made under a key that is not in force.
//! * Whoever deletes an entry of a root has the mark `.r/removing`, which excludes every other one.
//!
//! Records of earlier releases were wrapped by a root one by one. They are read as they are ([`WrappedOneByOne`]), and
//! nothing rewrites them.
//!
//! ```
//! use std::sync::Arc;
//!
//! use kms_core::primitives::{Cipher, SealingKey, SecretKey};
//! use kms_core::roots::{LocalRoot, Making, Root, Roots, WrappedOneByOne};
//! use kms_core::store::MemoryStore;
//! use kms_core::{CacheConfig, KeyRing};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut roots = Vec::new();
//! for _ in 0..2 {
//!     let root = LocalRoot::new(SealingKey::new(SecretKey::random()?, Cipher::Aes256));
//!     roots.push(Root::new(root.id(), Arc::new(root)));
//! }
//! let form = Arc::new(WrappedOneByOne::new(&roots));
//! let opened = Roots::new(Arc::new(MemoryStore::new()), roots, form)?.open(Making::OnEmpty).await?;
//! let ring = KeyRing::new(opened.store, CacheConfig::default());
//! # Ok(())
//! # }
//! ```

mod anchor;
mod attempt;
mod change;
mod establish;
mod form;
mod id;
mod known;
mod look;
mod mark;
mod noticed;
mod opened;
mod others;
mod records;
mod removal;
mod root;
mod rooted;
mod set;
mod status;
mod store_key;
mod written_back;

pub use self::anchor::Anchor;
pub use self::attempt::Making;
pub use self::change::{Added, Established};
pub use self::form::{Form, SealedAlways, WrappedOneByOne};
pub use self::id::{InvalidRootId, RootId};
pub use self::records::RecordCount;
pub use self::removal::Removal;
pub use self::root::{LocalRoot, Root};
pub use self::rooted::{Opened, Rooted};
pub use self::set::Roots;
pub use self::status::{RootState, RootStatus, RootsStatus};
pub use self::store_key::{StoreId, StoreKey};
