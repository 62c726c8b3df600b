//! A directory of key files in the clear, as KES keeps them, served from an encrypted store below it.
//!
//! `<path>/<name>` are KES's files, which stay as they are. `<path>/.kms` is the encrypted store that they are imported
//! into; `<path>.root-key` is its root key, unless another is named. `<path>/.kms/imported` lists what was imported, so
//! that a key which was deleted since does not come back at the next start.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use kms_core::{EntryName, ErrorKind, KeyName, KeyRecord, KeyStore, SealingKey, SecretBytes, SecretKey};
use kms_fs::{FsConfig, FsStore, OpenMode, RootKey};

use crate::config::RootKeySource;
use crate::files;
use crate::server::StartError;

/// The directory of the encrypted store, in that of the key files.
const STORE: &str = ".kms";

/// The file in the store's directory that lists what was imported.
const IMPORTED: &str = "imported";

/// The most bytes of a key file; KES's have some 200.
const MAX_FILE_LEN: u64 = 64 * 1024;

/// Returns where the encrypted store of the directory `path` lies.
pub fn store_path(path: &Path) -> PathBuf {
    path.join(STORE)
}

/// Returns where the root key of the store of the directory `path` comes from.
pub fn root_key_source(path: &Path, configured: Option<&RootKeySource>) -> RootKeySource {
    configured.cloned().unwrap_or_else(|| RootKeySource::File(root_key_file(path)))
}

/// Opens the encrypted store of the directory `path`, made if absent, and imports the key files that it lacks.
///
/// The root key is made only if none is `configured` and there is no store yet. A key file that cannot be used is named
/// in the log, and the rest is served.
pub async fn open(path: &Path, configured: Option<&RootKeySource>) -> Result<FsStore, StartError> {
    let files = read_files(path)?;
    let root_key = root_key_source(path, configured);
    let store_path = store_path(path);
    if let (None, RootKeySource::File(file)) = (configured, &root_key)
        && !file.exists()
    {
        if has_store(&store_path) {
            return Err(StartError::new(format!(
                "{}: the root key of the store in {} is missing: put it back, expected the file that the first start made",
                file.display(),
                store_path.display()
            )));
        }
        RootKey::random()?.write_new(file)?;
        tracing::warn!(
            "made the root key {} for {}: back it up elsewhere, losing it is losing all keys made from now on",
            file.display(),
            store_path.display()
        );
    }
    let loaded = root_key.load()?;
    files::private_directory(&store_path)
        .map_err(|error| StartError::new(files::failed(&store_path, &error)))?;
    let opened = kms_fs::open(&FsConfig::new(&store_path), &loaded.key, OpenMode::CreateOrOpen)?;
    for warning in loaded.warnings.iter().chain(&opened.warnings) {
        tracing::warn!("{warning}");
    }
    import(path, files, &opened.store).await?;
    Ok(opened.store)
}

/// What lies in a directory of key files.
#[derive(Default)]
pub struct Files {
    /// The keys, and the content of their files.
    keys: BTreeMap<KeyName, (SecretBytes, KeyRecord)>,
    /// The files that hold no key, and why, a line each.
    pub broken: Vec<String>,
}

impl Files {
    /// Returns the number of files that hold a key.
    pub fn len(&self) -> usize {
        self.keys.len()
    }
}

/// Reads the key files in `path`; a directory that is not there holds none.
///
/// Names that begin with a dot, which no key has, and directories are passed over.
pub fn read_files(path: &Path) -> Result<Files, StartError> {
    let failed = |error: &io::Error| StartError::new(files::failed(path, error));
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Files::default()),
        entries => entries.map_err(|error| failed(&error))?,
    };
    let mut files = Files::default();
    for entry in entries {
        let file = entry.map_err(|error| failed(&error))?.path();
        let Some(name) = file.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
        if name.starts_with('.') || file.is_dir() {
            continue;
        }
        match read_file(&file, &name) {
            Ok((name, content, record)) => {
                files.keys.insert(name, (content, record));
            }
            Err(why) => files.broken.push(format!("{}: {why}", file.display())),
        }
    }
    files.broken.sort();
    Ok(files)
}

