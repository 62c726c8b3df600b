//! sled, held to a discipline under which what it acknowledges is on the disk.
//!
//! sled 0.34.7 by itself does not promise that: its `flush` ends in `sync_file_range`, which tells the disk nothing, and
//! `flush_async` deadlocks under concurrency (spacejam/sled#1308). Here one thread writes, calls the blocking
//! `flush`, and then syncs the file through a descriptor of its own. Further:
//!
//! * sled's own flusher is off: it moves pages about between two syncs, and frees and reuses segments whose pages are
//!   not on the disk in their new place. Without it a batch writes less than a segment, and the file stays
//!   within some three times its live content.
//! * A database is made under another name, synced and renamed: it is there whole or not at all.
//! * Before sled is opened the log is synced. A process that was killed leaves records in the page cache, and
//!   sled writes a snapshot that refers to them. A snapshot that was not finished is removed: sled would take
//!   it for the latest one and refuse to open.
//! * sled is opened in two steps. When it has written a snapshot it removes the one before and erases segments that the new
//!   one does not need, while the name of the new one is not on the disk: after a power cut it would find no
//!   snapshot and a log with a hole, and begin an empty database. So it is stopped where the snapshot has its
//!   name, the directory is synced, and sled opened again.
//! * Values are so small that no node reaches the size from which sled keeps it in a file of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::ballast::BALLAST_FILE;
use crate::config::FsConfig;
use crate::disk::{self, sync_directory};
use crate::error::OpenError;
use crate::lock::LOCK_FILE;

/// The longest value: with more a node of 17 of them, sled's largest, could become a blob.
pub const MAX_VALUE_LEN: usize = 6 << 10;
/// The bytes of values that one commit may hold.
///
/// sled writes some four times as much; that has to stay below its segments of 512 KiB, so that none is freed and used
/// again between two syncs.
pub const MAX_COMMIT_LEN: usize = 96 << 10;

const DATABASE: &str = "sled";
const UNFINISHED: &str = "sled.new";
const SLED_LOG: &str = "db";
const RECORDS: &str = "records";
const META: &str = "meta";
const HEADER: &str = "header";
/// Where sled stops if it is told to: its new snapshot has its name, and nothing yet builds on that.
const SNAPSHOT_NAMED: &str = "snap write mv post";
/// What makes sled stop holds for the whole process, so one database is opened at a time.
static OPENING: Mutex<()> = Mutex::new(());
/// How long a database that was closed may hold on to its files.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);
const DAMAGED: &str = "its files are not as they were written; restore them from a backup";

/// Entries by name.
pub type Entries = BTreeMap<String, Box<[u8]>>;

type Entry = (String, Box<[u8]>);

/// An open sled database.
pub struct Engine {
    trees: Trees,
    log: File,
    path: PathBuf,
}

/// One change of a batch.
pub enum Change<'a> {
    /// Put a value where none is.
    Create(&'a str, &'a [u8]),
    /// Take a value away.
    Delete(&'a str),
}

/// Tells whether a database was made in `path`.
pub fn exists(path: &Path) -> bool {
    path.join(DATABASE).exists()
}

