//! Opening sled, and the meaning of its errors.

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::quiet::quietly;
use crate::config::FsConfig;
use crate::error::OpenError;

const RECORDS: &str = "records";

const META: &str = "meta";

/// The failpoint of sled at which its new snapshot has its name and nothing builds on it yet.
const SNAPSHOT_NAMED: &str = "snap write mv post";

/// Lets one database be opened at a time, since a failpoint holds for the whole process.
static OPENING: Mutex<()> = Mutex::new(());

pub const DAMAGED: &str = "its database is not as it was written";

pub struct Trees {
    pub db: sled::Db,
    pub records: sled::Tree,
    pub meta: sled::Tree,
}

impl Trees {
    pub fn open(directory: &Path, config: &FsConfig) -> Result<Self, OpenError> {
        let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        Self::try_open(directory, config)?.map_err(|error| failed("open store", &config.path, error))
    }

    /// Opens a database. Returns `None` if sled stopped because it wrote a snapshot.
    pub fn open_unless_snapshot_is_written(
        directory: &Path,
        config: &FsConfig,
    ) -> Result<Option<Self>, OpenError> {
        let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        sled::fail::set(SNAPSHOT_NAMED, 1);
        let opened = Self::try_open(directory, config);
        sled::fail::reset();
        match opened? {
            Ok(trees) => Ok(Some(trees)),
            Err(sled::Error::FailPoint) => Ok(None),
            Err(error) => Err(failed("open store", &config.path, error)),
        }
    }

    fn try_open(directory: &Path, config: &FsConfig) -> Result<sled::Result<Self>, OpenError> {
        let sled = sled::Config::new()
            .path(directory)
            .cache_capacity(config.cache_capacity)
            .flush_every_ms(None)
            .mode(sled::Mode::LowSpace);
        // sled asserts what it believes about its files. A damaged file must not end the process.
        quietly(|| {
            let db = sled.open()?;
            let (records, meta) = (db.open_tree(RECORDS)?, db.open_tree(META)?);
            Ok(Self { db, records, meta })
        })
        .ok_or_else(|| OpenError::corrupt(&config.path, DAMAGED))
    }

    pub fn close(self) {
        let _ = quietly(|| drop(self));
    }
}

pub fn failed(doing: &'static str, path: &Path, error: sled::Error) -> OpenError {
    match error {
        sled::Error::Io(source) => OpenError::io(doing, path)(source),
        error => OpenError::corrupt(path, meaning(&error)),
    }
}

pub fn into_io(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(source) => source,
        other => io::Error::other(meaning(&other)),
    }
}

/// Returns what an error of sled means to an operator. Its own text is meant for its makers.
fn meaning(error: &sled::Error) -> &'static str {
    match error {
        sled::Error::Unsupported(_) => "the settings file of its database is damaged or of another version",
        _ => DAMAGED,
    }
}
