//! Opens and reads files that a configuration names, without waiting for pipes or devices in their place.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::path::Path;

use zeroize::Zeroizing;

/// Opens a regular file for reading.
///
/// Anything else in its place is refused: opening a pipe would wait for a writer, and a device may do anything.
///
/// # Errors
///
/// - [`io::ErrorKind::IsADirectory`]: `path` is a directory.
/// - [`io::ErrorKind::InvalidInput`]: `path` is a pipe, a socket or a device.
/// - Any error of the operating system, such as [`io::ErrorKind::NotFound`].
pub fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt as _;
        // Without these flags, opening a pipe would wait for a writer, and a terminal could become the controlling
        // terminal of this process.
        options.custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed());
    }
    let file = options.open(path)?;
    // The metadata of the open file: another file may have the name by now.
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory, expected a file"));
    }
    if !metadata.is_file() {
        let kind = io::ErrorKind::InvalidInput;
        return Err(io::Error::new(kind, "it is a pipe, a socket or a device, expected a file"));
    }
    Ok(file)
}

/// Reads a regular file of at most `most` bytes into memory that is wiped when it is dropped.
///
/// # Errors
///
/// - [`io::ErrorKind::FileTooLarge`]: the file has more than `most` bytes.
/// - All errors of [`open_file`].
pub fn read_secret_file(path: &Path, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = open_file(path)?;
    let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    // The capacity suffices for the whole file: a vector that grows leaves a copy behind.
    let mut content = Zeroizing::new(Vec::with_capacity(len.min(most).saturating_add(32)));
    let mut rest = file.take(u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1));
    let mut part = Zeroizing::new([0; 4096]);
    loop {
        let read = match rest.read(part.as_mut_slice()) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if content.capacity() - content.len() < read {
            // The file grew after it was opened.
            let mut larger = Zeroizing::new(Vec::with_capacity(2 * content.capacity() + read));
            larger.extend_from_slice(&content);
            content = larger;
        }
        content.extend_from_slice(part.get(..read).unwrap_or_default());
    }
    if content.len() > most {
        let message = format!("it is longer than {most} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(content)
}

/// Renames a file to a name that must not be taken.
///
/// # Errors
///
/// - `AlreadyExists`: something has the name already; both files are left as they were.
/// - Any other error of the system.
#[doc(hidden)]
#[cfg(unix)]
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Some file systems have no such rename.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            renamed => return Ok(renamed?),
        }
    }
    if to.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    std::fs::rename(from, to)
}
