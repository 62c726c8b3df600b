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
//! * What sled says of damage, and its panics, never reach an operator: they are told as what they mean.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::config::FsConfig;
use crate::disk::{self, sync_directory};
use crate::error::OpenError;
use crate::quiet::quietly;

/// The longest value: with more a node of 17 of them, sled's largest, could become a blob.
pub const MAX_VALUE_LEN: usize = 6 << 10;
/// The bytes of values that one commit may hold.
///
/// sled writes some four times as much; that has to stay below its segments of 512 KiB, so that none is freed and used
/// again between two syncs.
pub const MAX_COMMIT_LEN: usize = 96 << 10;

/// The name of the database's directory in the store's.
pub const DATABASE: &str = "sled";
/// A database that is being made.
pub const UNFINISHED: &str = "sled.new";
/// The name of sled's log in its directory.
pub const SLED_LOG: &str = "db";
const RECORDS: &str = "records";
const META: &str = "meta";
const HEADER: &str = "header";
/// The number of the last batch of the journal that is in the database.
const BATCH: &str = "batch";
/// Where sled stops if it is told to: its new snapshot has its name, and nothing yet builds on that.
const SNAPSHOT_NAMED: &str = "snap write mv post";
/// What makes sled stop holds for the whole process, so one database is opened at a time.
static OPENING: Mutex<()> = Mutex::new(());
/// How long a database that was closed may hold on to its files.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);
const DAMAGED: &str = "its database is not as it was written";

/// Entries by name; `None` where all that is known is that there is one.
pub type Entries = BTreeMap<String, Option<Box<[u8]>>>;

type Entry = (String, Option<Box<[u8]>>);

/// An open sled database.
pub struct Engine {
    trees: Trees,
    log: File,
    path: PathBuf,
}

/// One change of a batch.
#[derive(Clone, Copy)]
pub enum Change<'a> {
    /// Put a value where none is.
    Create(&'a str, &'a [u8]),
    /// Take a value away.
    Delete(&'a str),
}

/// Brings to the disk all that can be read of the database in `path`, which is not open, after a sync that failed.
pub fn write_back(path: &Path) -> io::Result<()> {
    disk::rewrite(&path.join(DATABASE).join(SLED_LOG))
}

