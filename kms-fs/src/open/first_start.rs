//! The first start: a root key in a file, and the store that it opens.
//!
//! The root key is written as `<file>.new`, the store is made with it, and only then the file gets its name. So a file of that
//! name says that there was a store: where there is none now, it is away and not new. A start that was cut off anywhere
//! leaves `<file>.new`, and the next one goes on with it.

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

/// What lies where a store and the file of its root key are expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// A store was made in its directory.
    pub store: bool,
    /// Something has the name of the root key's file.
    pub root_key: bool,
    /// A root key waits under `<file>.new`: of a first start or a change of the root key that was cut off.
    pub begun: bool,
}

/// Looks for the store in `store` and the root key in `root_key`, without opening either.
///
/// What cannot be looked at is an error, and never absent.
pub fn look(store: &Path, root_key: &Path) -> Result<Found, OpenError> {
    Ok(Found {
        store: recovery::exists(store)?,
        root_key: exists(root_key)?,
        begun: exists(&RootKeyChange::of(root_key).new_file)?,
    })
}

/// Makes a store and the root key in `root_key`, or completes what an earlier call of it began.
///
/// A root key that waits under `<root_key>.new` is used, else one is made there. Several processes may call it at once: one
/// of them gets the store, and the others hear that it is in use.
pub fn create_with_root_key_file(config: &FsConfig, root_key: &Path) -> Result<Opened, OpenError> {
    create_directories(&config.path)?;
    let _turn = Turn::take(&config.path)?;
    if exists(root_key)? {
        return open(config, &RootKey::from_file(root_key)?.key, OpenMode::Existing);
    }
    let waiting = RootKeyChange::of(root_key).new_file;
    let key = match exists(&waiting)?.then(|| RootKey::from_file(&waiting)) {
        Some(Ok(loaded)) => loaded.key,
        // Cut short by a file system that keeps less than it was told to; no store can have been made with it.
        Some(Err(OpenError::BadRootKey { .. })) if !recovery::exists(&config.path)? => {
            fs::remove_file(&waiting).map_err(OpenError::io("remove unfinished root key file", &waiting))?;
            make(root_key, &waiting)?
        }
        Some(Err(error)) => return Err(error),
        None => make(root_key, &waiting)?,
    };
    let opened = open(config, &key, OpenMode::CreateOrOpen).inspect_err(|_| {
        // Refused before anything was made with it.
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

/// Removes what writers that were killed left of `<root_key>.new`: keys that nothing was made with.
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

/// Tells whether something has this name, be it a link to nothing.
fn exists(path: &Path) -> Result<bool, OpenError> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(OpenError::io("look at root key file", path)(error)),
    }
}

/// The turn of one process to make a store: the others wait.
struct Turn {
    _directory: File,
}

impl Turn {
    fn take(store: &Path) -> Result<Self, OpenError> {
        let directory = File::open(store).map_err(OpenError::io("open directory", store))?;
        // Not every file system has locks on directories; what was written is compared all the same.
        let _ = flock(&directory, FlockOperation::LockExclusive);
        Ok(Self { _directory: directory })
    }
}
