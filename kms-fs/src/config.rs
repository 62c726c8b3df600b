//! The settings of a store.

use std::path::{Path, PathBuf};

/// The configuration of a local store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsConfig {
    /// The directory of the store. It must hold nothing else.
    pub path: PathBuf,
    /// Bytes of memory for sled's pages.
    ///
    /// sled needs little, since all records are in memory anyway (a record and some ten bytes a key).
    pub cache_capacity: u64,
    /// Bytes that are reserved on the disk, so that the store can be opened when the disk is full.
    ///
    /// After the disk was full, the store takes writes again when as many bytes are free as well.
    pub ballast: u64,
    /// The least number of keys with which a store may be served before its database was compared with its journal.
    ///
    /// Then the two are compared afterwards, and what a start would have repaired is repaired and logged. Meanwhile a
    /// record that the journal has is served; writes, listings and reads of other names wait. This holds only where the
    /// journal is whole and ends with the batch that mark and database name.
    pub compare_later: usize,
}

impl FsConfig {
    /// Creates the configuration of a store in `path`, with 8 MiB of pages and 4 MiB of ballast. It is always compared
    /// first.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            cache_capacity: 8 << 20,
            ballast: 4 << 20,
            compare_later: usize::MAX,
        }
    }
}

/// What to do when there is a store, or when there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Open the store. Create one if the directory is absent or empty.
    CreateOrOpen,
    /// Open the store. Fail if there is none.
    Existing,
    /// Create a store. Fail if there is one.
    Create,
    /// Read as much of a store as can be read, and write nothing to it.
    Salvage,
}