impl Engine {
    /// Makes a database in `config.path` that holds a header and entries, under the name of one that is not finished.
    ///
    /// It is on the disk when this returns, and gets its name by a rename.
    pub fn make(
        config: &FsConfig,
        header: &[u8],
        batch: u64,
        entries: &Entries,
    ) -> Result<PathBuf, OpenError> {
        let path = &config.path;
        let unfinished = path.join(UNFINISHED);
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(OpenError::io("remove unfinished store", &unfinished))?;
        }
        let trees = Trees::open(&unfinished, config)?;
        let written = quietly(|| {
            for (name, record) in entries {
                if let Some(record) = record {
                    trees.records.insert(name, record.as_ref())?;
                }
            }
            trees.meta.insert(BATCH, &batch.to_be_bytes())?;
            trees.meta.insert(HEADER, header)?;
            trees.db.flush().map(drop)
        });
        trees.close();
        written
            .unwrap_or_else(|| Err(sled::Error::ReportableBug(String::new())))
            .map_err(|error| failed("write new store", path, error))?;
        disk::sync_tree(&unfinished).map_err(OpenError::io("sync new store", &unfinished))?;
        Ok(unfinished)
    }

    /// Opens a database in `directory` that is a copy, on which nothing depends.
    pub fn open_copy(directory: &Path, config: &FsConfig) -> Result<Self, OpenError> {
        let log_path = directory.join(SLED_LOG);
        let log = File::options().read(true).write(true).open(&log_path);
        let log = log.map_err(OpenError::io("open", &log_path))?;
        let trees = Trees::open(directory, config)?;
        Ok(Self { trees, log, path: config.path.clone() })
    }

    /// Opens the database in `config.path`.
    pub fn open(config: &FsConfig) -> Result<Self, OpenError> {
        let path = &config.path;
        let directory = path.join(DATABASE);
        let log_path = directory.join(SLED_LOG);
        refuse_other_types(&directory, path)?;
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

    /// Reads the header; `None` where there is none.
    pub fn header(&self) -> Result<Option<Vec<u8>>, OpenError> {
        Ok(self.meta(HEADER)?.map(|header| header.to_vec()))
    }

    /// Reads the number of the last batch that is in the database; `None` where that was never noted.
    pub fn batch(&self) -> Result<Option<u64>, OpenError> {
        let number = self.meta(BATCH)?.map(|bytes| bytes.as_ref().try_into().map(u64::from_be_bytes));
        number.transpose().map_err(|_| self.corrupt(DAMAGED))
    }

    /// Replaces the header durably.
    pub fn set_header(&self, header: &[u8]) -> Result<(), OpenError> {
        let set = quietly(|| self.trees.meta.insert(HEADER, header));
        set.ok_or_else(|| self.corrupt(DAMAGED))?.map_err(|error| self.failed(error))?;
        self.sync().map_err(OpenError::io("sync store", &self.path))
    }

    fn meta(&self, key: &str) -> Result<Option<sled::IVec>, OpenError> {
        let read = quietly(|| self.trees.meta.get(key)).ok_or_else(|| self.corrupt(DAMAGED))?;
        read.map_err(|error| self.failed(error))
    }

    /// Reads all entries, on all processors: reading is what makes up the time of a start.
    pub fn entries(&self) -> Result<Entries, OpenError> {
        let ends =
            quietly(|| self.trees.records.first().and_then(|first| Ok((first, self.trees.records.last()?))));
        let ends = ends.ok_or_else(|| self.corrupt(DAMAGED))?;
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
                let entries = quietly(|| self.read_piece(piece.clone()));
                read.push((number, entries.unwrap_or_else(|| Err(self.corrupt(DAMAGED)))?));
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

    /// Reads what can be read, with the number of places where it cannot.
    pub fn legible_entries(&self) -> (Entries, usize) {
        let (mut entries, mut holes) = (Entries::new(), 0);
        let mut from = Bound::Unbounded;
        loop {
            let read = quietly(|| {
                let mut last = None;
                for entry in self.trees.records.range::<Vec<u8>, _>((from.clone(), Bound::Unbounded)) {
                    let Ok((name, value)) = entry else { return (last, true) };
                    if let Ok(name) = std::str::from_utf8(&name) {
                        entries.insert(name.to_owned(), Some(value.as_ref().into()));
                    }
                    last = Some(name.to_vec());
                }
                (last, false)
            });
            let (last, failed) = read.unwrap_or((None, true));
            if !failed {
                return (entries, holes);
            }
            holes += 1;
            let last = last.or(match from {
                Bound::Included(from) | Bound::Excluded(from) => Some(from),
                Bound::Unbounded => None,
            });
            match self.next_legible(&last.unwrap_or_default()) {
                Some(next) => from = Bound::Included(next),
                None => return (entries, holes),
            }
        }
    }

    /// Finds a name after `last` from which on there is something to read.
    fn next_legible(&self, last: &[u8]) -> Option<Vec<u8>> {
        /// Longer than any name.
        const LEN: usize = 160;
        let legible = |from: &[u8]| {
            let range = (Bound::Included(from.to_vec()), Bound::Unbounded);
            let next = quietly(|| self.trees.records.range::<Vec<u8>, _>(range).next());
            matches!(next, Some(Some(Ok(_))))
        };
        let padded = |name: &[u8], with: u8| {
            let mut padded = name.to_vec();
            padded.resize(LEN, with);
            padded
        };
        // Further and further away, then back to where the damage ends.
        let steps = (0..=last.len()).rev().map(|len| padded(&last[..len], 0xff));
        let mut damaged = padded(last, 0);
        let mut good = None;
        for step in steps {
            if legible(&step) {
                good = Some(step);
                break;
            }
            damaged = step;
        }
        let mut good = good?;
        while let Some(middle) = middle(&damaged, &good) {
            if legible(&middle) { good = middle } else { damaged = middle }
        }
        Some(good)
    }

    /// Makes all changes, which are batch `batch` of the journal, and returns when they are on the disk.
    ///
    /// After an error nobody knows what is: the database has to be closed and opened anew.
    pub fn commit(&self, changes: &[Change<'_>], batch: u64) -> io::Result<()> {
        quietly(|| {
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
            // Last, so that whoever finds the number finds the batch.
            self.trees.meta.insert(BATCH, &batch.to_be_bytes()).map_err(into_io)?;
            self.sync()
        })
        .unwrap_or_else(|| Err(io::Error::other(DAMAGED)))
    }

    /// Returns the store's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whether the log still has its name.
    pub fn is_in_place(&self) -> bool {
        disk::is_same_file(&self.log, &self.path.join(DATABASE).join(SLED_LOG))
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
            read.push((name.to_owned(), Some(value.as_ref().into())));
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
        quietly(|| {
            let db = sled.open()?;
            let (records, meta) = (db.open_tree(RECORDS)?, db.open_tree(META)?);
            Ok(Self { db, records, meta })
        })
        .ok_or_else(|| OpenError::Corrupt { path: config.path.clone(), why: DAMAGED.to_owned() })
    }

    fn close(self) {
        let _ = quietly(|| drop(self));
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

/// Makes sure that there are files and directories in a database's directory, and nothing that would hang whoever opens it.
fn refuse_other_types(directory: &Path, path: &Path) -> Result<(), OpenError> {
    let failed = || OpenError::io("read directory", directory);
    for entry in fs::read_dir(directory).map_err(failed())? {
        let file = entry.map_err(failed())?.path();
        let is_good = match file.metadata() {
            // A link to nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            found => {
                let found = found.map_err(OpenError::io("look at", &file))?;
                found.is_file() || found.is_dir()
            }
        };
        if !is_good {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let why = format!("'{name}' of its database is neither a file nor a directory");
            return Err(OpenError::Corrupt { path: path.into(), why });
        }
    }
    Ok(())
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
        error => OpenError::Corrupt { path: path.into(), why: meaning(&error).to_owned() },
    }
}

fn into_io(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(source) => source,
        other => io::Error::other(meaning(&other)),
    }
}

/// Says what an error of sled's means to an operator; its own text is one for its makers.
fn meaning(error: &sled::Error) -> &'static str {
    match error {
        sled::Error::Unsupported(_) => "the settings file of its database is damaged or of another version",
        _ => DAMAGED,
    }
}

/// Returns the number in the middle, of two numbers that are as many bytes; `None` where nothing is between them.
fn middle(low: &[u8], high: &[u8]) -> Option<Vec<u8>> {
    let mut sum = vec![0_u16; low.len() + 1];
    let mut carry = 0;
    for at in (0..low.len()).rev() {
        let digits = u16::from(low[at]) + u16::from(high[at]) + carry;
        (sum[at + 1], carry) = (digits & 0xff, digits >> 8);
    }
    sum[0] = carry;
    let (mut middle, mut rest) = (Vec::with_capacity(low.len()), sum[0]);
    for digit in &sum[1..] {
        let value = (rest << 8) | digit;
        middle.push(u8::try_from(value >> 1).unwrap_or(u8::MAX));
        rest = value & 1;
    }
    (middle.as_slice() > low).then_some(middle)
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
