//! The change of a root key, and the files that an interrupted change leaves behind.

use std::ffi::OsStr;
use std::fs::{self, Metadata, hard_link, rename};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kms_core::primitives::{read_secret_file, rename_new};

use super::root_key::{MAX_FILE_LEN, RootKey, with_suffix};
use crate::disk::sync_directory_of;
use crate::error::OpenError;

/// The age from which a file is no longer being written.
const ABANDONED: Duration = Duration::from_secs(60);

/// The files of a root key that is being changed.
pub struct RootKeyChange {
    file: PathBuf,
    /// The file of the new key.
    pub new_file: PathBuf,
    /// The file that keeps the old key. Backups of the store that were made before the change need it.
    pub old_file: PathBuf,
}

impl RootKeyChange {
    /// Names the files of a change beside `file`.
    pub fn of(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            new_file: with_suffix(file, ".new"),
            old_file: with_suffix(file, ".old"),
        }
    }

    /// Reads the new key. Creates it first, unless an interrupted change has left one.
    pub fn prepare(&self) -> Result<RootKey, OpenError> {
        if !self.new_file.exists() {
            if self.old_file.exists() {
                return Err(self.old_file_is_in_the_way());
            }
            RootKey::random()?.write_new(&self.new_file)?;
        }
        Ok(RootKey::from_file(&self.new_file)?.key)
    }

    /// Keeps the old key, and puts the new one in its place. The file holds a key at every moment.
    pub fn finish(&self) -> Result<(), OpenError> {
        let present = RootKey::from_file(&self.file)?.key;
        if self.old_file.exists() {
            if RootKey::from_file(&self.old_file)?.key != present {
                return Err(self.old_file_is_in_the_way());
            }
        } else if hard_link(&self.file, &self.old_file).is_err() {
            present.write_new(&self.old_file)?; // a file system without links
        }
        sync_directory_of(&self.file)?;
        rename(&self.new_file, &self.file).map_err(OpenError::io("rename root key file", &self.new_file))?;
        sync_directory_of(&self.file)
    }

    fn old_file_is_in_the_way(&self) -> OpenError {
        OpenError::BadRootKey {
            origin: format!("file '{}'", self.old_file.display()),
            why: "a root key replaced earlier is there; move it to where backups need it, then try again"
                .into(),
        }
    }
}

/// Removes the temporary files that killed writers left beside the root key in `file`, which opens the store.
///
/// A key is used only once its file has its final name, so nothing was made with the key in a temporary file. A
/// file stays all the same if its key `opens` the store, if it cannot be read, or if it is so young that
/// somebody may still write it.
pub fn remove_unfinished(file: &Path, opens: impl Fn(&RootKey) -> bool) {
    let change = RootKeyChange::of(file);
    let names = [file, &change.new_file, &change.old_file].map(|file| file.file_name());
    let Ok(entries) = fs::read_dir(parent(file)) else { return };
    for entry in entries.flatten() {
        let found = entry.file_name();
        let is_unfinished = names.iter().flatten().any(|name| is_unfinished(&found, name));
        let is_abandoned = || {
            let found = entry.metadata().ok().filter(Metadata::is_file);
            let age = found.and_then(|found| found.modified().ok()).and_then(|at| at.elapsed().ok());
            age.is_some_and(|age| age >= ABANDONED)
        };
        if !is_unfinished || !is_abandoned() {
            continue;
        }
        let path = entry.path();
        let Ok(content) = read_secret_file(&path, MAX_FILE_LEN) else { continue };
        // A content that is no key was cut off in the middle.
        let key = std::str::from_utf8(&content).ok().and_then(|text| RootKey::parse(text).ok());
        if !key.is_some_and(|key| opens(&key)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Gives the file of a root key its final name, once the store that it opens is there.
pub fn give_name(from: &Path, to: &Path) -> Result<(), OpenError> {
    rename_new(from, to).map_err(OpenError::io("rename root key file", from))?;
    sync_directory_of(to)
}

/// Returns the directory of a file.
pub fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Returns whether `found` is a temporary name of the file `name`.
fn is_unfinished(found: &OsStr, name: &OsStr) -> bool {
    let rest = found.as_bytes().strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"."));
    let random = rest.and_then(|rest| rest.strip_suffix(b".tmp"));
    random.is_some_and(|random| random.len() == 16 && random.iter().all(u8::is_ascii_hexdigit))
}

#[cfg(test)]
#[cfg(test)]
mod tests {
    use super::*;

    /// A file beside the root key.
    struct Case<'a> {
        name: &'static str,
        /// The key in it; `None` for a file that was cut off.
        key: Option<&'a RootKey>,
        is_old: bool,
        stays: bool,
    }

    #[test]
    fn only_abandoned_files_of_keys_that_open_nothing_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let in_force = RootKey::random().unwrap();
        in_force.write_new(&at("root.key")).unwrap();
        let other = RootKey::random().unwrap();
        let case = |name, key| Case { name, key, is_old: true, stays: true };
        let cases = [
            Case { stays: false, ..case("root.key.new.0123456789abcdef.tmp", Some(&other)) },
            Case { stays: false, ..case("root.key.old.0123456789abcdef.tmp", Some(&other)) },
            Case { stays: false, ..case("root.key.0123456789abcdef.tmp", None) },
            case("root.key.new.1123456789abcdef.tmp", Some(&in_force)),
            Case { is_old: false, ..case("root.key.new.2123456789abcdef.tmp", Some(&other)) },
            case("root.key.new", Some(&other)),
            case("root.key.old", Some(&other)),
            case("root.key.new.tmp", Some(&other)),
            case("root.key.new.backup-of-monday.tmp", Some(&other)),
            case("other.key.new.0123456789abcdef.tmp", Some(&other)),
        ];
        for Case { name, key, is_old, .. } in &cases {
            match key {
                Some(key) => key.write_new(&at(name)).unwrap(),
                None => fs::write(at(name), "cut o").unwrap(),
            }
            let since = if *is_old { 2 * ABANDONED } else { Duration::ZERO };
            let file = fs::OpenOptions::new().write(true).open(at(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - since).unwrap();
        }
        remove_unfinished(&at("root.key"), |key| *key == in_force);
        for Case { name, stays, .. } in cases {
            assert_eq!(at(name).exists(), stays, "{name}");
        }
        assert!(RootKey::from_file(&at("root.key")).unwrap().key == in_force);
    }
}
