//! sled, held to a discipline under which what it acknowledges is on the disk.
//!
//! sled 0.34.7 by itself does not promise that: its `flush` ends in `sync_file_range`, which tells the disk nothing, and
//! `flush_async` deadlocks under concurrency (spacejam/sled#1308). Here one thread writes, calls the blocking
//! `flush`, and then syncs the file through a descriptor of its own.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use crate::config::FsConfig;
use crate::error::OpenError;
use crate::lock::LOCK_FILE;
use crate::root_key::{sync_directory, sync_directory_of};

const RECORDS: &str = "records";
const META: &str = "meta";
const HEADER: &str = "header";
const BALLAST_FILE: &str = "ballast";
/// What sled calls its log, and what a directory of sled's has in it.
const SLED_LOG: &str = "db";

/// An open sled database.
pub struct Engine {
    db: sled::Db,
    records: sled::Tree,
    meta: sled::Tree,
    log: File,
    path: PathBuf,
}

/// One change of a batch.
pub enum Change<'a> {
    /// Put a value where none is.
    Create(&'a str, &'a [u8]),
    /// Take a value away.
    Delete(&'a str),
}

/// Tells whether a database was ever made in `path`.
pub fn exists(path: &Path) -> bool {
    path.join(SLED_LOG).exists()
}

/// Finds a file in `path` that no store of ours put there.
pub fn foreign_file(path: &Path) -> Result<Option<String>, OpenError> {
    let entries = fs::read_dir(path).map_err(OpenError::io("read directory", path))?;
    for entry in entries {
        let name = entry.map_err(OpenError::io("read directory", path))?.file_name();
        if name != LOCK_FILE && name != BALLAST_FILE && name != "lost+found" {
            return Ok(Some(name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

impl Engine {
    /// Opens the database in `config.path`, or makes one.
    pub fn open(config: &FsConfig) -> Result<Self, OpenError> {
        let path = &config.path;
        let is_new = !exists(path);
        let sled = sled::Config::new()
            .path(path)
            .cache_capacity(config.cache_capacity)
            .flush_every_ms(None)
            .mode(sled::Mode::LowSpace);
        // sled asserts what it believes of its files; a damaged one must not end the process.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let db = sled.open()?;
            let (records, meta) = (db.open_tree(RECORDS)?, db.open_tree(META)?);
            Ok((db, records, meta))
        }));
        let (db, records, meta) = match opened {
            Ok(Ok(trees)) => trees,
            Ok(Err(sled::Error::Io(source))) => return Err(OpenError::io("open store", path)(source)),
            Ok(Err(error)) => return Err(OpenError::Corrupt { path: path.clone(), why: error.to_string() }),
            Err(_) => {
                let why = "its files are not as they were written; restore them from a backup".to_owned();
                return Err(OpenError::Corrupt { path: path.clone(), why });
            }
        };
        let log_path = path.join(SLED_LOG);
        let log = File::options().read(true).write(true).open(&log_path);
        let log = log.map_err(OpenError::io("open", log_path))?;
        let engine = Self { db, records, meta, log, path: path.clone() };
        if is_new {
            engine.sync().map_err(OpenError::io("sync new store", path))?;
            sync_directory(&path.join("blobs"))?;
            sync_directory(path)?;
            sync_directory_of(path)?;
        }
        Ok(engine)
    }

    /// Reads the header; `None` in a database that was never used.
    pub fn header(&self) -> Result<Option<Vec<u8>>, OpenError> {
        let header = self.meta.get(HEADER).map_err(|error| self.corrupt(&error))?;
        if header.is_none() && !self.records.is_empty() {
            return Err(OpenError::Corrupt {
                path: self.path.clone(),
                why: "it has entries but no header".into(),
            });
        }
        Ok(header.map(|header| header.to_vec()))
    }

    /// Replaces the header durably, if it is still `old`.
    pub fn swap_header(&self, old: Option<&[u8]>, new: &[u8]) -> Result<(), OpenError> {
        let swapped =
            self.meta.compare_and_swap(HEADER, old, Some(new)).map_err(|error| self.corrupt(&error))?;
        if swapped.is_err() {
            return Err(OpenError::Corrupt {
                path: self.path.clone(),
                why: "its header changed meanwhile".into(),
            });
        }
        self.sync().map_err(OpenError::io("sync store", &self.path))
    }

    /// Calls `visit` with every entry, in the order of names.
    pub fn for_each(&self, mut visit: impl FnMut(String, Box<[u8]>)) -> Result<(), OpenError> {
        let corrupt = |why: &str| OpenError::Corrupt { path: self.path.clone(), why: why.to_owned() };
        catch_unwind(AssertUnwindSafe(|| {
            for entry in &self.records {
                let (name, value) = entry.map_err(|error| self.corrupt(&error))?;
                let name = String::from_utf8(name.to_vec()).map_err(|_| corrupt("a name is not UTF-8"))?;
                visit(name, value.as_ref().into());
            }
            Ok(())
        }))
        .unwrap_or_else(|_| {
            Err(corrupt("its files are not as they were written; restore them from a backup"))
        })
    }

    /// Makes all changes and returns when they are on the disk.
    ///
    /// After an error nobody knows what is: the database has to be opened anew.
    pub fn commit(&self, changes: &[Change<'_>]) -> Result<(), String> {
        catch_unwind(AssertUnwindSafe(|| {
            for change in changes {
                match *change {
                    Change::Create(name, value) => {
                        let swapped = self.records.compare_and_swap(name, None::<&[u8]>, Some(value));
                        let swapped = swapped.map_err(|error| error.to_string())?;
                        swapped.map_err(|_| format!("entry '{name}' is in the database already"))?;
                    }
                    Change::Delete(name) => {
                        let removed = self.records.remove(name).map_err(|error| error.to_string())?;
                        removed.ok_or_else(|| format!("entry '{name}' is not in the database"))?;
                    }
                }
            }
            self.sync().map_err(|error| error.to_string())
        }))
        .unwrap_or_else(|_| Err("the database panicked".to_owned()))
    }

    fn sync(&self) -> std::io::Result<()> {
        self.db.flush().map_err(|error| match error {
            sled::Error::Io(source) => source,
            other => std::io::Error::other(other.to_string()),
        })?;
        self.log.sync_all()
    }

    fn corrupt(&self, error: &sled::Error) -> OpenError {
        OpenError::Corrupt { path: self.path.clone(), why: error.to_string() }
    }
}

/// Bytes on the disk that are given up when it is full, so that the database can be opened again.
pub struct Ballast {
    path: PathBuf,
    size: u64,
}

impl Ballast {
    pub fn new(config: &FsConfig) -> Self {
        Self { path: config.path.join(BALLAST_FILE), size: config.ballast }
    }

    /// Takes the space; that this succeeds is the sign that the disk has some.
    pub fn take(&self) -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        if file.metadata()?.len() >= self.size {
            return Ok(());
        }
        let taken = match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, self.size) {
            // A file system without it (some network ones): the size alone is better than nothing.
            Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(self.size),
            taken => taken.map_err(Into::into),
        };
        if taken.is_err() {
            let _ = file.set_len(0);
        }
        taken.and_then(|()| file.sync_all())
    }

    /// Gives the space back.
    pub fn give_up(&self) {
        if let Ok(file) = File::options().write(true).open(&self.path) {
            let _ = file.set_len(0);
            let _ = file.sync_all();
        }
    }
}