fn read_file(file: &Path, name: &str) -> Result<(KeyName, SecretBytes, KeyRecord), String> {
    let name = KeyName::new(name).map_err(|_| "its name cannot be that of a key".to_owned())?;
    let mut content = zeroize::Zeroizing::new(Vec::with_capacity(1024));
    let opened = File::open(file).map_err(|error| crate::certificate::describe_io_error(&error))?;
    let read = opened.take(MAX_FILE_LEN + 1).read_to_end(&mut content);
    read.map_err(|error| crate::certificate::describe_io_error(&error))?;
    let content = content.trim_ascii();
    if content.is_empty() {
        return Err("it is empty, expected the record of a key".to_owned());
    }
    if content.len() as u64 > MAX_FILE_LEN {
        return Err("it is longer than any record of a key".to_owned());
    }
    let record = KeyRecord::decode(content).map_err(|error| error.chain().to_string())?;
    Ok((name, SecretBytes::from(content), record))
}

/// Imports the files that the store lacks, and says in one line how many there are.
async fn import(path: &Path, files: Files, store: &FsStore) -> Result<(), StartError> {
    for broken in &files.broken {
        tracing::error!("key file passed over, its key is not served: {broken}");
    }
    let list = store_path(path).join(IMPORTED);
    let mut imported = read_list(&list)?;
    let (count, mut new, mut deleted) = (files.len(), 0, 0);
    for (name, (content, record)) in files.keys {
        let entry = EntryName::from(&name);
        let fingerprint = fingerprint(&record)?;
        let present = match store.get(&entry).await {
            Ok(present) => present,
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            Err(_) if imported.get(name.as_str()) == Some(&fingerprint) => {
                deleted += 1;
                continue;
            }
            Err(_) => {
                store.create(&entry, &content).await?;
                new += 1;
                store.get(&entry).await?
            }
        };
        let same = KeyRecord::decode(present.expose()).is_ok_and(|present| present.key == record.key);
        if !same {
            tracing::error!(
                "key file {} holds another key than the store below it: the store's is served",
                path.join(name.as_str()).display()
            );
            continue;
        }
        imported.insert(name.as_str().to_owned(), fingerprint);
    }
    write_list(&list, &imported)?;
    let rest = match deleted {
        0 => String::new(),
        deleted => format!("; {deleted} of them were deleted since their import and are not served"),
    };
    if count > 0 {
        tracing::warn!(
            "{count} key files in the clear in {}, {new} of them imported now: all are in the encrypted store in {}, \
             so the files may go once no KES needs them{rest}",
            path.display(),
            store_path(path).display()
        );
    }
    Ok(())
}

fn fingerprint(record: &KeyRecord) -> Result<String, StartError> {
    let copy = SecretKey::from_slice(record.key.expose());
    let copy = copy.ok_or_else(|| StartError::new("a key of another length than 32 bytes"))?;
    Ok(hex::encode(SealingKey::new(copy, record.cipher).fingerprint().as_bytes()))
}

/// Reads which keys were imported: a name and a fingerprint a line.
fn read_list(list: &Path) -> Result<BTreeMap<String, String>, StartError> {
    let text = match fs::read_to_string(list) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text.map_err(|error| StartError::new(files::failed(list, &error)))?,
    };
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs.map(|(name, fingerprint)| (name.to_owned(), fingerprint.to_owned())).collect())
}

fn write_list(list: &Path, imported: &BTreeMap<String, String>) -> Result<(), StartError> {
    let mut text = String::new();
    for (name, fingerprint) in imported {
        text.extend([name, " ", fingerprint, "\n"]);
    }
    if fs::read_to_string(list).unwrap_or_default() == text {
        return Ok(());
    }
    files::replace(list, text.as_bytes(), files::PRIVATE)
        .map_err(|error| StartError::new(files::failed(list, &error)))
}

/// Tells whether a store was made in this directory: anything but what a start that failed leaves there.
pub fn has_store(store: &Path) -> bool {
    let names = fs::read_dir(store).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.into_iter().any(|name| name != "lock")
}

/// Returns `<path>.root-key`, beside the directory and not in it.
fn root_key_file(path: &Path) -> PathBuf {
    // `/keys/` and `/keys` are one directory.
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
