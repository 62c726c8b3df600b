//! The keys of a store: the root key, the store key under it, and the header that holds the sealed store key.

mod header;
mod root_key;
mod root_key_change;
mod store_key;

pub use header::{Header, Root};
pub use root_key::{LoadedRootKey, RootKey};
pub use root_key_change::{RootKeyChange, give_name, parent, remove_unfinished};
pub use store_key::{STORE_ID_LEN, StoreId, StoreKey};
