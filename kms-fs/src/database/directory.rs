//! The directory of a database.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::disk;
use crate::error::OpenError;

/// The name of the database's directory in the store's.
pub const DATABASE: &str = "sled";

/// A database that is being made.
pub const UNFINISHED: &str = "sled.new";

/// The name of sled's log in its directory.
pub const SLED_LOG: &str = "db";

/// How long a database that was closed may hold on to its files.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);

/// Brings to the disk all that can be read of the database in `path`, which is not open, after a sync that failed.
pub fn write_back(path: &Path) -> io::Result<()> {
    disk::rewrite(&path.join(DATABASE).join(SLED_LOG))
}

/// Makes sure that there are files and directories in a database's directory, and nothing that would hang whoever opens it.
pub fn refuse_other_types(directory: &Path, path: &Path) -> Result<(), OpenError> {
    let failed = || OpenError::io("read directory", directory);
    for entry in fs::read_dir(directory).map_err(failed())? {
        let file = entry.map_err(failed())?.path();
        let is_good = match file.metadata() {
            // A link to nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            found => {
                let found = found.map_err(OpenError::io("look at", &file))?;
                found.is_file() || found.is_dir()
            }
        };
        if !is_good {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let why = format!("'{name}' of its database is neither a file nor a directory");
            return Err(OpenError::corrupt(path, why));
        }
    }
    Ok(())
}

/// Waits until a database that this process closed has let go of its log, which it does a little later.
pub fn wait_until_released(log: &File) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match flock(log, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(flock(log, FlockOperation::Unlock)?),
            Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < RELEASE_PATIENCE => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes the latest snapshot durable under its name, and removes those before it and what was not finished.
pub fn settle_snapshots(directory: &Path) -> io::Result<()> {
    let mut snapshots = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(&path)?;
        } else if name.starts_with("snap.") {
            snapshots.push(path);
        }
    }
    disk::sync_file(directory)?;
    // Their names are numbers of sixteen digits.
    snapshots.sort();
    snapshots.pop();
    snapshots.iter().try_for_each(fs::remove_file)
}
