//! Small files that must be whole, private and never overwritten by mistake.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::certificate::describe_io_error;

/// The mode of a file that only its owner may read.
pub const PRIVATE: u32 = 0o600;

/// The mode of a file that everybody may read.
pub const PUBLIC: u32 = 0o644;

/// Writes a file that is not there yet; it appears whole, on the disk, or not at all.
///
/// Fails with `AlreadyExists` if there is one, which is left as it was.
pub fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    write(path, content, mode, rename_new)
}

/// Writes a file in the place of one that may be there, in one step.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    write(path, content, mode, |from, to| fs::rename(from, to))
}

/// Makes a directory, and those above it, that only its owner may enter. One that exists is left as it is.
pub fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Says which file an error is about.
pub fn failed(path: &Path, error: &io::Error) -> String {
    format!("{}: {}", path.display(), describe_io_error(error))
}

fn write(
    path: &Path,
    content: &[u8],
    mode: u32,
    publish: impl Fn(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let directory = parent(path);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = directory.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let _ = fs::remove_file(&temporary);
    let written = write_synced(&temporary, content, mode).and_then(|()| publish(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
        return written;
    }
    File::open(&directory)?.sync_all()
}

fn write_synced(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // The mode above is cut by the umask.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems have no such rename.
        Err(Errno::INVAL | Errno::NOSYS) if to.symlink_metadata().is_err() => fs::rename(from, to),
        Err(Errno::INVAL | Errno::NOSYS) => Err(io::ErrorKind::AlreadyExists.into()),
        renamed => Ok(renamed?),
    }
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_never_overwritten_unless_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write_new(&path, b"first", PRIVATE).unwrap();
        assert_eq!(write_new(&path, b"second", PRIVATE).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        replace(&path, b"third", PUBLIC).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"third");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, PUBLIC);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
