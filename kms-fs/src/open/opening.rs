//! Opening a store, or making one.

use std::path::Path;

use kms_core::Wrapped;

use super::stored::Parts;
use super::unwrap::unwrap_any;
use crate::config::{FsConfig, OpenMode};
use crate::error::OpenError;
use crate::keys::{Header, Root, RootKey, StoreKey};
use crate::store::SledStore;

/// A local store with records sealed under its own root.
pub type FsStore = Wrapped<SledStore, StoreKey>;

/// A store that was opened, and what is worth telling of it.
pub struct Opened {
    /// The store.
    pub store: FsStore,
    /// Whether it was made just now.
    pub is_new: bool,
    /// The number of keys in it.
    pub keys: usize,
    /// What an operator should hear, a sentence each: the root key lies inside the store, an interrupted change of
    /// the root key was completed or waits to be, files were damaged and what became of that.
    pub warnings: Vec<String>,
    /// Names of keys whose records cannot be read. Other than when salvaging, only those that are known to be lost.
    pub illegible: Vec<String>,
}

/// A store whose records come wrapped, and what is worth telling of it.
pub struct OpenedBare {
    /// The store, to be put under a [`Wrapper`](kms_core::Wrapper).
    pub store: SledStore,
    /// Whether it was made just now.
    pub is_new: bool,
    /// The number of keys in it.
    pub keys: usize,
    /// What an operator should hear of damage, a sentence each.
    pub warnings: Vec<String>,
    /// Names of keys whose records are lost.
    pub illegible: Vec<String>,
}

/// Opens a store under its root key, or makes one.
///
/// The wrong root key is refused before any record is read or written. Where a change of the root key was interrupted
/// and the store has the new one already, the change is completed. Damage is mended where nothing is lost by that; where
/// something may be, the store is read-only, and a name that is not found is [`Corrupt`](kms_core::ErrorKind::Corrupt).
pub fn open(config: &FsConfig, root_key: &RootKey, mode: OpenMode) -> Result<Opened, OpenError> {
    let mut warnings = Vec::new();
    let parts = Parts::open(
        config,
        mode,
        root_key.file(),
        || Header::new_local(root_key),
        |headers| unwrap_any(headers, root_key, &config.path, &mut warnings),
    )?;
    warnings.extend(root_key.file().and_then(|file| lies_inside(file, &config.path)));
    let (is_new, store_key) = (parts.is_new, parts.root);
    let (store, mut told) = parts.stored.start(config)?;
    warnings.append(&mut told);
    let (keys, mut illegible) = (store.keys(), store.lost());
    if mode == OpenMode::Salvage {
        illegible = store.illegible(|name, record| store_key.opens(name, record));
        warnings.push(format!(
            "salvage: {} of {keys} entries can be read, and nothing is written",
            keys - illegible.len()
        ));
    }
    Ok(Opened { store: Wrapped::new(store, store_key), is_new, keys, warnings, illegible })
}

/// Opens a store for records that are wrapped by something else, or makes one.
pub fn open_bare(config: &FsConfig, mode: OpenMode) -> Result<OpenedBare, OpenError> {
    let parts = Parts::open(config, mode, None, Header::new_wrapper, |headers| {
        let bare = headers.iter().position(|header| matches!(header.root, Root::Wrapper));
        let has = "a local root key, which has to be given to open it";
        bare.map(|n| (n, ())).ok_or_else(|| OpenError::OtherRoot { path: config.path.clone(), has })
    })?;
    let is_new = parts.is_new;
    let (store, warnings) = parts.stored.start(config)?;
    let (keys, illegible) = (store.keys(), store.lost());
    Ok(OpenedBare { store, is_new, keys, warnings, illegible })
}

fn lies_inside(file: &Path, store: &Path) -> Option<String> {
    let inside = file.canonicalize().ok()?.starts_with(store.canonicalize().ok()?);
    inside.then(|| {
        let (file, store) = (file.display(), store.display());
        format!("root key '{file}' lies inside the store '{store}': whoever copies the store can read it")
    })
}
