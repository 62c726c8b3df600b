//! The output of the audit log: a file, a pipe, or stdout.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::telemetry::lines::{self, Progress};

/// The output for lines, beside the readers of the log.
#[derive(Debug)]
pub struct Output {
    place: Place,
    /// Whether a part of a line was written and could not be taken back. Then the next line begins with a line end.
    owes_line_end: bool,
    /// Whether the last write failed. By now there may be another file at this path.
    has_failed: bool,
}

#[derive(Debug)]
enum Place {
    Nowhere,
    Stdout(File),
    /// A file, or a named pipe. It is not open while nobody reads the pipe.
    File(PathBuf, Option<File>),
}

/// The error of lines that were not completely written.
#[derive(Debug)]
pub struct Failed {
    /// The number of bytes written, which are complete lines.
    pub written: usize,
    pub error: io::Error,
}

impl Output {
    /// Returns an output that discards everything.
    pub fn nowhere() -> Self {
        Self::to(Place::Nowhere)
    }

    /// Returns the process's stdout.
    ///
    /// It bypasses the lock and the buffer of [`io::stdout`], which a stalled write would hold.
    pub fn stdout() -> io::Result<Self> {
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self::to(Place::Stdout(File::from(stdout))))
    }

    /// Opens a file, or a named pipe, which may get its reader later.
    pub fn file(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        Ok(Self::to(Place::File(path.to_owned(), file)))
    }

    fn to(place: Place) -> Self {
        Self { place, owes_line_end: false, has_failed: false }
    }

    /// Returns whether lines are kept.
    pub fn is_somewhere(&self) -> bool {
        !matches!(self.place, Place::Nowhere)
    }

    /// Opens the file again, for example after it was renamed.
    pub fn reopen(&mut self) -> io::Result<()> {
        if let Place::File(path, file) = &mut self.place {
            // If this fails, the old file stays in use.
            *file = open(path)?;
        }
        Ok(())
    }

    /// Writes all lines. On failure it returns the number of bytes written, and leaves no incomplete line if possible.
    pub fn write(&mut self, lines: &[u8]) -> Result<(), Failed> {
        if lines.is_empty() {
            return Ok(());
        }
        if std::mem::take(&mut self.has_failed)
            && let Place::File(_, file) = &mut self.place
        {
            *file = None;
        }
        let outcome = self.write_some(lines);
        self.has_failed = outcome.is_err();
        outcome
    }

    fn write_some(&mut self, bytes: &[u8]) -> Result<(), Failed> {
        let failed = |error| Failed { written: 0, error };
        let file = match &mut self.place {
            Place::Nowhere => return Ok(()),
            Place::Stdout(file) | Place::File(_, Some(file)) => file,
            Place::File(path, closed) => {
                *closed = open(path).map_err(failed)?;
                let no_reader = || io::Error::other("no process reads this pipe");
                closed.as_mut().ok_or_else(no_reader).map_err(failed)?
            }
        };
        if self.owes_line_end {
            file.write_all(b"\n").map_err(failed)?;
            self.owes_line_end = false;
        }
        let before = file.metadata().map_err(failed)?;
        let Progress { written, whole, error } = lines::write(file, bytes);
        let Some(error) = error else { return Ok(()) };
        let has_part = written != whole;
        match &mut self.place {
            // The pipe is opened again for its next reader, which gets the line from its beginning.
            Place::File(_, file) if error.kind() == io::ErrorKind::BrokenPipe => *file = None,
            Place::File(_, Some(file)) if before.is_file() && has_part => {
                self.owes_line_end = !take_back(file, before.len(), written, whole);
            }
            _ => self.owes_line_end = has_part,
        }
        Err(Failed { written: whole, error })
    }
}

/// Takes back a part of a line. Returns false if the file was changed by somebody else meanwhile.
fn take_back(file: &File, before: u64, written: usize, whole: usize) -> bool {
    let after = |count: usize| u64::try_from(count).ok().and_then(|count| before.checked_add(count));
    let now = file.metadata().map(|found| found.len()).ok();
    let is_as_left = now.is_some() && now == after(written);
    is_as_left && after(whole).is_some_and(|end| file.set_len(end).is_ok())
}

/// Opens a file for appending. Returns `None` for a named pipe without a reader, because opening it would block.
fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    let opened = File::options().create(true).append(true).mode(0o640).custom_flags(flags).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
            let is_pipe = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
            return if is_pipe { Ok(None) } else { Err(error) };
        }
        Err(error) => return Err(error),
    };
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_pipe_without_a_reader_holds_up_nobody_and_loses_no_line_of_the_next_reader() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let mut output = Output::file(&pipe).unwrap();
        let failed = output.write(b"1\n").unwrap_err();
        assert!(failed.written == 0 && failed.error.to_string().contains("no process reads"), "{failed:?}");

        let reader = File::options().read(true).write(true).open(&pipe).unwrap();
        output.write(b"1\n").unwrap();
        let mut lines = BufReader::new(reader).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "1");
        // This is more than the pipe holds. The reader leaves in the middle of a line.
        let many: Vec<u8> = (0..200).flat_map(|_| [&[b'x'; 999][..], b"\n"].concat()).collect();
        let (rest, failed) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| output.write(&many));
            std::thread::sleep(Duration::from_millis(100));
            drop(lines);
            let failed = writer.join().unwrap().unwrap_err();
            (many.len() - failed.written, failed)
        });
        assert!(rest > 0 && failed.written % 1000 == 0, "{failed:?}");
        assert!(output.write(b"2\n").is_err());
        let reader = File::options().read(true).write(true).open(&pipe).unwrap();
        output.write(b"3\n").unwrap();
        assert_eq!(BufReader::new(reader).lines().next().unwrap().unwrap(), "3");
    }

    #[test]
    fn a_file_that_was_renamed_is_left_and_a_bad_place_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("audit.log");
        let mut output = Output::file(&file).unwrap();
        output.write(b"1\n").unwrap();
        std::fs::rename(&file, directory.path().join("audit.log.1")).unwrap();
        output.reopen().unwrap();
        output.write(b"2\n").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"2\n");
        assert!(Output::file(directory.path()).is_err());
        std::fs::remove_dir_all(directory.path()).unwrap();
        assert!(output.reopen().is_err());
        output.write(b"3\n").unwrap();
        assert_eq!(Output::file(Path::new("/dev/full")).unwrap().write(b"4\n").unwrap_err().written, 0);
    }
}
