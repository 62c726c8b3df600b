//! Opening sled, and the meaning of its errors.

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::quiet::quietly;
use crate::config::FsConfig;
use crate::error::OpenError;

const RECORDS: &str = "records";

const META: &str = "meta";

/// Where sled stops if it is told to: its new snapshot has its name, and nothing yet builds on that.
const SNAPSHOT_NAMED: &str = "snap write mv post";

/// What makes sled stop holds for the whole process, so one database is opened at a time.
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

    /// Opens a database, or stops with `None` where sled has written a snapshot, if it does.
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
        // sled asserts what it believes of its files; a damaged one must not end the process.
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

/// Says what an error of sled's means to an operator; its own text is one for its makers.
fn meaning(error: &sled::Error) -> &'static str {
    match error {
        sled::Error::Unsupported(_) => "the settings file of its database is damaged or of another version",
        _ => DAMAGED,
    }
}
