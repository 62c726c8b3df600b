//! The file of a journal: writing it anew, appending to it, and taking a batch back.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::line::{Head, NOBODY, Says, push_create, push_other};
use super::mark::Mark;
use super::scan::Scan;
use crate::disk;
use crate::entries::{Change, Entries};

/// The name of the journal in the store's directory.
pub const JOURNAL_FILE: &str = "journal";

const UNFINISHED: &str = "journal.new";

/// The least number of dead bytes for which the journal is rewritten.
const MIN_REWRITE: u64 = 256 << 10;

/// The open journal of a store that takes writes.
pub struct Journal {
    file: File,
    mark: Mark,
    path: PathBuf,
    /// The length of all whole batches. Bytes behind them were refused or torn.
    len: u64,
    /// The number of the last batch.
    batch: u64,
    /// Approximately the bytes of lines that no longer say what the store holds.
    dead: u64,
    /// The number of dead bytes from which on a rewrite is tried.
    rewrite_at: u64,
}

impl Journal {
    /// Returns the path of the journal of a store in `directory`.
    pub fn path_in(directory: &Path) -> PathBuf {
        directory.join(JOURNAL_FILE)
    }

    /// Reads the bytes of the journal. Returns `None` where there is none.
    pub fn read(directory: &Path) -> io::Result<Option<Vec<u8>>> {
        disk::read_regular(&Self::path_in(directory))
    }

    /// Writes a journal that holds `entries` as batch `batch` (1 or more), in place of the present one.
    ///
    /// The new journal appears whole or not at all.
    pub fn write(directory: &Path, head: &Head, batch: u64, entries: &Entries) -> io::Result<Self> {
        let unfinished = directory.join(UNFINISHED);
        let mut options = File::options();
        let file =
            options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        let mut out = BufWriter::with_capacity(1 << 20, &file);
        let (mut len, mut line) = (0, String::with_capacity(1024));
        let line_of_head = head.to_text(batch, entries.len());
        for _ in 0..2 {
            out.write_all(line_of_head.as_bytes())?;
            len += line_of_head.len() as u64;
        }
        for (n, (name, record)) in entries.iter().enumerate() {
            line.clear();
            match record {
                Some(record) => push_create(&mut line, batch, n + 1, entries.len(), name, record),
                None => push_other(&mut line, batch, n + 1, entries.len(), '!', name),
            }
            out.write_all(line.as_bytes())?;
            len += line.len() as u64;
        }
        out.flush()?;
        drop(out);
        file.sync_all()?;
        let path = Self::path_in(directory);
        fs::rename(&unfinished, &path)?;
        disk::sync_file(directory)?;
        let mark = Mark::open(directory, &head.store_id)?;
        Ok(Self { file, mark, path, len, batch, dead: 0, rewrite_at: MIN_REWRITE })
    }

