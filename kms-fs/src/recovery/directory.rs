//! The content of a store's directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::database::{DATABASE, UNFINISHED};
use crate::disk::{self, BALLAST_FILE, LOCK_FILE};
use crate::error::OpenError;
use crate::journal::{JOURNAL_FILE, Journal, MARK_FILE};

/// The name of a copy of the database, which is made to be read.
pub const COPY: &str = "sled.copy";

/// The name of a whole database that waits for the name of the one that it replaces.
pub const REPAIRED: &str = "sled.repaired";

/// The beginning of the name of a database that was set aside.
pub const DAMAGED: &str = "sled.damaged-";

/// Returns whether a store was made in `path`, whatever has become of it.
///
/// A directory that cannot be read is an error.
pub fn exists(path: &Path) -> Result<bool, OpenError> {
    const PARTS: [&str; 4] = [DATABASE, JOURNAL_FILE, MARK_FILE, REPAIRED];
    let names = match names_in(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        names => names.map_err(OpenError::io("read directory", path))?,
    };
    Ok(names.iter().any(|name| PARTS.contains(&name.as_str()) || name.starts_with(DAMAGED)))
}

/// Finds a file in `path` that no store put there.
///
/// The file `root_key` does not count. It is unwise to keep it there, and a warning elsewhere says so.
pub fn foreign_file(path: &Path, root_key: Option<&Path>) -> Result<Option<String>, OpenError> {
    const OURS: [&str; 5] = [LOCK_FILE, BALLAST_FILE, UNFINISHED, "journal.new", "lost+found"];
    let root_key = root_key.and_then(|file| file.canonicalize().ok());
    let names = names_in(path).map_err(OpenError::io("read directory", path))?;
    let is_root_key = |name: &str| root_key.is_some() && path.join(name).canonicalize().ok() == root_key;
    Ok(names.into_iter().find(|name| !OURS.contains(&name.as_str()) && !is_root_key(name)))
}

/// Completes or removes what an interrupted start left behind.
pub fn clean_up(path: &Path) -> Result<(), OpenError> {
    let failed = |name: &str| OpenError::io("clean up", path.join(name));
    Journal::clean_up(path).map_err(failed("journal.new"))?;
    remove_directory(&path.join(COPY)).map_err(failed(COPY))?;
    let (repaired, database) = (path.join(REPAIRED), path.join(DATABASE));
    if is_there(&repaired).map_err(failed(REPAIRED))? {
        if is_there(&database).map_err(failed(DATABASE))? {
            // The new database has not got its name yet. The journal holds all that it holds.
            remove_directory(&repaired).map_err(failed(REPAIRED))?;
        } else {
            fs::rename(&repaired, &database).map_err(failed(REPAIRED))?;
            disk::sync_directory(path)?;
        }
    }
    Ok(())
}

/// Finds a free name for a file that is set aside now.
pub fn name_aside(path: &Path, prefix: &str) -> PathBuf {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let names = (now..).map(|time| path.join(format!("{prefix}{time}")));
    names.into_iter().find(|path| path.symlink_metadata().is_err()).unwrap_or_default()
}

pub fn names_in(path: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Returns whether something has this name. A name that cannot be looked up is an error.
fn is_there(path: &Path) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

pub fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
