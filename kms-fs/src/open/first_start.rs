//! The first start: it makes a root key in a file, and the store that the key opens.
//!
//! The root key is first written as `<file>.new`. Then the store is made with it, and only then the file gets
//! its final name. So a file with the final name says that there was a store: if there is none now, the store
//! is missing and not new. A start that was interrupted anywhere leaves `<file>.new`, and the next one goes on
//! with it.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::opening::{Opened, open};
use crate::config::{FsConfig, OpenMode};
use crate::disk::create_directories;
use crate::error::OpenError;
use crate::keys::{RootKey, RootKeyChange, give_name, parent};
use crate::recovery;

/// What was found in the places of a store and of its root key's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// A store was made in its directory.
    pub store: bool,
    /// Something has the name of the root key's file.
    pub root_key: bool,
    /// A root key waits under `<file>.new`. A first start or a change of the root key was interrupted.
    pub begun: bool,
}

/// Looks for the store in `store` and the root key in `root_key`, without opening either.
///
/// # Errors
///
/// - [`OpenError::Io`]: one of the places cannot be looked at. It is never reported as absent then.
pub fn look(store: &Path, root_key: &Path) -> Result<Found, OpenError> {
    Ok(Found {
        store: recovery::exists(store)?,
        root_key: exists(root_key)?,
        begun: exists(&RootKeyChange::of(root_key).new_file)?,
    })
}

/// Makes a store and the root key in `root_key`, or completes what an earlier call began.
///
/// A root key that waits under `<root_key>.new` is used. Otherwise one is made there. Several processes may
/// call this at once: one of them gets the store, and the others hear that it is in use.
///
/// # Errors
///
/// - [`OpenError::BadRootKey`]: the root key's file cannot be used, or another process put one there meanwhile.
/// - Every error of [`open`](crate::open()).
pub fn create_with_root_key_file(config: &FsConfig, root_key: &Path) -> Result<Opened, OpenError> {
    create_directories(&config.path)?;
    let _turn = Turn::take(&config.path)?;
    if exists(root_key)? {
        return open(config, &RootKey::from_file(root_key)?.key, OpenMode::Existing);
    }
    let waiting = RootKeyChange::of(root_key).new_file;
    let key = match exists(&waiting)?.then(|| RootKey::from_file(&waiting)) {
        Some(Ok(loaded)) => loaded.key,
        // The file was cut short, by a file system that keeps less than it was told. No store can have been
        // made with it.
        Some(Err(OpenError::BadRootKey { .. })) if !recovery::exists(&config.path)? => {
            fs::remove_file(&waiting).map_err(OpenError::io("remove unfinished root key file", &waiting))?;
            make(root_key, &waiting)?
        }
        Some(Err(error)) => return Err(error),
        None => make(root_key, &waiting)?,
    };
    let opened = open(config, &key, OpenMode::CreateOrOpen).inspect_err(|_| {
        // The store was refused before anything was made with the key.
        if recovery::exists(&config.path).is_ok_and(|exists| !exists) {
            let _ = fs::remove_file(&waiting);
        }
    })?;
    give_name(&waiting, root_key)?;
    // Nothing may be acknowledged under a key that is not in its file.
    if RootKey::from_file(root_key)?.key != key {
        return Err(OpenError::BadRootKey {
            origin: format!("file '{}'", root_key.display()),
            why: "another process put it there meanwhile, expected one start at a time".into(),
        });
    }
    Ok(opened)
}

/// Makes a root key under its first name, and reads it back.
fn make(root_key: &Path, waiting: &Path) -> Result<RootKey, OpenError> {
    remove_torn_files(root_key);
    RootKey::random()?.write_new(waiting)?;
    Ok(RootKey::from_file(waiting)?.key)
}

/// Removes the temporary files that killed writers left of `<root_key>.new`. Nothing was made with their keys.
fn remove_torn_files(root_key: &Path) {
    let waiting = RootKeyChange::of(root_key).new_file;
    let Some(name) = waiting.file_name() else { return };
    let begin = format!("{}.", name.to_string_lossy());
    for entry in fs::read_dir(parent(root_key)).into_iter().flatten().flatten() {
        let found = entry.file_name().to_string_lossy().into_owned();
        let is_torn = found.strip_prefix(&begin).is_some_and(|rest| rest.strip_suffix(".tmp").is_some());
        if is_torn {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Returns whether something has this name, even a link without a target.
fn exists(path: &Path) -> Result<bool, OpenError> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(OpenError::io("look at root key file", path)(error)),
    }
}

/// The right of one process to make a store, for which the others wait.
struct Turn {
    _directory: File,
}

impl Turn {
    fn take(store: &Path) -> Result<Self, OpenError> {
        let directory = File::open(store).map_err(OpenError::io("open directory", store))?;
        // Not every file system has locks on directories. The key is compared later in any case.
        let _ = flock(&directory, FlockOperation::LockExclusive);
        Ok(Self { _directory: directory })
    }
}
