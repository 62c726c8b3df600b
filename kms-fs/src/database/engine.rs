//! sled, held to a discipline under which what it acknowledges is on the disk.
//!
//! sled 0.34.7 by itself does not promise that: its `flush` ends in `sync_file_range`, which tells the disk nothing, and
//! `flush_async` deadlocks under concurrency (spacejam/sled#1308). Here one thread writes, calls the blocking
//! `flush`, and then syncs the file through a descriptor of its own. Further:
//!
//! * sled's own flusher is off: it moves pages about between two syncs, and frees and reuses segments whose pages are
//!   not on the disk in their new place. Without it a batch writes less than a segment, and the file stays
//!   within some three times its live content.
//! * A database is made under another name, synced and renamed: it is there whole or not at all.
//! * Before sled is opened the log is synced. A process that was killed leaves records in the page cache, and
//!   sled writes a snapshot that refers to them. A snapshot that was not finished is removed: sled would take
//!   it for the latest one and refuse to open.
//! * sled is opened in two steps. When it has written a snapshot it removes the one before and erases segments that the new
//!   one does not need, while the name of the new one is not on the disk: after a power cut it would find no
//!   snapshot and a log with a hole, and begin an empty database. So it is stopped where the snapshot has its
//!   name, the directory is synced, and sled opened again.
//! * Values are so small that no node reaches the size from which sled keeps it in a file of its own.
//! * What sled says of damage, and its panics, never reach an operator: they are told as what they mean.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::directory::{
    DATABASE, SLED_LOG, UNFINISHED, refuse_other_types, settle_snapshots, wait_until_released,
};
use super::quiet::quietly;
use super::read;
use super::trees::{DAMAGED, Trees, failed, into_io};
use crate::config::FsConfig;
use crate::disk::{self, sync_directory};
use crate::entries::{Change, Entries};
use crate::error::OpenError;

/// The longest value: with more a node of 17 of them, sled's largest, could become a blob.
pub const MAX_VALUE_LEN: usize = 6 << 10;

/// The bytes of values that one commit may hold.
///
/// sled writes some four times as much; that has to stay below its segments of 512 KiB, so that none is freed and used
/// again between two syncs.
pub const MAX_COMMIT_LEN: usize = 96 << 10;

const HEADER: &str = "header";

/// The number of the last batch of the journal that is in the database.
const BATCH: &str = "batch";

/// An open sled database.
pub struct Engine {
    trees: Trees,
    log: File,
    path: PathBuf,
}

