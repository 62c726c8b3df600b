//! The local encrypted store with its root key: when it may be created, and what the operator has to know.

use std::path::Path;

use kms_fs::{FsConfig, OpenError, OpenMode, Opened, RootKey};

use crate::error::StartError;
use crate::host::mounts;
use crate::settings::RootKeySource;

/// What creates a new store although there may have been one.
const HOW_TO_CREATE: &str = "'kms server --create', or 'create = true' under [keystore.fs],";

/// The number of keys from which on a server answers before its database was compared with the journal. With fewer the
/// comparison takes some ten milliseconds.
const COMPARE_LATER: usize = 10_000;

/// Opens the store in `path` under the root key that the config names.
///
/// With a root key from a variable or a credential, a missing store is created, because nobody can tell whether it is new
/// or away. With a root key file, it is created only if `create` says so, or to complete a first start that was cut off.
/// Warnings are logged.
pub fn open(path: &Path, root_key: &RootKeySource, create: bool) -> Result<Opened, StartError> {
    match root_key {
        RootKeySource::File(file) => open_with_file(path, file, create),
        RootKeySource::Credential(_) | RootKeySource::Environment(_) => {
            let loaded = root_key.load()?;
            loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            Ok(told(path, kms_fs::open(&config(path), &loaded.key, OpenMode::CreateOrOpen)?))
        }
    }
}

/// Refuses the path of a local store if it is a file, before anything is looked for below it.
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

/// Opens the store in `path` if there is one. None is made.
pub fn open_existing(path: &Path, root_key: &RootKeySource) -> Result<Option<Opened>, StartError> {
    if let RootKeySource::File(file) = root_key {
        let found = kms_fs::look(path, file)?;
        return match (found.store, found.root_key) {
            (true, true) => open_present(path, file).map(Some),
            (false, true) => Err(is_it_mounted(path, file)),
            (_, false) if found.begun => Err(is_unfinished(path)),
            (true, false) => Err(root_key_missing(path, &[file])),
            (false, false) => Ok(None),
        };
    }
    let loaded = root_key.load()?;
    loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    match kms_fs::open(&config(path), &loaded.key, OpenMode::Existing) {
        Err(OpenError::NoStore { .. }) => Ok(None),
        opened => Ok(Some(told(path, opened?))),
    }
}

/// Opens an existing store under the root key in `file`.
pub fn open_present(path: &Path, file: &Path) -> Result<Opened, StartError> {
    match open_by(path, file, OpenMode::Existing) {
        Err(OpenError::NoStore { .. }) => Err(is_it_mounted(path, file)),
        opened => Ok(told(path, opened?)),
    }
}

/// Opens a store under the root key in `file`. Only the warnings of the root key are logged.
pub fn open_by(path: &Path, file: &Path, mode: OpenMode) -> Result<Opened, OpenError> {
    let loaded = RootKey::from_file(file)?;
    let opened = kms_fs::open(&config(path), &loaded.key, mode)?;
    loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(opened)
}

/// Returns the configuration of the store in `path`.
pub fn config(path: &Path) -> FsConfig {
    FsConfig { compare_later: COMPARE_LATER, ..FsConfig::new(path) }
}

/// Creates a store in `path` and its root key in `file`. Neither of them exists yet.
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

/// Returns the error of a store that is to be read before its first start came to its end.
pub fn is_unfinished(path: &Path) -> StartError {
    let path = path.display();
    StartError::new(format!(
        "{path}: the first start of this store was cut off: start its server once, which completes it"
    ))
}

/// Returns the error of a start that would replace a missing store by an empty one.
pub fn is_it_mounted(path: &Path, file: &Path) -> StartError {
    StartError::new(format!(
        "{}: this root key is there, and its store in {} is not: is the volume mounted? {HOW_TO_CREATE} makes a new store",
        file.display(),
        path.display()
    ))
}

/// Returns the error of a start that would create a root key which nobody asked for.
pub fn neither(path: &Path, file: &Path) -> StartError {
    StartError::new(format!(
        "{}: there is no root key, and no store in {}: is the volume mounted? {HOW_TO_CREATE} makes both; \
         keystore.fs.root_key_file, root_key_env or a section [kms.*] says where the root key is",
        file.display(),
        path.display()
    ))
}

/// Returns the error of a store whose root key is in none of `files`.
pub fn root_key_missing(path: &Path, files: &[&Path]) -> StartError {
    let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    StartError::new(format!(
        "{}: the root key of the store in {} is missing: put it back, or say where it is with \
         keystore.fs.root_key_file or root_key_env",
        files.join(", "),
        path.display()
    ))
}

/// Logs the warnings of an opened store.
pub fn told(path: &Path, opened: Opened) -> Opened {
    opened.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    if opened.is_new {
        tracing::warn!(path = %path.display(), "there was no key store in this directory: a new one was made");
    }
    opened
}

/// Logs a warning if the store is empty. Its root key does not show whether it ever held keys.
pub fn warn_if_empty(path: &Path, keys: usize) {
    if keys == 0 {
        tracing::warn!("{}", emptiness(path));
    }
}

/// Returns the warning about an empty store.
pub fn emptiness(path: &Path) -> String {
    format!(
        "the key store in {} is empty: if keys were made before, its volume is not mounted, and MinIO would make its keys anew",
        path.display()
    )
}
