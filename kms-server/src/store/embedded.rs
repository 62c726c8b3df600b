//! The local encrypted store with its root key: which of them may be made, and what an operator has to hear.

use std::path::Path;

use kms_fs::{FsConfig, OpenError, OpenMode, Opened, RootKey};

use crate::error::StartError;
use crate::host::mounts;
use crate::settings::RootKeySource;

/// What makes a new store where there may have been one.
const HOW_TO_CREATE: &str = "'kms server --create', or 'create = true' under [keystore.fs],";

/// Opens the store in `path` under the root key that the config names.
///
/// A store is made if its root key is from a variable or a credential, which nobody can tell from that of a store that is away;
/// with a file only if `create` says so, or to complete a first start that was cut off. Warnings go to the log.
pub fn open(path: &Path, root_key: &RootKeySource, create: bool) -> Result<Opened, StartError> {
    match root_key {
        RootKeySource::File(file) => open_with_file(path, file, create),
        RootKeySource::Credential(_) | RootKeySource::Environment(_) => {
            let loaded = root_key.load()?;
            loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            Ok(told(path, kms_fs::open(&FsConfig::new(path), &loaded.key, OpenMode::CreateOrOpen)?))
        }
    }
}

/// Refuses a place of a local store that is a file, before something is looked for below it.
pub fn refuse_no_directory(path: &Path) -> Result<(), StartError> {
    match path.metadata() {
        Ok(found) if !found.is_dir() => {
            let message = format!("keystore.fs.path: {}: it is no directory", path.display());
            Err(StartError::new(message))
        }
        _ => Ok(()),
    }
}

fn open_with_file(path: &Path, file: &Path, create: bool) -> Result<Opened, StartError> {
    let found = kms_fs::look(path, file)?;
    match (found.store, found.root_key) {
        (true, true) => {
            if create {
                tracing::warn!(
                    "there is a store in {}, so 'create' has no effect: leave it out, so that a volume that is not mounted is noticed",
                    path.display()
                );
            }
            open_present(path, file)
        }
        (false, true) if !create => Err(is_it_mounted(path, file)),
        (false, true) => Ok(told(path, open_by(path, file, OpenMode::CreateOrOpen)?)),
        (_, false) if found.begun => complete(path, file),
        (true, false) => Err(root_key_missing(path, &[file])),
        (false, false) if !create => Err(neither(path, file)),
        (false, false) => {
            let opened = make(path, file)?;
            if mounts::are_together(file, path).is_ok_and(|together| !together) {
                tracing::warn!(
                    "the root key {} lies on another file system than its store in {}: make sure that it outlives \
                     the container or the machine, else all keys are lost with it",
                    file.display(),
                    path.display()
                );
            }
            Ok(told(path, opened))
        }
    }
}

/// Opens a store that is there under the root key in `file`.
pub fn open_present(path: &Path, file: &Path) -> Result<Opened, StartError> {
    match open_by(path, file, OpenMode::Existing) {
        Err(OpenError::NoStore { .. }) => Err(is_it_mounted(path, file)),
        opened => Ok(told(path, opened?)),
    }
}

/// Opens a store under the root key in `file`, without a word to the log but that of the root key.
pub fn open_by(path: &Path, file: &Path, mode: OpenMode) -> Result<Opened, OpenError> {
    let loaded = RootKey::from_file(file)?;
    let opened = kms_fs::open(&FsConfig::new(path), &loaded.key, mode)?;
    loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(opened)
}

/// Makes a store in `path` and its root key in `file`, neither of which is there.
pub fn make(path: &Path, file: &Path) -> Result<Opened, OpenError> {
    let opened = kms_fs::create_with_root_key_file(&FsConfig::new(path), file)?;
    tracing::warn!(
        "made the root key {} for {}: back it up elsewhere, losing it is losing all keys made from now on",
        file.display(),
        path.display()
    );
    Ok(opened)
}

/// Completes a first start that was cut off.
pub fn complete(path: &Path, file: &Path) -> Result<Opened, StartError> {
    let opened = kms_fs::create_with_root_key_file(&FsConfig::new(path), file)?;
    tracing::warn!(
        "completed a first start that was cut off: the root key of {} is in {}; back it up elsewhere",
        path.display(),
        file.display()
    );
    Ok(told(path, opened))
}

/// Refuses a start that would put an empty store in the place of one that is away.
pub fn is_it_mounted(path: &Path, file: &Path) -> StartError {
    StartError::new(format!(
        "{}: this root key is there, and its store in {} is not: is the volume mounted? {HOW_TO_CREATE} makes a new store",
        file.display(),
        path.display()
    ))
}

/// Refuses a start that would make a root key which nobody asked for.
pub fn neither(path: &Path, file: &Path) -> StartError {
    StartError::new(format!(
        "{}: there is no root key, and no store in {}: is the volume mounted? {HOW_TO_CREATE} makes both; \
         keystore.fs.root_key_file, root_key_env or a section [kms.*] says where the root key is",
        file.display(),
        path.display()
    ))
}

/// Says that a store is there and its root key is not in any of `files`.
pub fn root_key_missing(path: &Path, files: &[&Path]) -> StartError {
    let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    StartError::new(format!(
        "{}: the root key of the store in {} is missing: put it back, or say where it is with \
         keystore.fs.root_key_file or root_key_env",
        files.join(", "),
        path.display()
    ))
}

/// Tells the log of a store that was opened.
pub fn told(path: &Path, opened: Opened) -> Opened {
    opened.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    if opened.is_new {
        tracing::warn!(path = %path.display(), "there was no key store in this directory: a new one was made");
    }
    opened
}

/// Warns of a store without a key whose root key says nothing of whether there was one.
pub fn warn_if_empty(path: &Path, keys: usize) {
    if keys == 0 {
        tracing::warn!("{}", emptiness(path));
    }
}

/// Says what an empty store may mean.
pub fn emptiness(path: &Path) -> String {
    format!(
        "the key store in {} is empty: if keys were made before, its volume is not mounted, and MinIO would make its keys anew",
        path.display()
    )
}
