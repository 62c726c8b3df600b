//! A directory of plaintext key files, as KES keeps them, served from an encrypted store below it.
//!
//! - `<path>/<name>` are KES's files, which stay as they are.
//! - `<path>/.kms` is the encrypted store into which they are imported.
//! - `<path>.root-key` is the store's root key, unless another one is configured. If the directory is a volume of its own,
//!   the root key is in `<path>/.root-key`, because beside the directory it would be lost with the container.
//! - `<path>/.kms/imported` lists the imported keys.
//! - `<path>/.kms/deleted` lists the keys that were deleted since and do not come back.

mod files;
mod lists;
mod store;
mod unchanged;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kms_core::store::{EntryName, KeyStore};
use kms_core::{ErrorKind, KeyName};
use kms_fs::{Found, OpenError, OpenMode, Opened};

pub use self::files::{Directory, Looked};
use self::lists::List;
pub use self::store::KesDirectory;
use self::unchanged::Unchanged;
use super::embedded;
use crate::error::StartError;
use crate::host::files::{failed, private_directory};
use crate::host::mounts;
use crate::host::shell::shell_quote;
use crate::settings::RootKeySource;

/// The encrypted store, in the directory of the key files.
const STORE: &str = ".kms";

/// The file in the store's directory that lists the imported keys.
const IMPORTED: &str = "imported";

/// The file beside it that lists the deleted keys, which do not come back from their files.
const DELETED: &str = "deleted";

/// The root key file in the directory of the key files.
const ROOT_KEY: &str = ".root-key";

/// Returns the path of the encrypted store of the directory `path`.
pub fn store_path(path: &Path) -> PathBuf {
    path.join(STORE)
}

/// Opens the encrypted store of the directory `path`, and imports the key files that it lacks.
///
/// Both are created if they are missing. A root key is created only if none is `configured` and there is no store yet. An
/// unusable key file is logged, and the other keys are served.
pub async fn open(
    path: &Path,
    configured: Option<&RootKeySource>,
    create: bool,
) -> Result<KesDirectory, StartError> {
    let store_path = store_path(path);
    let (opened, told) = if let Some(source) = configured {
        (embedded::open(&store_path, source, create)?, None)
    } else {
        let (opened, file) = open_with_own_root_key(path, &store_path, create)?;
        let dubious = dubious_place(path, &file);
        if let Some(dubious) = &dubious {
            tracing::warn!("{dubious}");
        }
        (opened, dubious.and_then(Dubious::into_status))
    };
    let imported = List::read(store_path.join(IMPORTED));
    let deleted = deleted(&store_path, &imported, &opened).await;
    let found_keys = opened.keys;
    let store = KesDirectory::new(Directory::at(path), opened.store, imported, deleted, told);
    let counts = store.import_all().await;
    let rest = match counts.deleted {
        0 => String::new(),
        deleted => format!("; {deleted} of them were deleted since their import and are not served"),
    };
    if counts.keys > 0 {
        tracing::warn!(
            "{} key files in the clear in {}, {} of them imported now: all are in the encrypted store in {}, \
             so the files may go once no KES needs them{rest}",
            counts.keys,
            path.display(),
            counts.new,
            store_path.display()
        );
    }
    if matches!(configured, Some(RootKeySource::Environment(_) | RootKeySource::Credential(_))) {
        embedded::warn_if_empty(&store_path, found_keys + counts.new);
    }
    Ok(store)
}

/// Opens the keys of the directory `path` to read them where they are. Nothing is imported, and no store is made.
pub async fn open_unchanged(
    path: &Path,
    configured: Option<&RootKeySource>,
) -> Result<impl KeyStore, StartError> {
    let store_path = store_path(path);
    let opened = match configured {
        Some(source) => embedded::open_existing(&store_path, source)?,
        None => open_existing_with_own_root_key(path, &store_path)?,
    };
    let store = opened.map(|opened| Arc::new(opened.store) as Arc<dyn KeyStore>);
    Unchanged::new(path, &store_path.join(IMPORTED), &store_path.join(DELETED), store).await
}

/// Opens the store under the root key beside the directory or in it, if there is a store.
fn open_existing_with_own_root_key(path: &Path, store: &Path) -> Result<Option<Opened>, StartError> {
    let own = OwnRootKey::look(path)?;
    if own.begun().next().is_some() {
        return Err(embedded::is_unfinished(store));
    }
    match own.present().next() {
        _ if own.has_store() => embedded::open_present(store, &root_key_in_force(path)?).map(Some),
        Some(file) => Err(embedded::is_it_mounted(store, file)),
        None => Ok(None),
    }
}

