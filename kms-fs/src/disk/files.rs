//! Durable writes: what a file system needs to be told so that it keeps what it was given.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::error::OpenError;

/// Makes the name of a file durable.
pub fn sync_directory_of(path: &Path) -> Result<(), OpenError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    sync_directory(parent)
}

/// Makes the names in a directory durable.
pub fn sync_directory(path: &Path) -> Result<(), OpenError> {
    sync_file(path).map_err(OpenError::io("sync directory", path))
}

/// Creates a directory and its missing parents durably, for the owner only.
///
/// A process that was killed may have made the last of those that are there, and not synced its name. So that
/// name is synced too, as far as this process may read the directory that it is in.
pub fn create_directories(path: &Path) -> Result<(), OpenError> {
    let mut missing: Vec<&Path> =
        path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    if let Some(there) = path.ancestors().nth(missing.len()).filter(|path| path.file_name().is_some()) {
        let _ = sync_directory_of(there);
    }
    // Each name is durable before the next one is made, so a kill leaves one at most that is not.
    missing.reverse();
    let make = |path: &Path| {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(OpenError::io("create directory", path))
    };
    missing.into_iter().try_for_each(|path| make(path).and_then(|()| sync_directory_of(path)))?;
    make(path)
}

/// Makes a directory with all its content durable.
pub fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            sync_file(&entry.path())?;
        }
    }
    sync_file(path)
}

/// Makes the content of a file, or the names in a directory, durable.
pub fn sync_file(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes a file over itself and syncs it, so that everything that can be read from it is on the disk.
///
/// After a failed fsync, a second one proves nothing. Linux reports the error once and marks the pages as
/// clean: they are read as they were written, but never reach the disk.
pub fn rewrite(path: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        let len = file.read_at(&mut buffer, offset)?;
        if len == 0 {
            return file.sync_all();
        }
        file.write_all_at(&buffer[..len], offset)?;
        offset += len as u64;
    }
}

/// Reads a regular file. Returns `None` where there is none.
///
/// Refuses everything else, and a link without a target: its target may be on a volume that is not mounted.
pub fn read_regular(path: &Path) -> io::Result<Option<Vec<u8>>> {
    if refuse_other_types(path)? { fs::read(path).map(Some) } else { Ok(None) }
}

/// Checks that a name belongs to a regular file or to nothing.
///
/// Anybody who opened a pipe would wait for its other end. Returns whether there is a file.
pub fn refuse_other_types(path: &Path) -> io::Result<bool> {
    let named = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        named => named?,
    };
    let found = match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_symlink() => {
            let target = fs::read_link(path)?;
            return Err(io::Error::other(format!(
                "it is a link to '{}', which is not there",
                target.display()
            )));
        }
        found => found?,
    };
    if found.is_file() { Ok(true) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Copies the content of a file, and syncs the copy.
pub fn copy_file(source: &File, to: &Path) -> io::Result<()> {
    let mut options = File::options();
    let target = options.write(true).create(true).truncate(true).mode(0o600).open(to)?;
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        let len = source.read_at(&mut buffer, offset)?;
        if len == 0 {
            return target.sync_all();
        }
        target.write_all_at(&buffer[..len], offset)?;
        offset += len as u64;
    }
}

/// Returns whether `path` names the open file.
pub fn is_same_file(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), fs::metadata(path)) else { return false };
    (open.dev(), open.ino()) == (named.dev(), named.ino())
}
