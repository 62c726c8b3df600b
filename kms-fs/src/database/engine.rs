//! An open database.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::directory::{
    DATABASE, SLED_LOG, UNFINISHED, refuse_other_types, settle_snapshots, wait_until_released,
};
use super::quiet::quietly;
use super::trees::{DAMAGED, Trees, failed, into_io};
use super::{compare, read};
use crate::config::FsConfig;
use crate::disk::{self, sync_directory};
use crate::entries::{Change, Entries};
use crate::error::OpenError;

/// The longest value. If values were longer, a node of 17 of them, sled's largest, could become a blob.
pub const MAX_VALUE_LEN: usize = 6 << 10;

/// The bytes of values that one commit may hold.
///
/// sled writes some four times as much. That has to stay below its segments of 512 KiB, so that none is freed
/// and used again between two syncs.
pub const MAX_COMMIT_LEN: usize = 96 << 10;

const HEADER: &str = "header";

/// The key of the number of the last batch of the journal that is in the database.
const BATCH: &str = "batch";

/// An open sled database.
pub struct Engine {
    trees: Trees,
    log: File,
    path: PathBuf,
}

impl Engine {
    /// Makes a database with a header and entries in `config.path`, under the name of an unfinished one.
    ///
    /// When this returns, the database is on the disk. Its final name comes by a rename.
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
            for (name, record) in entries.iter() {
                if let Some(record) = record {
                    trees.records.insert(name, record)?;
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

    /// Opens a copy of a database in `directory`. Nothing depends on the copy.
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
        // A process that was killed may have given the database or the journal its name, and not synced that.
        sync_directory(path)?;
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

    /// Reads the header. Returns `None` where there is none.
    pub fn header(&self) -> Result<Option<Vec<u8>>, OpenError> {
        Ok(self.meta(HEADER)?.map(|header| header.to_vec()))
    }

    /// Reads the number of the last batch that is in the database. Returns `None` where it was never noted.
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

    /// Returns whether the database holds exactly those of `entries` whose values are not lost.
    ///
    /// On all processors, if it `is_urgent`; otherwise on this thread.
    pub fn holds(&self, entries: &Entries, is_urgent: bool) -> Result<bool, OpenError> {
        compare::holds(&self.trees.records, entries, is_urgent, &self.path)
    }

    /// Reads the legible entries. Also returns the number of places that cannot be read.
    pub fn legible_entries(&self) -> (Entries, usize) {
        read::legible_entries(&self.trees.records)
    }

    /// Makes all changes, which are batch `batch` of the journal. They are on the disk when this returns.
    ///
    /// After an error nobody knows what is on the disk, so the database has to be closed and opened anew.
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
                    Change::Replace(name, value) => {
                        let before = self.trees.records.insert(name, value).map_err(into_io)?;
                        before.ok_or_else(|| {
                            io::Error::other(format!("entry '{name}' is not in the database"))
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
            // The number comes last, so that whoever finds it finds the whole batch.
            self.trees.meta.insert(BATCH, &batch.to_be_bytes()).map_err(into_io)?;
            self.sync()
        })
        .unwrap_or_else(|| Err(io::Error::other(DAMAGED)))
    }

    /// Closes the database, and opens it again without the pages that it has read.
    ///
    /// Whatever its capacity, sled keeps each page until 64 pages were read in the same one of 256 groups. With less than
    /// some 200,000 entries that is every page.
    pub fn reopen(self, config: &FsConfig) -> Result<Self, OpenError> {
        self.close();
        Self::open(config)
    }

    /// Returns the store's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the log still has its name.
    pub fn is_in_place(&self) -> bool {
        disk::is_same_file(&self.log, &self.path.join(DATABASE).join(SLED_LOG))
    }

    /// Closes the database. sled may panic here after an I/O error; the panic ends here.
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
