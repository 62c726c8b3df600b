//! Key store in an encrypted local directory: the embedded default of the key server.
//!
//! Records rest in [sled](https://docs.rs/sled/0.34), sealed under a random store key that is itself wrapped by a
//! root key from outside the directory ([`RootKey`]). Opening unwraps the store key, so a wrong root key is
//! refused before anything is read, and changing the root key rewraps 32 bytes.
//!
//! One process at a time has the directory. Every write is on the disk when it is acknowledged; see the module
//! `writer` for the discipline that makes this true of sled 0.34.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use kms_core::{KeyRing, KeyStore};
//! use kms_fs::{FsConfig, OpenMode, RootKey};
//!
//! let root_key = RootKey::from_file("/etc/kms/root.key".as_ref())?;
//! let opened = kms_fs::open(&FsConfig::new("/var/lib/kms"), &root_key.key, OpenMode::CreateOrOpen)?;
//! println!("{} keys", opened.keys);
//! let kms = KeyRing::new(opened.store, Default::default());
//! # Ok(())
//! # }
//! ```

mod config;
mod database;
mod disk;
mod entries;
mod error;
mod journal;
mod keys;
mod open;
mod recovery;
mod store;
mod writer;

pub use config::{FsConfig, OpenMode};
pub use error::OpenError;
pub use keys::{LoadedRootKey, RootKey, StoreKey};
pub use open::{
    Found, FsStore, Opened, OpenedBare, accept_losses, create_with_root_key_file, look, open, open_bare,
    rotate_root_key, rotate_root_key_file,
};
pub use store::SledStore;
