//! A large private file that appears complete and synced, or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use kms_core::primitives::rename_new;

use super::files::{PRIVATE, parent};

/// A file that is being written beside its place, as `FILE.partial`. It is removed when it is dropped unfinished.
pub struct PartialFile {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    is_finished: bool,
}

impl PartialFile {
    /// Begins a file that is to be at `path`, where nothing may be yet. What an earlier run left unfinished is replaced.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut name = OsString::from(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
        if path.symlink_metadata().is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        name.push(".partial");
        let partial = path.with_file_name(name);
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(&partial)?;
        file.set_permissions(Permissions::from_mode(PRIVATE))?;
        Ok(Self { path: path.to_owned(), partial, file: BufWriter::new(file), is_finished: false })
    }

    /// Syncs the file and gives it its name. A file that has come there meanwhile is left as it is.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        rename_new(&self.partial, &self.path)?;
        self.is_finished = true;
        File::open(parent(&self.path))?.sync_all()
    }
}

impl Write for PartialFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = fs::remove_file(&self.partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_when_it_is_finished_and_never_takes_anothers_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("backup");
        let names = || fs::read_dir(directory.path()).unwrap().count();
        fs::write(directory.path().join("backup.partial"), "of a run that was killed").unwrap();
        let mut begun = PartialFile::create(&path).unwrap();
        begun.write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(begun);
        assert_eq!(names(), 0, "nothing is left of what was given up");

        let mut begun = PartialFile::create(&path).unwrap();
        begun.write_all(b"whole").unwrap();
        begun.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(PartialFile::create(&path).err().unwrap().kind(), io::ErrorKind::AlreadyExists);

        let other = directory.path().join("other");
        let begun = PartialFile::create(&other).unwrap();
        fs::write(&other, "of somebody else").unwrap();
        assert_eq!(begun.finish().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&other).unwrap(), b"of somebody else");
        assert_eq!(names(), 2);
    }
}
