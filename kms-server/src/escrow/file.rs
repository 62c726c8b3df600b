//! The escrow file as an open file: locked, appended to, and synced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kms_core::primitives::rename_new;
use rustix::fs::{FlockOperation, OFlags, flock};

use super::contents::{CUT_OFF, Contents};
use super::line::{Line, Place, Says, VERSION};

/// How long to wait for the lock. A process that forks shares its locks with the child for a moment.
const PATIENCE: Duration = Duration::from_millis(300);

/// How much of the end is written over itself, so that it is on the disk. It is longer than what one write appends.
const TAIL: u64 = 4 << 20;

/// A batch number that no server reaches.
const IMPLAUSIBLE: u64 = 1 << 60;

/// An open escrow file, whose first `len` bytes are on the disk.
pub struct EscrowFile {
    path: PathBuf,
    file: File,
    /// The descriptor that holds the lock. `file` may be opened anew.
    lock: File,
    len: u64,
    /// Whether a write or a sync failed, so that there may be more than `len` bytes.
    has_failed: bool,
}

impl EscrowFile {
    /// Opens the file, or makes it if there is none. Returns whether it is new, too.
    pub fn open(path: &Path) -> io::Result<(Self, Contents, bool)> {
        let is_new = match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(path)?,
            found => found.map(|_| false)?,
        };
        let lock = open(path)?;
        take(&lock)?;
        let file = open(path)?;
        if file.metadata()?.len() == 0 {
            file.write_all_at(header().as_bytes(), 0)?;
            file.sync_all()?;
        }
        let contents = Contents::read(BufReader::with_capacity(1 << 20, &file), false)?;
        match contents.version.as_deref() {
            None if contents.batch == 0 => {
                return Err(io::Error::other("it is no escrow file, so nothing is written to it"));
            }
            Some(version) if version != VERSION => {
                let why = format!(
                    "it has version {version} of the format, and this program knows version {VERSION}"
                );
                return Err(io::Error::other(why));
            }
            _ => {}
        }
        if contents.batch >= IMPLAUSIBLE {
            let why = format!("it has a batch {}, which no server has written", contents.batch);
            return Err(io::Error::other(why));
        }
        settle(&file, contents.len)?;
        sync_names(path)?;
        let opened = Self { path: path.to_owned(), file, lock, len: contents.len, has_failed: false };
        if !opened.is_in_place() {
            return Err(io::Error::other("it was replaced at this moment"));
        }
        Ok((opened, contents, is_new))
    }

    fn ends_with_line(&self) -> io::Result<bool> {
        let mut last = [0];
        let Some(at) = self.len.checked_sub(1) else { return Ok(true) };
        self.file.read_exact_at(&mut last, at)?;
        Ok(last == *b"\n")
    }

    /// Returns what comes before the next line.
    pub fn line_end(&self) -> io::Result<&'static str> {
        Ok(if self.ends_with_line()? { "" } else { CUT_OFF })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends text. It is on the disk when this returns without an error.
    pub fn append(&mut self, text: &str) -> io::Result<()> {
        self.refuse_other_file()?;
        self.has_failed = true;
        self.file.write_all_at(text.as_bytes(), self.len)?;
        self.file.sync_data()?;
        self.len += text.len() as u64;
        self.has_failed = false;
        Ok(())
    }

    /// Opens the file anew after a failure, and cuts off what was not acknowledged.
    ///
    /// After a failed sync, another one proves nothing: what could not be written is read as if it were on the disk. So the
    /// end of what was acknowledged is written once more.
    pub fn recover(&mut self) -> io::Result<()> {
        self.refuse_other_file()?;
        let file = open(&self.path)?;
        if self.has_failed {
            file.set_len(self.len)?;
        }
        settle(&file, self.len)?;
        sync_names(&self.path)?;
        self.file = file;
        self.has_failed = false;
        Ok(())
    }

    fn refuse_other_file(&self) -> io::Result<()> {
        if !self.is_in_place() {
            return Err(io::Error::other("it was removed or replaced while it was open"));
        }
        let len = self.file.metadata()?.len();
        if len < self.len || (len > self.len && !self.has_failed) {
            let why = format!("another program changed it: it has {len} bytes, and should have {}", self.len);
            return Err(io::Error::other(why));
        }
        Ok(())
    }

    fn is_in_place(&self) -> bool {
        let (Ok(open), Ok(named)) = (self.lock.metadata(), fs::metadata(&self.path)) else { return false };
        (open.dev(), open.ino()) == (named.dev(), named.ino())
    }
}

/// Opens a regular file for reading and writing. A pipe or a device in its place is refused without a wait.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Makes the file so that its name never belongs to a part of its first line. Returns `false` if another process did.
fn make(path: &Path) -> io::Result<bool> {
    // Another process may be making it at this moment.
    let mut own = [0; 8];
    aws_lc_rs::rand::fill(&mut own).map_err(|_| io::Error::other("the system has no random bytes"))?;
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".new-{}", hex::encode(own)));
    let new = PathBuf::from(new);
    let made = make_by(&new, path);
    if made.is_err() || matches!(made, Ok(false)) {
        let _ = fs::remove_file(&new);
    }
    made
}

fn make_by(new: &Path, path: &Path) -> io::Result<bool> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    file.write_all(header().as_bytes())?;
    file.sync_all()?;
    // Not every file system has links, and none of them replaces a file by a link.
    let named = fs::hard_link(new, path).and_then(|()| fs::remove_file(new));
    match named.or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Err(error),
        _ => rename_new(new, path),
    }) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        named => named.map(|()| true),
    }
}

fn header() -> String {
    let mut text = String::new();
    let says = Says::Begins { version: VERSION.into() };
    Line { place: Place { batch: 1, n: 1 }, of: 1, at: Timestamp::now(), says }.push_to(&mut text);
    text
}

fn take(file: &File) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(io::Error::other("another process has it open: each server needs its own"));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes the end of a file over itself and syncs it. A process that was killed may have left there what no disk has.
fn settle(file: &File, len: u64) -> io::Result<()> {
    let from = len.saturating_sub(TAIL);
    let mut bytes = vec![0; usize::try_from(len - from).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, from)?;
    file.write_all_at(&bytes, from)?;
    file.sync_all()
}

/// Makes the name of the file durable, and as far as possible that of its directory.
fn sync_names(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if let Some(above) = directory.parent().filter(|above| !above.as_os_str().is_empty()) {
        let _ = File::open(above).and_then(|above| above.sync_all());
    }
    File::open(directory)?.sync_all()
}