impl Engine {
    /// Makes a database in `config.path` that holds a header and entries, under the name of one that is not finished.
    ///
    /// It is on the disk when this returns, and gets its name by a rename.
    pub fn make(
        config: &FsConfig,
        header: &[u8],
        batch: u64,
        entries: &Entries,
    ) -> Result<PathBuf, OpenError> {
        let path = &config.path;
        let unfinished = path.join(UNFINISHED);
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(OpenError::io("remove unfinished store", &unfinished))?;
        }
        let trees = Trees::open(&unfinished, config)?;
        let written = quietly(|| {
            for (name, record) in entries {
                if let Some(record) = record {
                    trees.records.insert(name, record.as_ref())?;
                }
            }
            trees.meta.insert(BATCH, &batch.to_be_bytes())?;
            trees.meta.insert(HEADER, header)?;
            trees.db.flush().map(drop)
        });
        trees.close();
        written
            .unwrap_or_else(|| Err(sled::Error::ReportableBug(String::new())))
            .map_err(|error| failed("write new store", path, error))?;
        disk::sync_tree(&unfinished).map_err(OpenError::io("sync new store", &unfinished))?;
        Ok(unfinished)
    }

    /// Opens a database in `directory` that is a copy, on which nothing depends.
    pub fn open_copy(directory: &Path, config: &FsConfig) -> Result<Self, OpenError> {
        let log_path = directory.join(SLED_LOG);
        let log = File::options().read(true).write(true).open(&log_path);
        let log = log.map_err(OpenError::io("open", &log_path))?;
        let trees = Trees::open(directory, config)?;
        Ok(Self { trees, log, path: config.path.clone() })
    }

    /// Opens the database in `config.path`.
    pub fn open(config: &FsConfig) -> Result<Self, OpenError> {
        let path = &config.path;
        let directory = path.join(DATABASE);
        let log_path = directory.join(SLED_LOG);
        refuse_other_types(&directory, path)?;
        let log = File::options().read(true).write(true).open(&log_path);
        let log = log.map_err(OpenError::io("open", &log_path))?;
        wait_until_released(&log).map_err(OpenError::io("lock", &log_path))?;
        let sync = |log: &File| log.sync_all().map_err(OpenError::io("sync", &log_path));
        let settle = || settle_snapshots(&directory).map_err(OpenError::io("clean up", &directory));
        sync(&log)?;
        settle()?;
        let trees = if let Some(trees) = Trees::open_unless_snapshot_is_written(&directory, config)? {
            trees
        } else {
            wait_until_released(&log).map_err(OpenError::io("lock", &log_path))?;
            settle()?;
            Trees::open(&directory, config)?
        };
        sync(&log)?;
        sync_directory(&directory)?;
        Ok(Self { trees, log, path: path.clone() })
    }

    /// Reads the header; `None` where there is none.
    pub fn header(&self) -> Result<Option<Vec<u8>>, OpenError> {
        Ok(self.meta(HEADER)?.map(|header| header.to_vec()))
    }

    /// Reads the number of the last batch that is in the database; `None` where that was never noted.
    pub fn batch(&self) -> Result<Option<u64>, OpenError> {
        let number = self.meta(BATCH)?.map(|bytes| bytes.as_ref().try_into().map(u64::from_be_bytes));
        number.transpose().map_err(|_| self.corrupt(DAMAGED))
    }

    /// Replaces the header durably.
    pub fn set_header(&self, header: &[u8]) -> Result<(), OpenError> {
        let set = quietly(|| self.trees.meta.insert(HEADER, header));
        set.ok_or_else(|| self.corrupt(DAMAGED))?.map_err(|error| self.failed(error))?;
        self.sync().map_err(OpenError::io("sync store", &self.path))
    }

    fn meta(&self, key: &str) -> Result<Option<sled::IVec>, OpenError> {
        let read = quietly(|| self.trees.meta.get(key)).ok_or_else(|| self.corrupt(DAMAGED))?;
        read.map_err(|error| self.failed(error))
    }

    /// Reads all entries.
    pub fn entries(&self) -> Result<Entries, OpenError> {
        read::entries(&self.trees.records, &self.path)
    }

    /// Reads what can be read, with the number of places where it cannot.
    pub fn legible_entries(&self) -> (Entries, usize) {
        read::legible_entries(&self.trees.records)
    }

    /// Makes all changes, which are batch `batch` of the journal, and returns when they are on the disk.
    ///
    /// After an error nobody knows what is: the database has to be closed and opened anew.
    pub fn commit(&self, changes: &[Change<'_>], batch: u64) -> io::Result<()> {
        quietly(|| {
            for change in changes {
                match *change {
                    Change::Create(name, value) => {
                        let swapped = self.trees.records.compare_and_swap(name, None::<&[u8]>, Some(value));
                        let swapped = swapped.map_err(into_io)?;
                        swapped.map_err(|_| {
                            io::Error::other(format!("entry '{name}' is in the database already"))
                        })?;
                    }
                    Change::Delete(name) => {
                        let removed = self.trees.records.remove(name).map_err(into_io)?;
                        removed.ok_or_else(|| {
                            io::Error::other(format!("entry '{name}' is not in the database"))
                        })?;
                    }
                }
            }
            // Last, so that whoever finds the number finds the batch.
            self.trees.meta.insert(BATCH, &batch.to_be_bytes()).map_err(into_io)?;
            self.sync()
        })
        .unwrap_or_else(|| Err(io::Error::other(DAMAGED)))
    }

    /// Returns the store's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whether the log still has its name.
    pub fn is_in_place(&self) -> bool {
        disk::is_same_file(&self.log, &self.path.join(DATABASE).join(SLED_LOG))
    }

    /// Closes the database; after an I/O error sled may panic over it, which ends here.
    pub fn close(self) {
        self.trees.close();
    }

    fn sync(&self) -> io::Result<()> {
        self.trees.db.flush().map_err(into_io)?;
        self.log.sync_all()
    }

    fn failed(&self, error: sled::Error) -> OpenError {
        failed("access store", &self.path, error)
    }

    fn corrupt(&self, why: &str) -> OpenError {
        OpenError::corrupt(&self.path, why)
    }
}
