//! Where a store lies and how much it may take.

use std::path::{Path, PathBuf};

/// Configuration of a local store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsConfig {
    /// The directory, which belongs to the store alone.
    pub path: PathBuf,
    /// Bytes of memory for sled's pages. All records are in memory anyway (some 400 bytes a key), so sled needs
    /// little.
    pub cache_capacity: u64,
    /// Bytes set aside on the disk, so that the store can be opened when it is full. After a full disk writes
    /// go on when there is as much again.
    pub ballast: u64,
}

impl FsConfig {
    /// Describes a store in the directory `path`, with 8 MiB of pages and 4 MiB of ballast.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned(), cache_capacity: 8 << 20, ballast: 4 << 20 }
    }
}

/// What to do about a store that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Open the store, or make one in a directory that is absent or empty.
    CreateOrOpen,
    /// Open the store; it is an error that there is none.
    Existing,
    /// Make a store; it is an error that there is one.
    Create,
    /// Read what can be read of a store, and write nothing to it.
    Salvage,
}