/// Reads which keys were deleted since their import.
///
/// Older releases had no such list. They did not serve an imported key that was missing in the store, so such a key
/// counts as deleted.
async fn deleted(store_path: &Path, imported: &List, opened: &Opened) -> List {
    let file = store_path.join(DELETED);
    let is_first = !List::is_there(&file);
    let mut deleted = List::read(file);
    if is_first && !opened.is_new {
        for (name, fingerprint) in imported.iter() {
            let Ok(key) = KeyName::new(name) else { continue };
            let read = opened.store.get(&EntryName::from(&key)).await;
            if read.is_err_and(|error| error.kind() == ErrorKind::NotFound) {
                deleted.note(name, fingerprint.to_owned());
            }
        }
    }
    if let Err(error) = deleted.write() {
        tracing::error!("{}", failed(deleted.file(), &error));
    }
    deleted
}

/// The possible root key files of a directory without a configured root key, and what was found there.
pub struct OwnRootKey {
    /// The files, the better one first.
    pub places: Vec<(PathBuf, Found)>,
}

impl OwnRootKey {
    /// Looks for the files, and creates nothing.
    pub fn look(path: &Path) -> Result<Self, OpenError> {
        let store = store_path(path);
        let (beside, inside) = (root_key_file(path), path.join(ROOT_KEY));
        let is_beside_better = is_safe_beside(path, &beside);
        let mut places = vec![beside, inside];
        if !is_beside_better {
            places.reverse();
        }
        let looked = places.into_iter().map(|file| kms_fs::look(&store, &file).map(|found| (file, found)));
        Ok(Self { places: looked.collect::<Result<_, _>>()? })
    }

    /// Returns whether there is a store.
    pub fn has_store(&self) -> bool {
        self.places.iter().any(|(_, found)| found.store)
    }

    /// Returns the existing files.
    pub fn present(&self) -> impl Iterator<Item = &Path> {
        self.places.iter().filter(|(_, found)| found.root_key).map(|(file, _)| file.as_path())
    }

    /// Returns the files of a first start that was cut off before they got their names.
    pub fn begun(&self) -> impl Iterator<Item = &Path> {
        let begun = self.places.iter().filter(|(_, found)| found.begun && !found.root_key);
        begun.map(|(file, _)| file.as_path())
    }

    fn all(&self) -> Vec<&Path> {
        self.places.iter().map(|(file, _)| file.as_path()).collect()
    }
}

/// Opens the store under the root key beside the directory or in it. The first start creates both.
fn open_with_own_root_key(path: &Path, store: &Path, create: bool) -> Result<(Opened, PathBuf), StartError> {
    let own = OwnRootKey::look(path)?;
    let present: Vec<_> = own.present().collect();
    let begun: Vec<_> = own.begun().collect();
    if !own.has_store() {
        return match (present.as_slice(), begun.as_slice()) {
            ([file, ..], _) if !create => Err(embedded::is_it_mounted(store, file)),
            ([file, ..], _) => {
                let opened = embedded::open_by(store, file, OpenMode::CreateOrOpen)?;
                Ok((embedded::told(store, opened), (*file).to_owned()))
            }
            ([], [file, ..]) => Ok((embedded::complete(store, file)?, (*file).to_owned())),
            ([], []) => make(path, store),
        };
    }
    let mut refused = Vec::new();
    for file in &present {
        match embedded::open_by(store, file, OpenMode::Existing) {
            Ok(opened) => return Ok((embedded::told(store, opened), (*file).to_owned())),
            Err(OpenError::NoStore { .. }) => return Err(embedded::is_it_mounted(store, file)),
            Err(error) if is_about(&error, file) => refused.push((*file, error)),
            Err(error) => return Err(error.into()),
        }
    }
    for file in &begun {
        match embedded::complete(store, file) {
            Ok(opened) => return Ok((opened, (*file).to_owned())),
            Err(error) if refused.is_empty() => return Err(error),
            Err(_) => {}
        }
    }
    if refused.len() > 1 {
        let all: Vec<_> =
            refused.iter().map(|(file, error)| format!("{}: {error}", file.display())).collect();
        return Err(StartError::new(format!("no root key opens the store: {}", all.join("; "))));
    }
    match refused.pop() {
        Some((_, error)) => Err(error.into()),
        None => Err(embedded::root_key_missing(store, &own.all())),
    }
}

