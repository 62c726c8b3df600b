//! Key store in an encrypted local directory: the embedded default of the key server.
//!
//! Records rest in [sled](https://docs.rs/sled/0.34), sealed under a random store key. A root key from outside
//! the directory ([`RootKey`]) wraps the store key. Opening a store unwraps the store key first, so a wrong
//! root key is refused before anything is read. A change of the root key rewraps only 32 bytes.
//!
//! One process at a time may open the directory. Every write is on the disk when it is acknowledged. sled 0.34
//! does not promise that by itself; the modules `database` and `journal` explain how this crate keeps the
//! promise.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use kms_core::KeyRing;
//! use kms_core::store::KeyStore;
//! use kms_fs::{FsConfig, OpenMode, RootKey};
//!
//! let root_key = RootKey::from_file("/etc/kms/root.key".as_ref())?;
//! let opened = kms_fs::open(&FsConfig::new("/var/lib/kms"), &root_key.key, OpenMode::CreateOrOpen)?;
//! println!("{} keys", opened.keys);
//! let kms = KeyRing::new(opened.store, Default::default());
//! # Ok(())
//! # }
//! ```
//!
//! # Modules
//!
//! From the bottom up; a module imports only from those above it in this list:
//!
//! * `config`, `error`, `entries`: settings, errors, and the entries of a store.
//! * `disk`: durable files and directories, the lock, the ballast.
//! * `keys`: root key, store key, header.
//! * `database`: sled. `journal`: the text file beside it.
//! * `recovery`: what a start makes of journal and database.
//! * `writer`: the thread that writes, and the index that readers see.
//! * `store`: the [`KeyStore`](kms_core::store::KeyStore).
//! * `open`: opening a store, making one, changing its root key, and taking the root key out of it.

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
    Found, FsForm, FsStore, InHeader, Opened, OpenedBare, OpenedWithRoots, accept_losses,
    create_with_root_key_file, forget_local_root, look, open, open_bare, open_with_roots, rotate_root_key,
    rotate_root_key_file,
};
pub use store::SledStore;
