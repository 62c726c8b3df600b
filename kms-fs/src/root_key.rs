//! The root key of a local store: 32 bytes that live outside of it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_core::{Cipher, SealingKey, SecretKey};
use zeroize::Zeroizing;

use crate::error::OpenError;

/// Permissions under which a root key is refused: anything for others, and writing for the group.
const REFUSED_MODE: u32 = 0o027;
/// Permissions that are worth a word: reading for the group, as container platforms give it.
const NOTED_MODE: u32 = 0o040;
/// A root key's file is 44 characters of base64 and a line end; more is no root key.
const MAX_FILE_LEN: u64 = 1024;

/// The root key of a local store.
///
/// In text it is base64 of 32 random bytes. There is no `Debug`; it is wiped when dropped.
pub struct RootKey(SecretKey);

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
        Ok(Self(SecretKey::random()?))
    }

    /// Reads a root key from a file that only its owner may write and nobody but its owner and group may read.
    pub fn from_file(path: &Path) -> Result<LoadedRootKey, OpenError> {
        let file = File::open(path).map_err(OpenError::io("open root key file", path))?;
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
        let read = file.take(MAX_FILE_LEN).read_to_string(&mut text);
        read.map_err(OpenError::io("read root key file", path))?;
        let key = Self::parse(&text).map_err(|why| bad(why.into()))?;
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
        SecretKey::from_slice(&bytes[..len]).map(Self).ok_or(EXPECTED)
    }

    /// Writes the key to a new file of mode 0600, durably. A file that is there already is left as it is.
    pub fn write_new(&self, path: &Path) -> Result<(), OpenError> {
        let mut text = Zeroizing::new([0; 45]);
        let len = STANDARD.encode_slice(self.0.expose(), text.as_mut_slice()).unwrap_or_default();
        text[len] = b'\n';
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(path).map_err(OpenError::io("create root key file", path))?;
        let written = file.write_all(text.as_slice()).and_then(|()| file.sync_all());
        if let Err(error) = written {
            let _ = fs::remove_file(path);
            return Err(OpenError::io("write root key file", path)(error));
        }
        sync_directory_of(path)
    }

    pub(crate) fn sealing_key(&self) -> Result<SealingKey, OpenError> {
        let copy = SecretKey::from_slice(self.0.expose());
        let key =
            copy.ok_or_else(|| kms_core::Error::new(kms_core::ErrorKind::Internal, "copy the root key"))?;
        Ok(SealingKey::new(key, Cipher::Aes256))
    }
}

impl PartialEq for RootKey {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

/// Makes the name of a file durable.
pub fn sync_directory_of(path: &Path) -> Result<(), OpenError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    sync_directory(parent)
}

/// Makes the names in a directory durable.
pub fn sync_directory(path: &Path) -> Result<(), OpenError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(OpenError::io("sync directory", path))
}
