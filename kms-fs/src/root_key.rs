//! The root key of a local store: 32 bytes that live outside of it.

use std::ffi::OsStr;
use std::fs::{self, Metadata, OpenOptions, hard_link, rename};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_core::{Cipher, SealingKey, SecretKey, read_secret_file};
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::disk::sync_directory_of;
use crate::error::OpenError;

/// Permissions under which a root key is refused: anything for others, and writing for the group.
const REFUSED_MODE: u32 = 0o027;
/// Permissions that are worth a word: reading for the group, as container platforms give it.
const NOTED_MODE: u32 = 0o040;
/// A root key's file is 44 characters of base64 and a line end; more is no root key.
const MAX_FILE_LEN: usize = 1024;

/// The root key of a local store.
///
/// In text it is base64 of 32 random bytes. There is no `Debug`; it is wiped when dropped.
pub struct RootKey {
    key: SecretKey,
    /// The file that it was read from.
    file: Option<PathBuf>,
}

/// A root key that was read, and what an operator should hear about where it lies.
pub struct LoadedRootKey {
    /// The key.
    pub key: RootKey,
    /// Warnings, a sentence each.
    pub warnings: Vec<String>,
}

impl RootKey {
    /// Makes a random root key.
    pub fn random() -> Result<Self, OpenError> {
        Ok(Self { key: SecretKey::random()?, file: None })
    }

    /// Reads a root key from a file that only its owner may write and nobody but its owner and group may read.
    pub fn from_file(path: &Path) -> Result<LoadedRootKey, OpenError> {
        let mut options = OpenOptions::new();
        // Opening a pipe would wait for its writer.
        options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let file = options.open(path).map_err(OpenError::io("open root key file", path))?;
        let metadata = file.metadata().map_err(OpenError::io("look at root key file", path))?;
        let bad = |why: String| OpenError::BadRootKey { origin: format!("file '{}'", path.display()), why };
        if !metadata.is_file() {
            return Err(bad("it is not a regular file".into()));
        }
        let mode = metadata.mode() & 0o777;
        if mode & REFUSED_MODE != 0 {
            return Err(bad(format!(
                "its mode {mode:04o} opens it to others; run: chmod 600 '{}'",
                path.display()
            )));
        }
        let mut text = Zeroizing::new(String::with_capacity(128));
        let read = file.take(MAX_FILE_LEN as u64).read_to_string(&mut text);
        read.map_err(OpenError::io("read root key file", path))?;
        let mut key = Self::parse(&text).map_err(|why| bad(why.into()))?;
        key.file = Some(path.to_owned());
        let warnings = (mode & NOTED_MODE != 0).then(|| {
            format!("root key file '{}' has mode {mode:04o}: its group can read it", path.display())
        });
        Ok(LoadedRootKey { key, warnings: warnings.into_iter().collect() })
    }

    /// Reads a root key from an environment variable.
    pub fn from_env(name: &str) -> Result<LoadedRootKey, OpenError> {
        let bad = |why: &str| OpenError::BadRootKey {
            origin: format!("environment variable {name}"),
            why: why.into(),
        };
        let text = std::env::var(name).map(Zeroizing::new).map_err(|_| bad("it is not set"))?;
        let key = Self::parse(&text).map_err(bad)?;
        Ok(LoadedRootKey { key, warnings: Vec::new() })
    }

    /// Reads base64 of 32 bytes; white space around it does not matter.
    ///
    /// The error is what was expected, and never tells what was found.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "expected base64 of 32 bytes, as `kms init` writes it";
        let mut bytes = Zeroizing::new([0; 48]);
        let len = STANDARD.decode_slice(text.trim(), bytes.as_mut_slice()).map_err(|_| EXPECTED)?;
        let key = SecretKey::from_slice(&bytes[..len]).ok_or(EXPECTED)?;
        Ok(Self { key, file: None })
    }

    /// Writes the key to a new file of mode 0600, whole and durably. A file that is there already is left as it is.
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "base64 makes 44 characters of 32 bytes"
    )]
    pub fn write_new(&self, path: &Path) -> Result<(), OpenError> {
        let mut text = Zeroizing::new([0; 45]);
        let len = STANDARD
            .encode_slice(self.key.expose(), text.as_mut_slice())
            .expect("the buffer is longer than the text");
        text[len] = b'\n';
        // In containers that share a directory every process may have the same id.
        let mut random = [0_u8; 8];
        kms_core::fill_random(&mut random)?;
        let temporary = with_suffix(path, &format!(".{:016x}.tmp", u64::from_be_bytes(random)));
        let written = write_private(&temporary, text.as_slice()).and_then(|()| rename_new(&temporary, path));
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary);
            return Err(OpenError::io("write root key file", path)(error));
        }
        sync_directory_of(path)
    }

    /// Returns the file that it was read from.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    pub(crate) fn sealing_key(&self) -> Result<SealingKey, OpenError> {
        let copy = SecretKey::from_slice(self.key.expose());
        let key =
            copy.ok_or_else(|| kms_core::Error::new(kms_core::ErrorKind::Internal, "copy the root key"))?;
        Ok(SealingKey::new(key, Cipher::Aes256))
    }
}

