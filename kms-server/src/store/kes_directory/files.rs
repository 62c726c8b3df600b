//! The key files of a directory. Whatever has the name of a key is never taken for absent.

use std::collections::BTreeMap;
use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kms_core::primitives::{SealingKey, SecretBytes, SecretKey};
use kms_core::store::KeyRecord;
use kms_core::{ErrorKind, KeyName};
use kms_trust::describe_io_error;
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::host::files;

/// The most bytes of a key file, with white space around the record.
const MAX_FILE_LEN: u64 = 64 * 1024;

/// The most bytes of a record, less than the store's own limit. KES's records have some 200.
const MAX_RECORD_LEN: usize = 6000;

/// On coarse file systems, a change this soon after another may leave the directory's time as it is.
const COARSE: Duration = Duration::from_secs(2);

/// A directory of key files: its path, and the identity that it had at first.
#[derive(Clone)]
pub struct Directory {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

/// What has the name of a key.
pub enum Looked {
    /// Nothing. The name is free.
    Nothing,
    /// A key.
    Key(KeyFile),
    /// Something unusable.
    Unusable(Unusable),
}

/// The content of a key file.
pub struct KeyFile {
    /// The record, as it is stored.
    pub content: SecretBytes,
    /// The key in the record.
    pub record: KeyRecord,
}

/// Why something with a key's name cannot be used, or why the directory cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// For a file, `Corrupt`, or `Denied` if the system refuses. For a directory, `Unreachable` or `Denied`.
    pub kind: ErrorKind,
    /// The reason, as the end of a line that names the file.
    pub why: String,
}

/// The names in a directory.
#[derive(Default)]
pub struct Names {
    /// The names that a key may have, whatever has them.
    pub keys: Vec<KeyName>,
    /// The files with a name that no key may have, one line each.
    pub misnamed: Vec<String>,
}

/// When a directory was changed last.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Directory {
    /// Creates the description of the directory that `path` leads to now.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), identity: path.metadata().ok().map(|found| identity(&found)) }
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of this name in the directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Looks at whatever has this name. Fails if that cannot be known.
    pub fn look(&self, name: &str) -> Result<Looked, Unusable> {
        let file = self.file(name);
        let found = match file.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.is_still_there()?;
                return Ok(Looked::Nothing);
            }
            found => found.map_err(|error| self.away(&error))?,
        };
        Ok(match read(&file) {
            Ok(key) => Looked::Key(key),
            // A dangling link is something. A file that disappeared meanwhile is not.
            Err(_) if !found.is_symlink() && is_gone(&file) => Looked::Nothing,
            Err(unusable) => Looked::Unusable(unusable),
        })
    }

    /// Lists the names in the directory, without those that begin with a dot. No key has such a name.
    pub fn names(&self) -> Result<Names, Unusable> {
        self.is_still_there()?;
        let mut names = Names::default();
        for entry in fs::read_dir(&self.path).map_err(|error| self.away(&error))? {
            let entry = entry.map_err(|error| self.away(&error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            match KeyName::new(name) {
                Ok(name) => names.keys.push(name),
                // A directory such as `lost+found` is not a key.
                Err(_) if entry.file_type().is_ok_and(|found| found.is_dir()) => {}
                Err(_) => {
                    let file = entry.path();
                    names.misnamed.push(format!("{}: its name cannot be that of a key", file.display()));
                }
            }
        }
        names.keys.sort_unstable();
        names.misnamed.sort_unstable();
        Ok(names)
    }

    /// Returns when names came or went last, or `None` if that is too recent for the time to be conclusive.
    pub fn stamp(&self) -> Result<Option<Stamp>, Unusable> {
        let found = self.is_still_there()?;
        let stamp = Stamp {
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        };
        let age = found.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
        Ok(age.is_some_and(|age| age > COARSE).then_some(stamp))
    }

    /// Checks that the path still leads to the same directory. A volume may have been unmounted from it.
    fn is_still_there(&self) -> Result<Metadata, Unusable> {
        let found = self.path.metadata().map_err(|error| self.away(&error))?;
        if self.identity.is_some_and(|before| before != identity(&found)) {
            return Err(Unusable {
                kind: ErrorKind::Unreachable,
                why: format!("{}: another directory took its place", self.path.display()),
            });
        }
        Ok(found)
    }

    fn away(&self, error: &io::Error) -> Unusable {
        let kind = match error.kind() {
            io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            _ => ErrorKind::Unreachable,
        };
        Unusable { kind, why: format!("cannot look into {}", files::failed(&self.path, error)) }
    }
}

/// Computes the fingerprint of a key.
pub fn fingerprint(record: &KeyRecord) -> String {
    let Some(copy) = SecretKey::from_slice(record.key.expose()) else { return String::new() };
    hex::encode(SealingKey::new(copy, record.cipher).fingerprint().as_bytes())
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn is_gone(file: &Path) -> bool {
    file.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Reads a key file. Only regular files are opened: a pipe would block, and a device may do anything.
fn read(file: &Path) -> Result<KeyFile, Unusable> {
    let corrupt = |why: &str| Unusable { kind: ErrorKind::Corrupt, why: why.to_owned() };
    refuse_other_types(file.metadata().map_err(|error| failed(file, &error))?.file_type())?;
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(file);
    let opened: File = opened.map_err(|error| failed(file, &error))?;
    refuse_other_types(opened.metadata().map_err(|error| failed(file, &error))?.file_type())?;
    let mut content = Zeroizing::new(Vec::with_capacity(1024));
    opened.take(MAX_FILE_LEN + 1).read_to_end(&mut content).map_err(|error| failed(file, &error))?;
    let is_too_long = content.len() as u64 > MAX_FILE_LEN;
    let content = content.trim_ascii();
    if is_too_long || content.len() > MAX_RECORD_LEN {
        return Err(corrupt("it is longer than any record of a key"));
    }
    if content.is_empty() {
        return Err(corrupt("it is empty, expected the record of a key"));
    }
    let record = KeyRecord::decode(content).map_err(|error| corrupt(&error.chain().to_string()))?;
    Ok(KeyFile { content: SecretBytes::from(content), record })
}

fn refuse_other_types(found: FileType) -> Result<(), Unusable> {
    let what = if found.is_file() {
        return Ok(());
    } else if found.is_dir() {
        "a directory"
    } else if found.is_fifo() {
        "a pipe"
    } else if found.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(Unusable { kind: ErrorKind::Corrupt, why: format!("it is {what}, expected the file of a key") })
}

fn failed(file: &Path, error: &io::Error) -> Unusable {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        _ => ErrorKind::Corrupt,
    };
    let why = match (error.kind(), fs::read_link(file)) {
        (io::ErrorKind::NotFound, Ok(target)) => {
            format!("it is a link to {}, which is not there", target.display())
        }
        _ => describe_io_error(error),
    };
    Unusable { kind, why }
}

/// The names in a directory that the store lacks, each with its fault. `None` is a key that is not imported yet.
pub type Beside = BTreeMap<KeyName, Option<Unusable>>;
