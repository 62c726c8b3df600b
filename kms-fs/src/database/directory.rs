//! The directory of the sled database.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::disk;
use crate::error::OpenError;

/// The name of the database's directory in the store's directory.
pub const DATABASE: &str = "sled";

/// The name of a database that is being made.
pub const UNFINISHED: &str = "sled.new";

/// The name of sled's log in the directory of a database.
pub const SLED_LOG: &str = "db";

/// How long a closed database may hold on to its files.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);

/// Brings everything that can be read of the closed database in `path` to the disk, after a failed sync.
pub fn write_back(path: &Path) -> io::Result<()> {
    disk::rewrite(&path.join(DATABASE).join(SLED_LOG))
}

/// Checks that a database's directory holds only files and directories.
///
/// Anybody who opened a pipe would wait for ever.
pub fn refuse_other_types(directory: &Path, path: &Path) -> Result<(), OpenError> {
    let failed = || OpenError::io("read directory", directory);
    for entry in fs::read_dir(directory).map_err(failed())? {
        let file = entry.map_err(failed())?.path();
        let is_good = match file.metadata() {
            // A link without a target.
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

/// Waits until a database that this process closed has released its log. sled does that a little later.
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

/// Makes the name of the latest snapshot durable. Removes earlier and unfinished snapshots.
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
    // Their names are numbers of sixteen digits, so they sort by age.
    snapshots.sort();
    snapshots.pop();
    snapshots.iter().try_for_each(fs::remove_file)
}
