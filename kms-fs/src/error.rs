//! Why a local store could not be opened, in one line that names the place.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a store or its root key could not be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has the store, with this process id if it told.
    InUse {
        /// The store's directory.
        path: PathBuf,
        /// The process.
        pid: Option<u32>,
    },
    /// There is no store in the directory.
    NoStore {
        /// The directory.
        path: PathBuf,
    },
    /// There is a store in the directory already.
    AlreadyExists {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds other files, so it does not belong to a store.
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// One of the files.
        found: String,
    },
    /// The root key is not the one that the store was made with.
    WrongRootKey {
        /// The store's directory.
        path: PathBuf,
    },
    /// The store has a root of another kind: a local root key where a wrapper was given, or the other way round.
    OtherRoot {
        /// The store's directory.
        path: PathBuf,
        /// What the store has.
        has: &'static str,
    },
    /// The store was written by a newer release.
    NewerFormat {
        /// The store's directory.
        path: PathBuf,
        /// The format that was found.
        format: u8,
    },
    /// What lies in the directory cannot be read as a store.
    Corrupt {
        /// The store's directory.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The store takes no writes, so this cannot be done.
    ReadOnly {
        /// The store's directory.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The root key cannot be taken as it is.
    BadRootKey {
        /// The file or the environment variable.
        origin: String,
        /// What is wrong.
        why: String,
    },
    /// The operating system refused.
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
    /// Something under the store failed.
    Internal(kms_core::Error),
}

impl OpenError {
    /// Tells whether the disk is full.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if crate::disk::is_full(source))
    }

    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { path, pid: Some(pid) } => {
                write!(f, "store '{}' is in use by process {pid}", path.display())
            }
            Self::InUse { path, pid: None } => {
                write!(f, "store '{}' is in use by another process", path.display())
            }
            Self::NoStore { path } => write!(f, "there is no key store in '{}'", path.display()),
            Self::AlreadyExists { path } => write!(f, "there is a key store in '{}' already", path.display()),
            Self::NotAStore { path, found } => write!(
                f,
                "directory '{}' is not empty and holds no key store: found '{found}'; give the store a directory of its own",
                path.display()
            ),
            Self::WrongRootKey { path } => write!(
                f,
                "the root key is not that of store '{}'; nothing was read or written",
                path.display()
            ),
            Self::OtherRoot { path, has } => write!(f, "store '{}' has {has}", path.display()),
            Self::NewerFormat { path, format } => write!(
                f,
                "store '{}' has format {format}, which a newer release wrote; this one knows format 2",
                path.display()
            ),
            Self::Corrupt { path, why } => write!(f, "store '{}' is corrupt: {why}", path.display()),
            Self::ReadOnly { path, why } => write!(f, "store '{}' is read-only: {why}", path.display()),
            Self::BadRootKey { origin, why } => write!(f, "root key from {origin}: {why}"),
            Self::Io { doing, path, source } => write!(f, "{doing} '{}': {source}", path.display()),
            Self::Internal(error) => write!(f, "{}", error.chain()),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<kms_core::Error> for OpenError {
    fn from(error: kms_core::Error) -> Self {
        Self::Internal(error)
    }
}