/// Finds a file in `path` that no store of ours put there.
///
/// The file `root_key`, if it lies there, is none: that is unwise, and told elsewhere.
pub fn foreign_file(path: &Path, root_key: Option<&Path>) -> Result<Option<String>, OpenError> {
    let root_key = root_key.and_then(|file| file.canonicalize().ok());
    let entries = fs::read_dir(path).map_err(OpenError::io("read directory", path))?;
    for entry in entries {
        let entry = entry.map_err(OpenError::io("read directory", path))?;
        if root_key.is_some() && entry.path().canonicalize().ok() == root_key {
            continue;
        }
        let name = entry.file_name();
        if [LOCK_FILE, BALLAST_FILE, UNFINISHED, "lost+found"].iter().all(|ours| name != *ours) {
            return Ok(Some(name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

/// Brings to the disk all that can be read of the database in `path`, which is not open, after a sync that failed.
pub fn write_back(path: &Path) -> io::Result<()> {
    disk::rewrite(&path.join(DATABASE).join(SLED_LOG))
}

impl Engine {
    /// Makes a database with nothing but a header in `config.path`, and opens it.
    pub fn create(config: &FsConfig, header: &[u8]) -> Result<Self, OpenError> {
        let path = &config.path;
        let (unfinished, finished) = (path.join(UNFINISHED), path.join(DATABASE));
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(OpenError::io("remove unfinished store", &unfinished))?;
        }
        let trees = Trees::open(&unfinished, config)?;
        let written = trees.meta.insert(HEADER, header).and_then(|_| trees.db.flush());
        written.map_err(|error| failed("write new store", path, error))?;
        trees.close();
        disk::sync_tree(&unfinished).map_err(OpenError::io("sync new store", &unfinished))?;
        fs::rename(&unfinished, &finished).map_err(OpenError::io("rename new store", &unfinished))?;
        sync_directory(path)?;
        Self::open(config)
    }

    /// Opens the database in `config.path`.
    pub fn open(config: &FsConfig) -> Result<Self, OpenError> {
        let path = &config.path;
        let directory = path.join(DATABASE);
        let log_path = directory.join(SLED_LOG);
        let log = File::options().read(true).write(true).open(&log_path);
        let log = log.map_err(OpenError::io("open", &log_path))?;
        wait_until_released(&log).map_err(OpenError::io("lock", &log_path))?;
        let sync = |log: &File| log.sync_all().map_err(OpenError::io("sync", &log_path));
        let settle = || settle_snapshots(&directory).map_err(OpenError::io("clean up", &directory));
        sync(&log)?;
        settle()?;
        let trees = if let Some(trees) = Trees::open_unless_snapshot_is_written(&directory, config)? {
            trees
        } else {
            wait_until_released(&log).map_err(OpenError::io("lock", &log_path))?;
            settle()?;
            Trees::open(&directory, config)?
        };
        sync(&log)?;
        sync_directory(&directory)?;
        Ok(Self { trees, log, path: path.clone() })
    }

    /// Reads the header.
    pub fn header(&self) -> Result<Vec<u8>, OpenError> {
        let header = self.trees.meta.get(HEADER).map_err(|error| self.failed(error))?;
        header.map(|header| header.to_vec()).ok_or_else(|| self.corrupt("it has no header"))
    }

    /// Replaces the header durably, if it is still `old`.
    pub fn swap_header(&self, old: &[u8], new: &[u8]) -> Result<(), OpenError> {
        let swapped = self.trees.meta.compare_and_swap(HEADER, Some(old), Some(new));
        swapped
            .map_err(|error| self.failed(error))?
            .map_err(|_| self.corrupt("its header changed meanwhile"))?;
        self.sync().map_err(OpenError::io("sync store", &self.path))
    }

    /// Reads all entries, on all processors: reading is what makes up the time of a start.
    pub fn entries(&self) -> Result<Entries, OpenError> {
        let ends = self.trees.records.first().and_then(|first| Ok((first, self.trees.records.last()?)));
        let (Some((first, _)), Some((last, _))) = ends.map_err(|error| self.failed(error))? else {
            return Ok(Entries::new());
        };
        let pieces = pieces(&first, &last);
        let next = AtomicUsize::new(0);
        let read = || {
            let mut read = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(piece) = pieces.get(number) else { return Ok(read) };
                read.push((number, self.read_piece(piece.clone())?));
            }
        };
        let parts: Result<Vec<Vec<_>>, OpenError> = thread::scope(|scope| {
            let threads = thread::available_parallelism().map_or(1, usize::from).min(8);
            let readers: Vec<_> = (0..threads).map(|_| scope.spawn(read)).collect();
            readers.into_iter().map(|reader| reader.join().map_err(|_| self.corrupt(DAMAGED))?).collect()
        });
        let mut parts: Vec<_> = parts?.into_iter().flatten().collect();
        // In the order of names the index is built without a comparison too many.
        parts.sort_unstable_by_key(|(number, _)| *number);
        Ok(parts.into_iter().flat_map(|(_, entries)| entries).collect())
    }

    /// Makes all changes and returns when they are on the disk.
    ///
    /// After an error nobody knows what is: the database has to be closed and opened anew.
    pub fn commit(&self, changes: &[Change<'_>]) -> io::Result<()> {
        catch_unwind(AssertUnwindSafe(|| {
            for change in changes {
                match *change {
                    Change::Create(name, value) => {
                        let swapped = self.trees.records.compare_and_swap(name, None::<&[u8]>, Some(value));
                        let swapped = swapped.map_err(into_io)?;
                        swapped.map_err(|_| {
                            io::Error::other(format!("entry '{name}' is in the database already"))
                        })?;
                    }
                    Change::Delete(name) => {
                        let removed = self.trees.records.remove(name).map_err(into_io)?;
                        removed.ok_or_else(|| {
                            io::Error::other(format!("entry '{name}' is not in the database"))
                        })?;
                    }
                }
            }
            self.sync()
        }))
        .unwrap_or_else(|_| Err(io::Error::other("the database panicked")))
    }

    /// Closes the database; after an I/O error sled may panic over it, which ends here.
    pub fn close(self) {
        self.trees.close();
    }

    fn read_piece(&self, piece: Piece) -> Result<Vec<Entry>, OpenError> {
        let mut read = Vec::new();
        for entry in self.trees.records.range::<Vec<u8>, _>(piece) {
            let (name, value) = entry.map_err(|error| self.failed(error))?;
            let name = std::str::from_utf8(&name).map_err(|_| self.corrupt("a name is not UTF-8"))?;
            read.push((name.to_owned(), value.as_ref().into()));
        }
        Ok(read)
    }

    fn sync(&self) -> io::Result<()> {
        self.trees.db.flush().map_err(into_io)?;
        self.log.sync_all()
    }

    fn failed(&self, error: sled::Error) -> OpenError {
        failed("access store", &self.path, error)
    }

    fn corrupt(&self, why: &str) -> OpenError {
        OpenError::Corrupt { path: self.path.clone(), why: why.to_owned() }
    }
}

struct Trees {
    db: sled::Db,
    records: sled::Tree,
    meta: sled::Tree,
}

impl Trees {
    fn open(directory: &Path, config: &FsConfig) -> Result<Self, OpenError> {
        let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        Self::try_open(directory, config)?.map_err(|error| failed("open store", &config.path, error))
    }

    /// Opens a database, or stops with `None` where sled has written a snapshot, if it does.
    fn open_unless_snapshot_is_written(
        directory: &Path,
        config: &FsConfig,
    ) -> Result<Option<Self>, OpenError> {
        let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        sled::fail::set(SNAPSHOT_NAMED, 1);
        let opened = Self::try_open(directory, config);
        sled::fail::reset();
        match opened? {
            Ok(trees) => Ok(Some(trees)),
            Err(sled::Error::FailPoint) => Ok(None),
            Err(error) => Err(failed("open store", &config.path, error)),
        }
    }

    fn try_open(directory: &Path, config: &FsConfig) -> Result<sled::Result<Self>, OpenError> {
        let sled = sled::Config::new()
            .path(directory)
            .cache_capacity(config.cache_capacity)
            .flush_every_ms(None)
            .mode(sled::Mode::LowSpace);
        // sled asserts what it believes of its files; a damaged one must not end the process.
        catch_unwind(AssertUnwindSafe(|| {
            let db = sled.open()?;
            let (records, meta) = (db.open_tree(RECORDS)?, db.open_tree(META)?);
            Ok(Self { db, records, meta })
        }))
        .map_err(|_| OpenError::Corrupt { path: config.path.clone(), why: DAMAGED.to_owned() })
    }

    fn close(self) {
        let _ = catch_unwind(AssertUnwindSafe(|| drop(self)));
    }
}

type Piece = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Cuts the names from `first` to `last` into ranges of about the same width, which hold all names there are.
fn pieces(first: &[u8], last: &[u8]) -> Vec<Piece> {
    const PIECES: u64 = 64;
    let common = first.iter().zip(last).take_while(|(a, b)| a == b).count();
    let number = |name: &[u8]| {
        let mut bytes = [0; 8];
        for (byte, found) in bytes.iter_mut().zip(&name[common..]) {
            *byte = *found;
        }
        u64::from_be_bytes(bytes)
    };
    let (from, to) = (number(first), number(last));
    let step = to.saturating_sub(from) / PIECES;
    let cut = |n: u64| [&first[..common], (from + step * n).to_be_bytes().as_slice()].concat();
    (0..PIECES)
        .map(|n| {
            let start = if n == 0 { Bound::Unbounded } else { Bound::Included(cut(n)) };
            let end = if n + 1 == PIECES { Bound::Unbounded } else { Bound::Excluded(cut(n + 1)) };
            (start, end)
        })
        .collect()
}

/// Waits until a database that this process closed has let go of its log, which it does a little later.
fn wait_until_released(log: &File) -> io::Result<()> {
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

/// Makes the latest snapshot durable under its name, and removes those before it and what was not finished.
fn settle_snapshots(directory: &Path) -> io::Result<()> {
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
    // Their names are numbers of sixteen digits.
    snapshots.sort();
    snapshots.pop();
    snapshots.iter().try_for_each(fs::remove_file)
}

fn failed(doing: &'static str, path: &Path, error: sled::Error) -> OpenError {
    match error {
        sled::Error::Io(source) => OpenError::io(doing, path)(source),
        error => OpenError::Corrupt { path: path.into(), why: error.to_string() },
    }
}

fn into_io(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(source) => source,
        other => io::Error::other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_in_one_piece() {
        let ends: [(&[u8], &[u8]); 5] = [
            (b"a", b"a"),
            (b"my-key-00000", b"my-key-99999"),
            (b".v/00/2", b"zz"),
            (b"a", b"ab"),
            (b"key-0123456789abcdef", b"key-0123456789abcdeg"),
        ];
        for (first, last) in ends {
            let pieces = pieces(first, last);
            for name in [b"".as_slice(), first, last, b"m", b"my-key-5", b"my-key-50000", b"\xff\xff"] {
                let holding = pieces.iter().filter(|(start, end)| {
                    let after = match start {
                        Bound::Included(start) => name >= start.as_slice(),
                        _ => true,
                    };
                    after
                        && match end {
                            Bound::Excluded(end) => name < end.as_slice(),
                            _ => true,
                        }
                });
                assert_eq!(holding.count(), 1, "{}", name.escape_ascii());
            }
        }
    }
}