    /// Removes what an interrupted [`write`](Self::write) left behind.
    pub fn clean_up(directory: &Path) -> io::Result<()> {
        match fs::remove_file(directory.join(UNFINISHED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Opens the journal of the store `head` that `scan` was read from.
    ///
    /// The next batch goes behind the last whole one.
    pub fn open(directory: &Path, head: &Head, scan: &Scan<'_>) -> io::Result<Self> {
        let live = scan.names.iter().filter(|(_, line)| !matches!(line.says, Says::Deleted));
        let dead = scan.len.saturating_sub(live.map(|(_, line)| u64::from(line.len)).sum());
        Self::open_at(directory, head, scan.len, scan.last, dead)
    }

    /// Opens the journal of the store `head`, whose last whole batch `batch` ends at `len`.
    pub fn open_at(directory: &Path, head: &Head, len: u64, batch: u64, dead: u64) -> io::Result<Self> {
        let path = Self::path_in(directory);
        let file = File::options().read(true).write(true).open(&path)?;
        if file.metadata()?.len() > len {
            file.set_len(len)?;
        }
        file.sync_all()?;
        let mark = Mark::open(directory, &head.store_id)?;
        Ok(Self { file, mark, path, len, batch, dead, rewrite_at: MIN_REWRITE })
    }

    /// Returns the number of the last batch.
    pub fn batch(&self) -> u64 {
        self.batch
    }

    /// Writes the next batch and syncs it.
    ///
    /// After an error nobody knows what is on the disk. [`cut`](Self::cut) takes the batch back.
    pub fn append(&mut self, changes: &[Change<'_>]) -> io::Result<()> {
        let batch = self.batch + 1;
        let mut text = String::with_capacity(changes.len() * 512);
        for (n, change) in changes.iter().enumerate() {
            match change {
                // The last line of a name counts, so one line is a whole replacement.
                Change::Create(name, record) | Change::Replace(name, record) => {
                    push_create(&mut text, batch, n + 1, changes.len(), name, record);
                }
                Change::Delete(name) => push_other(&mut text, batch, n + 1, changes.len(), '-', name),
            }
        }
        self.file.write_all_at(text.as_bytes(), self.len)?;
        self.file.sync_data()?;
        self.len += text.len() as u64;
        self.batch = batch;
        Ok(())
    }

    /// Notes that the last batch is in the database too. It can be acknowledged then.
    pub fn note_done(&self) -> io::Result<()> {
        self.mark.set(self.batch)
    }

    /// Makes the notes so far durable.
    pub fn sync_notes(&self) -> io::Result<()> {
        self.mark.sync()
    }

    /// Counts two lines as dead, since `name`, whose record had `len` bytes, was deleted.
    pub fn note_deleted(&mut self, name: &str, len: usize) {
        // The length of two sums, two numbers, and the characters between them.
        const AROUND: usize = 40;
        self.dead += (2 * (name.len() + AROUND) + len.div_ceil(3) * 4) as u64;
    }

    /// Returns where the next batch will begin.
    pub fn mark(&self) -> u64 {
        self.len
    }

    /// Takes back the refused batch that began at `mark`, and writes a line about that in its place.
    ///
    /// The journal has to be opened anew afterwards.
    pub fn cut(self, mark: u64) -> io::Result<()> {
        self.file.set_len(mark)?;
        let batch = if self.len > mark { self.batch } else { self.batch + 1 };
        let mut text = String::new();
        push_other(&mut text, batch, 1, 1, '0', NOBODY);
        let said = self.file.write_all_at(text.as_bytes(), mark);
        self.file.sync_all()?;
        said
    }

    /// Returns whether so much of the file is dead that it should be written anew.
    pub fn is_half_dead(&self) -> bool {
        self.dead >= self.rewrite_at && self.dead * 2 > self.len
    }

    /// Puts off the next rewrite, since the last one failed.
    pub fn put_off_rewrite(&mut self) {
        self.rewrite_at = self.dead + self.len / 2;
    }

    /// Returns whether the file still has its name.
    pub fn is_in_place(&self) -> bool {
        disk::is_same_file(&self.file, &self.path)
    }
}

#[cfg(test)]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::STORE_ID_LEN;

    #[test]
    fn a_long_journal_reads_as_it_was_written_wherever_it_is_cut_for_its_readers() {
        let dir = tempfile::tempdir().unwrap();
        let head = Head { store_id: [7; STORE_ID_LEN], header: vec![2; 80] };
        let record = |n: usize| Some(vec![u8::try_from(n % 251).unwrap(); 5000 + n % 7]);
        let entries: Entries = (0..1000).map(|n| (format!("key-{n:04}"), record(n))).collect();
        let mut journal = Journal::write(dir.path(), &head, 1, &entries).unwrap();
        journal.append(&[Change::Delete("key-0003"), Change::Create("new", b"record")]).unwrap();
        let text = Journal::read(dir.path()).unwrap().unwrap();
        assert!(text.len() > 5 << 20, "several readers take part");
        let scan = Scan::of(&text);
        assert!(scan.is_whole() && scan.tail.is_empty());
        assert_eq!((scan.last, scan.len), (2, text.len() as u64));
        assert_eq!(scan.names.iter().count(), 1001);
        for (name, record) in entries.iter() {
            let line = scan.names.get(name).unwrap();
            if name == "key-0003" {
                assert!(matches!(line.says, Says::Deleted));
            } else {
                assert!(line.says.record_in(&mut Vec::new()) == record, "{name}");
            }
        }
        // A damaged line in the middle counts as missing, whichever reader reads it.
        for at in (0..text.len()).step_by(text.len() / 23) {
            let mut damaged = text.clone();
            damaged[at] ^= 0x10;
            let scan = Scan::of(&damaged);
            let heads = head.to_text(1, entries.len()).len();
            assert_eq!(scan.is_whole(), at < heads, "{at}");
            assert_eq!(scan.last, 2, "{at}");
        }
    }
}
