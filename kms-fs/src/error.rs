//! The errors of a local store. Each is one line that names its place.

use std::io;
use std::path::PathBuf;

/// A store or its root key could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process uses the store.
    #[error("store '{}' is in use by {}", .path.display(), holder(*.pid))]
    InUse {
        /// The store's directory.
        path: PathBuf,
        /// The process id, if the process wrote it down.
        pid: Option<u32>,
    },
    /// The directory holds no store.
    #[error("there is no key store in '{}'", .path.display())]
    NoStore {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds a store already.
    #[error("there is a key store in '{}' already", .path.display())]
    AlreadyExists {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds other files, so it does not belong to a store.
    #[error(
        "directory '{}' is not empty and holds no key store: found '{found}'; give the store a directory of its own",
        .path.display()
    )]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// One of the files.
        found: String,
    },
    /// The root key is not the one of the store.
    #[error("the root key is not that of store '{}'; nothing was read or written", .path.display())]
    WrongRootKey {
        /// The store's directory.
        path: PathBuf,
    },
    /// The store has a root of another kind: a local root key instead of a wrapper, or the other way round.
    #[error("store '{}' has {has}", .path.display())]
    OtherRoot {
        /// The store's directory.
        path: PathBuf,
        /// The root that the store has.
        has: &'static str,
    },
    /// A newer release wrote the store.
    #[error("store '{}' has format {format}, which a newer release wrote; this one knows formats up to 3", .path.display())]
    NewerFormat {
        /// The store's directory.
        path: PathBuf,
        /// The format of the store.
        format: u8,
    },
    /// The content of the directory cannot be read as a store.
    #[error("store '{}' is corrupt: {why}", .path.display())]
    Corrupt {
        /// The store's directory.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The store takes no writes, so the operation is not possible.
    #[error("store '{}' is read-only: {why}", .path.display())]
    ReadOnly {
        /// The store's directory.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The root key cannot be used.
    #[error("root key from {origin}: {why}")]
    BadRootKey {
        /// The file or the environment variable of the key.
        origin: String,
        /// What is wrong.
        why: String,
    },
    /// The operating system reported an error.
    #[error("{doing} '{}': {source}", .path.display())]
    Io {
        /// The operation.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// A function of kms-core failed.
    #[error("{}", .0.chain())]
    Internal(kms_core::Error),
}

impl OpenError {
    /// Returns whether the disk is full.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_full(source))
    }

    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }

    pub(crate) fn corrupt(path: impl Into<PathBuf>, why: impl Into<String>) -> Self {
        Self::Corrupt { path: path.into(), why: why.into() }
    }
}

/// Returns whether an error says that the disk, or a quota on it, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Names the process that uses a store, for a message.
fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl From<kms_core::Error> for OpenError {
    fn from(error: kms_core::Error) -> Self {
        Self::Internal(error)
    }
}
