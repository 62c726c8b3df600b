//! The root key of a local store: 32 bytes that rest outside of it.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_core::primitives::{Cipher, SealingKey, SecretKey, rename_new};
use kms_core::roots::{LocalRoot, Root};
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::disk::sync_directory_of;
use crate::error::OpenError;

/// The permissions that a root key's file must not have: any for others, and writing for the group.
const REFUSED_MODE: u32 = 0o027;

/// The permissions that cause a warning: reading for the group, as container platforms grant it.
const NOTED_MODE: u32 = 0o040;

/// The largest file of a root key. 44 characters of base64 and a line end are all that it holds.
pub const MAX_FILE_LEN: usize = 1024;

/// The root key of a local store.
///
/// Its text is base64 of 32 random bytes. It has no `Debug`, and it is wiped when dropped.
pub struct RootKey {
    key: SecretKey,
    /// The file that the key was read from.
    file: Option<PathBuf>,
}

/// A root key, and warnings about the place that it was read from.
#[non_exhaustive]
pub struct LoadedRootKey {
    /// The key.
    pub key: RootKey,
    /// The warnings for an operator, a sentence each.
    pub warnings: Vec<String>,
}

impl RootKey {
    /// Creates a random root key.
    ///
    /// # Errors
    ///
    /// - [`OpenError::Internal`]: the system's random generator fails.
    pub fn random() -> Result<Self, OpenError> {
        Ok(Self { key: SecretKey::random()?, file: None })
    }

    /// Reads a root key from a file.
    ///
    /// Only its owner may write the file, and only its owner and its group may read it.
    ///
    /// # Errors
    ///
    /// - [`OpenError::BadRootKey`]: it is no regular file, its mode opens it to others, or it holds no root
    ///   key.
    /// - [`OpenError::Io`]: the file cannot be read.
    pub fn from_file(path: &Path) -> Result<LoadedRootKey, OpenError> {
        let mut options = OpenOptions::new();
        // Without this flag, opening a pipe would wait for its writer.
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
    ///
    /// # Errors
    ///
    /// - [`OpenError::BadRootKey`]: the variable is not set, or holds no root key.
    pub fn from_env(name: &str) -> Result<LoadedRootKey, OpenError> {
        let bad = |why: &str| OpenError::BadRootKey {
            origin: format!("environment variable {name}"),
            why: why.into(),
        };
        let text = std::env::var(name).map(Zeroizing::new).map_err(|_| bad("it is not set"))?;
        let key = Self::parse(&text).map_err(bad)?;
        Ok(LoadedRootKey { key, warnings: Vec::new() })
    }

    /// Reads base64 of 32 bytes. White space around it does not matter.
    ///
    /// # Errors
    ///
    /// The text says what was expected. It never quotes what was found.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "expected base64 of 32 bytes, as `kms init` writes it";
        let mut bytes = Zeroizing::new([0; 48]);
        let len = STANDARD.decode_slice(text.trim(), bytes.as_mut_slice()).map_err(|_| EXPECTED)?;
        let key = SecretKey::from_slice(&bytes[..len]).ok_or(EXPECTED)?;
        Ok(Self { key, file: None })
    }

    /// Writes the key durably to a new file of mode 0600. The file appears whole or not at all.
    ///
    /// # Errors
    ///
    /// - [`OpenError::Io`]: the file exists already and is left as it is, or it cannot be written.
    /// - [`OpenError::Internal`]: the system's random generator fails.
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
        // A process id would not do: processes in containers that share a directory may all have the same one.
        let mut random = [0_u8; 8];
        kms_core::primitives::fill_random(&mut random)?;
        let temporary = with_suffix(path, &format!(".{:016x}.tmp", u64::from_be_bytes(random)));
        let written = write_private(&temporary, text.as_slice()).and_then(|()| rename_new(&temporary, path));
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary);
            return Err(OpenError::io("write root key file", path)(error));
        }
        sync_directory_of(path)
    }

    /// Returns the key as a root of a store, with the id `local-<fingerprint>`.
    ///
    /// # Errors
    ///
    /// - [`OpenError::Internal`]: the key cannot be copied.
    pub fn to_root(&self) -> Result<Root, OpenError> {
        let root = LocalRoot::new(self.sealing_key()?);
        Ok(Root::new(root.id(), Arc::new(root)))
    }

    /// Returns the file that the key was read from.
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

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Appends `suffix` to the name of a file.
pub fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