impl PartialEq for RootKey {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

/// The files of a root key that is being changed.
pub struct Change {
    file: PathBuf,
    /// The key that comes.
    pub new_file: PathBuf,
    /// Where the key that goes is kept: backups of the store made before need it.
    pub old_file: PathBuf,
}

impl Change {
    /// Names the files beside `file`.
    pub fn of(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            new_file: with_suffix(file, ".new"),
            old_file: with_suffix(file, ".old"),
        }
    }

    /// Makes the new key, unless an interrupted change has left one, and reads it.
    pub fn prepare(&self) -> Result<RootKey, OpenError> {
        if !self.new_file.exists() {
            if self.old_file.exists() {
                return Err(self.old_file_is_in_the_way());
            }
            RootKey::random()?.write_new(&self.new_file)?;
        }
        Ok(RootKey::from_file(&self.new_file)?.key)
    }

    /// Keeps the old key and puts the new one in its place. There is a key in the file all the time.
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

/// How old a file is that no writer is still at.
const ABANDONED: Duration = Duration::from_secs(60);

/// Removes what writers that were killed left beside the root key in `file`, which opens the store.
///
/// A key is used only once it has its name, so nothing was made with one that has not. One that `opens` the store stays
/// all the same, and so does what cannot be read, or is so young that somebody may be writing it.
pub fn remove_unfinished(file: &Path, opens: impl Fn(&RootKey) -> bool) {
    let change = Change::of(file);
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
        // What is no key was cut off in its middle.
        let key = std::str::from_utf8(&content).ok().and_then(|text| RootKey::parse(text).ok());
        if !key.is_some_and(|key| opens(&key)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Tells whether a name is one under which the file called `name` is written.
fn is_unfinished(found: &OsStr, name: &OsStr) -> bool {
    let rest = found.as_bytes().strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"."));
    let random = rest.and_then(|rest| rest.strip_suffix(b".tmp"));
    random.is_some_and(|random| random.len() == 16 && random.iter().all(u8::is_ascii_hexdigit))
}

/// Returns the directory that a file lies in.
pub fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Gives a root key's file, whose store is there, the name under which it is looked for.
pub fn give_name(from: &Path, to: &Path) -> Result<(), OpenError> {
    rename_new(from, to).map_err(OpenError::io("rename root key file", from))?;
    sync_directory_of(to)
}

/// Renames a file to a name that must not be taken.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems have no such rename.
        Err(Errno::INVAL | Errno::NOSYS) if to.symlink_metadata().is_err() => rename(from, to),
        Err(Errno::INVAL | Errno::NOSYS) => Err(io::ErrorKind::AlreadyExists.into()),
        renamed => Ok(renamed?),
    }
}

fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_abandoned_files_of_keys_that_open_nothing_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let in_force = RootKey::random().unwrap();
        in_force.write_new(&at("root.key")).unwrap();
        let put = |name: &str, key: Option<&RootKey>, is_old: bool| {
            match key {
                Some(key) => key.write_new(&at(name)).unwrap(),
                None => fs::write(at(name), "cut o").unwrap(),
            }
            let since = if is_old { 2 * ABANDONED } else { Duration::ZERO };
            let file = OpenOptions::new().write(true).open(at(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - since).unwrap();
        };
        let other = RootKey::random().unwrap();
        let cases = [
            ("root.key.new.0123456789abcdef.tmp", Some(&other), true, false),
            ("root.key.old.0123456789abcdef.tmp", Some(&other), true, false),
            ("root.key.0123456789abcdef.tmp", None, true, false),
            ("root.key.new.1123456789abcdef.tmp", Some(&in_force), true, true),
            ("root.key.new.2123456789abcdef.tmp", Some(&other), false, true),
            ("root.key.new", Some(&other), true, true),
            ("root.key.old", Some(&other), true, true),
            ("root.key.new.tmp", Some(&other), true, true),
            ("root.key.new.backup-of-monday.tmp", Some(&other), true, true),
            ("other.key.new.0123456789abcdef.tmp", Some(&other), true, true),
        ];
        for (name, key, is_old, _) in cases {
            put(name, key, is_old);
        }
        remove_unfinished(&at("root.key"), |key| *key == in_force);
        for (name, .., stays) in cases {
            assert_eq!(at(name).exists(), stays, "{name}");
        }
        assert!(RootKey::from_file(&at("root.key")).unwrap().key == in_force);
    }
}
