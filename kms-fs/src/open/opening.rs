//! Opening a store, or making one.

use std::path::Path;

use kms_core::store::Wrapped;

use super::stored::Parts;
use super::unwrap::unwrap_any;
use crate::config::{FsConfig, OpenMode};
use crate::error::OpenError;
use crate::keys::{Header, Root, RootKey, StoreKey};
use crate::store::SledStore;

/// A local store whose records are sealed under its own root.
pub type FsStore = Wrapped<SledStore, StoreKey>;

/// An open store, and what an operator should know about it.
#[non_exhaustive]
pub struct Opened {
    /// The store.
    pub store: FsStore,
    /// Whether the store was made just now.
    pub is_new: bool,
    /// The number of keys in the store.
    pub keys: usize,
    /// What an operator should know, a sentence each.
    ///
    /// Warnings are about a root key inside the store, about an interrupted change of the root key, and about
    /// damaged files and what became of them.
    pub warnings: Vec<String>,
    /// Names of keys whose records cannot be read.
    ///
    /// Only [`OpenMode::Salvage`] reads every record. Other modes list the records that are known to be lost.
    pub illegible: Vec<String>,
}

/// An open store whose records come wrapped, and what an operator should know about it.
#[non_exhaustive]
pub struct OpenedBare {
    /// The store, to be put under a [`Wrapper`](kms_core::store::Wrapper).
    pub store: SledStore,
    /// Whether the store was made just now.
    pub is_new: bool,
    /// The number of keys in the store.
    pub keys: usize,
    /// What an operator should know of damage, a sentence each.
    pub warnings: Vec<String>,
    /// Names of keys whose records are lost.
    pub illegible: Vec<String>,
}

/// Opens a store under its root key, or makes one.
///
/// A wrong root key is refused before any record is read or written. If a change of the root key was
/// interrupted and the store has the new key already, the change is completed.
///
/// Damage is repaired where nothing is lost by that. Where something may be lost, the store is read-only, and a
/// name that is not found is [`Corrupt`](kms_core::ErrorKind::Corrupt).
///
/// # Errors
///
/// - [`OpenError::NoStore`], [`OpenError::AlreadyExists`]: `mode` does not fit the directory.
/// - [`OpenError::NotAStore`]: the directory holds other files.
/// - [`OpenError::InUse`]: another process uses the store.
/// - [`OpenError::WrongRootKey`]: `root_key` is not the one of the store.
/// - [`OpenError::OtherRoot`]: the records of the store are wrapped by something else than a root key.
/// - [`OpenError::NewerFormat`]: a newer release wrote the store.
/// - [`OpenError::Corrupt`]: the content of the directory cannot be read as a store.
/// - [`OpenError::Io`]: a file cannot be read or written.
/// - [`OpenError::Internal`]: the system's random generator fails.
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

/// Opens a store for records that something else wraps, or makes one.
///
/// # Errors
///
/// - [`OpenError::OtherRoot`]: the store has a local root key.
/// - Every other error of [`open`](crate::open()), except [`OpenError::WrongRootKey`].
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
