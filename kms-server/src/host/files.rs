//! Small files that must be complete and private, and that must not be overwritten by mistake.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use kms_core::primitives::rename_new;
use kms_trust::describe_io_error;

use super::shell::shell_quote;

/// The mode of a file that only its owner may read.
pub const PRIVATE: u32 = 0o600;

/// The mode of a file that only its owner and its group may read.
pub const FOR_GROUP: u32 = 0o640;

/// The mode of a file that everybody may read.
pub const PUBLIC: u32 = 0o644;

/// Writes a new file. The file appears complete and synced, or not at all.
///
/// Fails with `AlreadyExists` if the file exists, and leaves that file as it is.
pub fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    write(path, content, mode, rename_new)
}

/// Writes a file atomically. An existing file is replaced.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    write(path, content, mode, |from, to| fs::rename(from, to))
}

/// Writes to an existing file, or creates one.
///
/// A link is followed. Devices, pipes, mounted files and files with several names keep what they are and get the new
/// content. Any other file is replaced atomically.
pub fn overwrite(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let is_own_file = |found: fs::Metadata| found.is_file() && found.nlink() == 1;
    if path.metadata().is_ok_and(is_own_file) {
        match replace(&path.canonicalize()?, content, mode) {
            // It is mounted, or its directory belongs to somebody else.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ResourceBusy
                        | io::ErrorKind::PermissionDenied
                        | io::ErrorKind::ReadOnlyFilesystem
                        | io::ErrorKind::CrossesDevices
                ) => {}
            replaced => return replaced,
        }
    }
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    if file.metadata()?.is_file() {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    file.write_all(content)?;
    match file.sync_all() {
        // Devices and pipes have nothing to sync.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

/// Creates a directory and its parents, which only their owner may enter. An existing directory is left as it is.
pub fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Creates a directory and its parents, which everybody may enter. An existing directory is left as it is.
pub fn public_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    // The umask has reduced the mode above.
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

/// Who may read a file that others must not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Its owner alone.
    Owner,
    /// Everybody.
    All,
}

/// Refuses a file that others can change, or that others can read although it is for its owner alone.
///
/// A file that belongs to another user than this process's or root is refused too. A missing file is accepted. The error
/// is one line that names the file, says what is wrong and how to mend it.
pub fn refuse_exposed(path: &Path, readers: Readers) -> Result<(), String> {
    let found = match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|error| failed(path, &error))?,
    };
    let (owner, user) = (found.uid(), rustix::process::geteuid().as_raw());
    let (mode, name, quoted) = (found.mode() & 0o777, path.display(), shell_quote(path));
    if owner != user && owner != 0 {
        return Err(format!(
            "{name}: it belongs to the user {owner}, who can change it; run: chown {user} {quoted}"
        ));
    }
    let (refused, what, change) = match readers {
        Readers::Owner => (0o077, "read or write", "go="),
        Readers::All => (0o022, "write", "go-w"),
    };
    if mode & refused == 0 {
        return Ok(());
    }
    Err(format!("{name}: its mode {mode:04o} lets others {what} it; run: chmod {change} {quoted}"))
}

/// Returns the error as a line that names the file.
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
    // The umask has reduced the mode above.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

/// Returns the directory of a file.
pub fn parent(path: &Path) -> PathBuf {
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

    #[test]
    fn what_is_overwritten_stays_what_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("file"), "old").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        std::os::unix::fs::symlink(at("new"), at("dangling")).unwrap();
        std::os::unix::fs::symlink("/dev/null", at("null")).unwrap();
        for (name, told) in [("link", "file"), ("dangling", "new"), ("fresh", "fresh")] {
            overwrite(&at(name), name.as_bytes(), PRIVATE).unwrap();
            assert_eq!(fs::read(at(told)).unwrap(), name.as_bytes());
            assert_eq!(fs::metadata(at(told)).unwrap().permissions().mode() & 0o777, PRIVATE);
        }
        fs::hard_link(at("file"), at("other name")).unwrap();
        overwrite(&at("file"), b"both", PUBLIC).unwrap();
        assert_eq!(fs::read(at("other name")).unwrap(), b"both");
        overwrite(&at("null"), b"nothing", PRIVATE).unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        for link in ["link", "dangling", "null"] {
            assert!(at(link).symlink_metadata().unwrap().is_symlink(), "{link}");
        }
    }

    #[test]
    fn what_is_open_to_others_is_refused_and_the_line_says_how_to_close_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        assert_eq!(refuse_exposed(&path, Readers::Owner), Ok(()), "it is not there");
        fs::write(&path, "").unwrap();
        for (mode, owner, all) in [
            (0o600, true, true),
            (0o400, true, true),
            (0o640, false, true),
            (0o604, false, true),
            (0o620, false, false),
        ] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(refuse_exposed(&path, Readers::Owner).is_ok(), owner, "{mode:o}");
            assert_eq!(refuse_exposed(&path, Readers::All).is_ok(), all, "{mode:o}");
        }
        let told = refuse_exposed(&path, Readers::Owner).unwrap_err();
        assert!(told.contains("mode 0620") && told.contains("chmod go= "), "{told}");
    }

    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        let (fifo, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, fifo, mode, 0).unwrap();
        for other in [pipe.as_path(), directory.path(), Path::new("/dev/zero")] {
            let error = kms_core::primitives::open_file(other).unwrap_err();
            assert!(error.to_string().contains("expected a file"), "{error}");
        }
        let missing = kms_core::primitives::open_file(&directory.path().join("none"));
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_secret_is_read_whole_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        for len in [0, 1, 4095, 4096, 4097, 10_000] {
            let content: Vec<u8> = (0..len).map(|n: u32| n.to_le_bytes()[0]).collect();
            fs::write(&file, &content).unwrap();
            assert_eq!(*kms_core::primitives::read_secret_file(&file, 10_000).unwrap(), content);
        }
        assert!(kms_core::primitives::read_secret_file(&file, 9_999).is_err());
        // This file reports a length of zero.
        assert!(
            !kms_core::primitives::read_secret_file(Path::new("/proc/self/status"), 1 << 20)
                .unwrap()
                .is_empty()
        );
    }
}
