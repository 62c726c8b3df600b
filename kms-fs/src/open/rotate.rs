//! The root key of a store that is not in use is changed.

use std::path::{Path, PathBuf};

use super::stored::{Access, Parts, Stored};
use super::unwrap::unwrap_with;
use crate::config::{FsConfig, OpenMode};
use crate::error::OpenError;
use crate::journal::{Head, Journal};
use crate::keys::{Header, RootKey, RootKeyChange, remove_unfinished};

/// Wraps the store key of a store that is not in use under another root key, durably and at one stroke.
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
    // The database first: where both open, and differ, the next start writes the journal's anew.
    engine.set_header(&rewrapped)?;
    let head = Head { header: rewrapped, ..head };
    let written = Journal::write(&config.path, &head, journal.batch(), &entries);
    written.map_err(OpenError::io("write", Journal::path_in(&config.path)))?;
    engine.close();
    Ok(())
}

/// Gives a store that is not in use a new root key, which replaces the one in `file`; returns where the old one is kept.
///
/// The new key is written to `<file>.new` first, then the store changes, then the files: `<file>` is kept as `<file>.old`
/// too and `<file>.new` takes its place. Interrupted anywhere, it is completed by calling it again, or by
/// opening the store if that has changed. Backups of the store made before need the old key.
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
