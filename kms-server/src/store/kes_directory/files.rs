//! The key files of a directory, looked at so that nothing that has a key's name is taken for absent.

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

/// The most bytes of a record, less than the store takes; KES's have some 200.
const MAX_RECORD_LEN: usize = 6000;

/// How long after a directory has changed a change may leave its time as it is, on coarse file systems.
const COARSE: Duration = Duration::from_secs(2);

/// A directory of key files, by its path, and which directory that was when it was first looked at.
#[derive(Clone)]
pub struct Directory {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

/// What has a key's name.
pub enum Looked {
    /// Nothing: the name is free.
    Nothing,
    /// A key.
    Key(KeyFile),
    /// Something that cannot be used.
    Unusable(Unusable),
}

/// The content of a key file.
pub struct KeyFile {
    /// The record, as it is to be stored.
    pub content: SecretBytes,
    /// The key in it.
    pub record: KeyRecord,
}

/// Why something that has a key's name cannot be used, or a directory not be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// `Corrupt`, or `Denied` where the system refuses; `Unreachable` of a directory.
    pub kind: ErrorKind,
    /// The reason, as the end of a line that names the file.
    pub why: String,
}

/// The names in a directory.
#[derive(Default)]
pub struct Names {
    /// Those that a key may have, whatever it is that has them.
    pub keys: Vec<KeyName>,
    /// Files with a name that no key can have, a line each.
    pub misnamed: Vec<String>,
}

/// When a directory was changed last.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Directory {
    /// Describes the directory that `path` leads to now.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), identity: path.metadata().ok().map(|found| identity(&found)) }
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of what has this name in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Looks at what has this name. Fails if nobody can know.
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
            // A link whose target is missing is something; a file that went meanwhile is not.
            Err(_) if !found.is_symlink() && is_gone(&file) => Looked::Nothing,
            Err(unusable) => Looked::Unusable(unusable),
        })
    }

    /// Lists the names in it, but for those that begin with a dot, as no key's does.
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
                // A directory such as `lost+found` is nobody's key.
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

    /// Returns when names in it came or went last; `None` if that was so lately that the time does not tell.
    pub fn stamp(&self) -> Result<Option<Stamp>, Unusable> {
        let found = self.is_still_there()?;
        let stamp = Stamp {
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        };
        let age = found.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
        Ok(age.is_some_and(|age| age > COARSE).then_some(stamp))
    }

    /// Makes sure that the path leads to the directory that it led to at first: a volume may have gone from below it.
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

/// Reads a key file. Nothing but a regular file is opened: a pipe would wait for its writer, a device may do anything.
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

/// Names in a directory that the store does not have: why each cannot be used, or `None` for a key that is not imported yet.
pub type Beside = BTreeMap<KeyName, Option<Unusable>>;
