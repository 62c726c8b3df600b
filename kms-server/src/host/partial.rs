//! A large private file that appears complete and synced, or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use kms_core::primitives::{fill_random, rename_new};

use super::files::{PRIVATE, parent};

/// A file that is being written beside its place, as `FILE.RANDOM.partial`. It is removed when it is dropped unfinished.
///
/// The name is random, so that two programs that write to one place never touch each other's file.
pub struct PartialFile {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    hash: Context,
    is_finished: bool,
}

impl PartialFile {
    /// Fails with [`io::ErrorKind::AlreadyExists`] if something is at `path`.
    pub fn refuse_existing(path: &Path) -> io::Result<()> {
        match path.symlink_metadata() {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            // Whatever else is wrong with the path is told when the file is made.
            Err(_) => Ok(()),
        }
    }

    /// Begins a file that is to be at `path`, where nothing may be yet.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::refuse_existing(path)?;
        let mut random = [0; 8];
        fill_random(&mut random).map_err(|error| io::Error::other(error.chain().to_string()))?;
        let mut name = OsString::from(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
        name.push(format!(".{}.partial", hex::encode(random)));
        let partial = path.with_file_name(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(&partial)?;
        file.set_permissions(Permissions::from_mode(PRIVATE))?;
        Ok(Self {
            path: path.to_owned(),
            partial,
            file: BufWriter::new(file),
            hash: Context::new(&SHA256),
            is_finished: false,
        })
    }

    /// Syncs the file and gives it its name. A file that has come there meanwhile is left as it is.
    ///
    /// Returns SHA-256 of what was written, in hexadecimal. Fails if the name no longer leads to the file that was written.
    pub fn finish(mut self) -> io::Result<String> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        let (written, named) = (self.file.get_ref().metadata()?, self.partial.symlink_metadata()?);
        if (written.dev(), written.ino()) != (named.dev(), named.ino()) {
            // What is there is somebody else's, so it is not removed either.
            self.is_finished = true;
            return Err(io::Error::other("another file has taken the place of what was written"));
        }
        rename_new(&self.partial, &self.path)?;
        self.is_finished = true;
        File::open(parent(&self.path))?.sync_all()?;
        Ok(hex::encode(self.hash.clone().finish()))
    }
}

impl Write for PartialFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
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
    #[test]
    fn two_that_write_to_one_place_leave_each_other_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("backup");
        let mut first = PartialFile::create(&path).unwrap();
        first.write_all(b"the first, ").unwrap();
        let mut second = PartialFile::create(&path).unwrap();
        second.write_all(b"half of the second").unwrap();
        first.write_all(b"whole").unwrap();
        first.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"the first, whole");
        assert_eq!(second.finish().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"the first, whole");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_file_that_was_exchanged_is_not_given_the_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("backup");
        let mut begun = PartialFile::create(&path).unwrap();
        begun.write_all(b"whole").unwrap();
        fs::remove_file(&begun.partial).unwrap();
        fs::write(&begun.partial, "half of another").unwrap();
        let error = begun.finish().unwrap_err();
        assert!(error.to_string().contains("another file has taken the place"), "{error}");
        assert!(!path.exists());
    }
}
