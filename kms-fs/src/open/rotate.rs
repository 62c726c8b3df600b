//! Changing the root key of a store that is not in use.

use std::path::{Path, PathBuf};

use super::stored::{Access, Parts, Stored};
use super::unwrap::unwrap_with;
use crate::config::{FsConfig, OpenMode};
use crate::error::OpenError;
use crate::journal::{Head, Journal};
use crate::keys::{Header, RootKey, RootKeyChange, remove_unfinished};

/// Wraps the store key under another root key, durably and in one step. The store must not be in use.
///
/// # Errors
///
/// - [`OpenError::WrongRootKey`]: `old` is not the root key of the store.
/// - [`OpenError::ReadOnly`]: the store takes no writes.
/// - The errors of [`open`](crate::open()) for an existing store.
pub fn rotate_root_key(config: &FsConfig, old: &RootKey, new: &RootKey) -> Result<(), OpenError> {
    let parts = Parts::open(config, OpenMode::Existing, None, Header::new_wrapper, |headers| {
        unwrap_with(headers, old, &config.path)
    })?;
    let Stored { lock: _lock, header, head, entries, access, .. } = parts.stored;
    let (engine, journal) = match access {
        Access::ReadWrite(engine, journal) => (engine, journal),
        Access::Full(why) | Access::ReadOnly(why) => {
            return Err(OpenError::ReadOnly { path: config.path.clone(), why });
        }
    };
    let rewrapped = header.rewrap(old, new, &config.path)?.encode();
    // The database comes first. Where both headers open and differ, the next start writes the journal's anew.
    engine.set_header(&rewrapped)?;
    let head = Head { header: rewrapped, ..head };
    let written = Journal::write(&config.path, &head, journal.batch(), &entries);
    written.map_err(OpenError::io("write", Journal::path_in(&config.path)))?;
    engine.close();
    Ok(())
}

/// Replaces the root key in `file`, and returns the path of the kept old key. The store must not be in use.
///
/// The new key is written to `<file>.new` first. Then the store changes, and then the files: `<file>` is kept
/// as `<file>.old`, and `<file>.new` takes its place. After an interruption, another call completes the change.
/// If the store has changed already, opening it completes the change too. Backups of the store that were made
/// before need the old key.
///
/// # Errors
///
/// - [`OpenError::BadRootKey`]: a file of a root key cannot be used, or an earlier `<file>.old` is in the way.
/// - Every error of [`rotate_root_key`].
pub fn rotate_root_key_file(config: &FsConfig, file: &Path) -> Result<PathBuf, OpenError> {
    let old = RootKey::from_file(file)?.key;
    let change = RootKeyChange::of(file);
    // Nothing is left behind where the store is in use or has another root key.
    if !change.new_file.exists() {
        Parts::open(config, OpenMode::Existing, None, Header::new_wrapper, |headers| {
            unwrap_with(headers, &old, &config.path)
        })?;
    }
    let new = change.prepare()?;
    match rotate_root_key(config, &old, &new) {
        // The store may have changed already.
        Err(OpenError::WrongRootKey { .. }) => rotate_root_key(config, &new, &new)?,
        outcome => outcome?,
    }
    change.finish()?;
    remove_unfinished(file, |key| *key == new);
    Ok(change.old_file)
}