/// Returns the root key file that opens the store of the directory `path`, if the config names none.
///
/// If there is only one file, it is not tried.
pub fn root_key_in_force(path: &Path) -> Result<PathBuf, StartError> {
    let (store, own) = (store_path(path), OwnRootKey::look(path)?);
    let present: Vec<_> = own.present().collect();
    match present.as_slice() {
        [] => Err(embedded::root_key_missing(&store, &own.all())),
        [file] => Ok((*file).to_owned()),
        [first, ..] => {
            for file in &present {
                match embedded::open_by(&store, file, OpenMode::Existing) {
                    Ok(_) => return Ok((*file).to_owned()),
                    Err(error) if is_about(&error, file) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok((*first).to_owned())
        }
    }
}

/// Returns whether another root key may still open the store.
fn is_about(error: &OpenError, file: &Path) -> bool {
    match error {
        OpenError::WrongRootKey { .. } | OpenError::BadRootKey { .. } => true,
        OpenError::Io { path, .. } => path == file,
        _ => false,
    }
}

/// Creates directory, store and root key. The root key is put beside the directory if that is on the same mount and
/// writable, or else into the directory.
fn make(path: &Path, store: &Path) -> Result<(Opened, PathBuf), StartError> {
    private_directory(path).map_err(|error| StartError::with_source(failed(path, &error), error))?;
    let (beside, inside) = (root_key_file(path), path.join(ROOT_KEY));
    if is_safe_beside(path, &beside) {
        match embedded::make(store, &beside) {
            Ok(opened) => return Ok((embedded::told(store, opened), beside)),
            // The parent directory is not writable. With an existing store it would be too late to choose another place.
            Err(OpenError::Io { path: at, .. })
                if at.parent() == beside.parent() && at != path && !kms_fs::look(store, &beside)?.store => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok((embedded::told(store, embedded::make(store, &inside)?), inside))
}

/// Returns whether a root key beside the directory lives as long as the directory's content.
fn is_safe_beside(path: &Path, beside: &Path) -> bool {
    let above = beside.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    mounts::are_together(above, path).unwrap_or(false)
}

/// A place of an unconfigured root key that the operator has to know of.
pub enum Dubious {
    /// The root key is beside the data that it encrypts.
    Inside(String),
    /// The root key may be lost without the store.
    Elsewhere(String),
}

impl Dubious {
    /// Returns the text for the status, if the status mentions it.
    fn into_status(self) -> Option<String> {
        match self {
            Self::Inside(_) => None,
            Self::Elsewhere(told) => Some(told),
        }
    }
}

impl std::fmt::Display for Dubious {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Inside(told) | Self::Elsewhere(told)) = self;
        f.write_str(told)
    }
}

/// Returns what is dubious about the place of an unconfigured root key.
pub fn dubious_place(path: &Path, file: &Path) -> Option<Dubious> {
    let is_inside = match (file.canonicalize(), path.canonicalize()) {
        (Ok(file), Ok(path)) => file.starts_with(path),
        _ => false,
    };
    if is_inside {
        let quoted = shell_quote(file);
        return Some(Dubious::Inside(format!(
            "the root key {} lies with the keys that it encrypts: whoever copies {} can read them all. To part them, stop the \
             server, run: mv {quoted} /another/volume/kms.root-key, and set keystore.fs.root_key_file: \
             /another/volume/kms.root-key in the config, or start with KMS_ROOT_KEY=\"$(cat /another/volume/kms.root-key)\"",
            file.display(),
            path.display()
        )));
    }
    if mounts::are_together(file, &store_path(path)).unwrap_or(true) {
        return None;
    }
    let (from, to) = (shell_quote(file), shell_quote(&path.join(ROOT_KEY)));
    Some(Dubious::Elsewhere(format!(
        "the root key {} lies on another file system than its store in {}, and no config names it: if that is a container's \
         own, all keys are lost with the container. Run now: cp -p {from} {to}, or move it to a volume and set \
         keystore.fs.root_key_file or KMS_ROOT_KEY",
        file.display(),
        store_path(path).display()
    )))
}

/// Returns `<path>.root-key`, beside the directory and not in it.
fn root_key_file(path: &Path) -> PathBuf {
    // `/keys/` and `/keys` are the same directory.
    let mut name: OsString = path.components().as_path().as_os_str().to_owned();
    name.push(".root-key");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_key_lies_beside_the_directory() {
        for path in ["/var/keys", "/var/keys/", "/var/keys/."] {
            assert_eq!(root_key_file(Path::new(path)), Path::new("/var/keys.root-key"), "{path}");
        }
        assert_eq!(root_key_file(Path::new("keys")), Path::new("keys.root-key"));
    }
}
