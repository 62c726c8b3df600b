//! The journal: every create and every delete in order, in a file of lines beside the database.
//!
//! sled ends its replay without a word where its log is damaged, and erases what lies behind. So each batch is written here
//! and synced before it goes to sled, and at every start the two are compared (see the module `merge`).
//!
//! The file is text, a line each, so that it can be read in an emergency, and damage ends at the next line:
//!
//! ```text
//! <sum> kms-fs-journal 1 <store id> <batch> <count> <header of the store>   (twice)
//! <sum> <batch> <n>/<of> + <name> <sum> <record>                            create
//! <sum> <batch> <n>/<of> - <name>                                           delete
//! <sum> <batch> <n>/<of> ! <name>                                           the record of this name is lost
//! <sum> <batch> 1/1 0 -                                                     sled refused the batch before
//! ```
//!
//! Sums are CRC-32 in hex, of what follows up to the end of the line; that of a create ends before the second sum, which
//! covers the record, so that a name stays legible where its record is not. Records are sealed, and stand here
//! as base64, as does the header of the store. The first `count` lines are batch `batch`: all that the store held when the file
//! was written. They came with the file's name, so where one of them is missing it was lost, and never torn. Batches are numbered from 1.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::disk;
use crate::engine::{Change, Entries};
use crate::mark::Mark;
use crate::store_key::{STORE_ID_LEN, StoreId};

/// The name of the journal in the store's directory.
pub const JOURNAL_FILE: &str = "journal";
const UNFINISHED: &str = "journal.new";
const MAGIC: &str = "kms-fs-journal";
const VERSION: &str = "1";
/// The hex digits of a sum.
const SUM_LEN: usize = 8;
/// The most names that room is made for before they have come.
const MOST_RESERVED: usize = 1 << 20;
/// Stands where a line has no name.
const NOBODY: &str = "-";
/// A journal shorter than this is not rewritten, however much of it is dead.
const MIN_REWRITE: u64 = 256 << 10;

/// The open journal of a store that takes writes.
pub struct Journal {
    file: File,
    mark: Mark,
    path: PathBuf,
    /// Bytes of whole batches; what lies behind was refused, or torn.
    len: u64,
    /// The number of the last batch.
    batch: u64,
    /// Bytes of lines that no longer say what the store holds, about.
    dead: u64,
    /// Once this many bytes are dead a rewrite is tried.
    rewrite_at: u64,
}

/// What the head of a journal says.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    pub store_id: StoreId,
    /// The header of the store, as the database holds it too.
    pub header: Vec<u8>,
}

/// What could be read of a journal.
#[derive(Default)]
pub struct Scan<'a> {
    /// `None` where both lines that tell it are damaged.
    pub head: Option<Head>,
    /// The last line about each name, of those that can be read.
    pub names: HashMap<&'a str, Line<'a>>,
    /// What cannot be read.
    pub damage: Vec<Damage<'a>>,
    /// The last batch that is there as a whole.
    pub last: u64,
    /// Where that batch ends.
    pub len: u64,
    /// Damage behind that batch: a batch that was being written, or one that was damaged since.
    pub tail: Vec<Damage<'a>>,
}

/// The last line about a name.
#[derive(Clone, Copy)]
pub struct Line<'a> {
    pub batch: u64,
    pub says: Says<'a>,
    len: u32,
}

/// What a line says of its name.
#[derive(Clone, Copy)]
pub enum Says<'a> {
    /// The record, in base64.
    Record(&'a str),
    Deleted,
    Lost,
}

/// A line that cannot be read.
#[derive(Clone, Copy)]
pub struct Damage<'a> {
    /// The batch that it belongs to, at the latest.
    pub batch: u64,
    /// The name, where that part of the line is legible.
    pub name: Option<&'a str>,
}

impl Says<'_> {
    /// Decodes the record; `None` where there is none.
    pub fn record(&self) -> Option<Box<[u8]>> {
        match self {
            Self::Record(text) => STANDARD_NO_PAD.decode(text).ok().map(Into::into),
            Self::Deleted | Self::Lost => None,
        }
    }

    /// Tells whether the record is this one; `scratch` is used again by the next call.
    pub fn is_record(&self, record: &[u8], scratch: &mut Vec<u8>) -> bool {
        let Self::Record(text) = self else { return false };
        scratch.clear();
        STANDARD_NO_PAD.decode_vec(text, scratch).is_ok() && scratch == record
    }
}

impl<'a> Scan<'a> {
    /// Reads all that can be read of the journal in `text`.
    pub fn of(text: &'a [u8]) -> Self {
        let mut reader = Reader::default();
        for (line, end) in lines(text).into_iter().flatten() {
            reader.line(line, end);
        }
        reader.end()
    }

    /// Returns the number of the newest batch of which anything is there.
    pub fn newest(&self) -> u64 {
        self.damage.iter().chain(&self.tail).map(|damage| damage.batch).fold(self.last, u64::max)
    }

    /// Tells whether nothing is damaged but for what follows the last whole batch.
    pub fn is_whole(&self) -> bool {
        self.head.is_some() && self.damage.is_empty()
    }
}

#[derive(Default)]
struct Reader<'a> {
    scan: Scan<'a>,
    /// The batch that is being read, how many of its lines have come, and how many it has.
    batch: u64,
    come: u32,
    of: u32,
    began: bool,
    /// Damage since the last whole batch.
    pending: Vec<Damage<'a>>,
    /// Lines of the present batch; a batch that was refused, or is not there as a whole, says nothing yet.
    lines: Vec<(&'a str, Line<'a>)>,
    unreadable: bool,
}

impl<'a> Reader<'a> {
    fn line(&mut self, line: Option<Parsed<'a>>, end: u64) {
        let Some(line) = line else {
            self.unreadable = true;
            return;
        };
        let (batch, n, of, name, line) = match line {
            Parsed::Head(head, batch, count) => {
                if self.scan.head.is_none() && !self.began {
                    self.scan.head = Some(head);
                    (self.batch, self.of) = (batch, count);
                    self.began = true;
                    // A damaged number takes no more than there can be.
                    self.scan.names.reserve(usize::try_from(count).unwrap_or_default().min(MOST_RESERVED));
                }
                self.unreadable = false;
                if self.of == 0 {
                    self.batch_ends(end);
                }
                return;
            }
            Parsed::Line { batch, n, of, name, says, len } => {
                (batch, n, of, name, says.map(|says| Line { batch, says, len }))
            }
        };
        if !self.began {
            // Its head is damaged: what came before is not known.
            self.began = true;
            (self.batch, self.of, self.come) = (batch, of, 0);
        }
        self.advance(batch, n, of);
        self.come = n;
        self.unreadable = false;
        match line {
            Some(_) if name == NOBODY => {}
            Some(line) => self.lines.push((name, line)),
            None => self.pending.push(Damage { batch, name: Some(name) }),
        }
        if n == of {
            self.batch_ends(end);
        }
    }

    /// Notes what is missing between the last line and this one.
    fn advance(&mut self, batch: u64, n: u32, of: u32) {
        let is_next = (batch == self.batch && n == self.come + 1)
            || (self.come == self.of && batch == self.batch + 1 && n == 1);
        if !is_next {
            let last_missing = if n > 1 { batch } else { batch.saturating_sub(1) };
            self.pending.push(Damage { batch: last_missing, name: None });
        }
        if batch != self.batch {
            // Lines of a batch that is not whole tell of their names all the same.
            self.take_lines();
            (self.batch, self.of) = (batch, of);
        }
    }

    fn batch_ends(&mut self, end: u64) {
        self.take_lines();
        self.scan.damage.append(&mut self.pending);
        self.come = self.of;
        self.scan.last = self.batch;
        self.scan.len = end;
    }

    fn take_lines(&mut self) {
        for (name, line) in self.lines.drain(..) {
            self.scan.names.insert(name, line);
        }
    }

    fn end(mut self) -> Scan<'a> {
        if self.scan.last == 0 && self.began {
            // Not even what the file began with is whole.
            self.take_lines();
            self.pending.push(Damage { batch: self.batch, name: None });
            self.scan.damage.append(&mut self.pending);
            return self.scan;
        }
        let began_another = self.batch > self.scan.last || self.come < self.of;
        if began_another || self.unreadable || !self.pending.is_empty() {
            let batch = if began_another { self.batch } else { self.scan.last + 1 };
            // Each line that came is legible; those that did not come are not.
            let names = self.lines.iter().map(|(name, _)| Damage { batch, name: Some(name) });
            self.scan.tail.extend(names);
            self.scan.tail.append(&mut self.pending);
            if self.unreadable || self.come < self.of {
                self.scan.tail.push(Damage { batch, name: None });
            }
        }
        self.scan
    }
}

/// Reads the lines of a text, on all processors: at each start all of a journal is read.
fn lines(text: &[u8]) -> Vec<Vec<(Option<Parsed<'_>>, u64)>> {
    const LEAST: usize = 1 << 20;
    let threads = thread::available_parallelism().map_or(1, usize::from).min(8);
    let part = (text.len() / threads).max(LEAST);
    let mut parts = Vec::with_capacity(threads);
    let (mut began, mut rest) = (0_u64, text);
    while !rest.is_empty() {
        let cut = rest.get(part..).and_then(|tail| tail.iter().position(|byte| *byte == b'\n'));
        let (now, later) = rest.split_at(cut.map_or(rest.len(), |at| part + at + 1));
        parts.push((now, began));
        began += now.len() as u64;
        rest = later;
    }
    let Some(last) = parts.pop() else { return Vec::new() };
    thread::scope(|scope| {
        let readers: Vec<_> = parts.iter().map(|part| scope.spawn(|| parse_part(*part))).collect();
        let last = parse_part(last);
        let all = readers.into_iter().map(|reader| reader.join().unwrap_or_else(|why| resume_unwind(why)));
        all.chain([last]).collect()
    })
}

fn parse_part((part, began): (&[u8], u64)) -> Vec<(Option<Parsed<'_>>, u64)> {
    let mut end = began;
    let lines = part.split_inclusive(|byte| *byte == b'\n').map(|bytes| {
        end += bytes.len() as u64;
        (parse(bytes), end)
    });
    lines.collect()
}

enum Parsed<'a> {
    Head(Head, u64, u32),
    Line { batch: u64, n: u32, of: u32, name: &'a str, says: Option<Says<'a>>, len: u32 },
}

fn parse(bytes: &[u8]) -> Option<Parsed<'_>> {
    let len = u32::try_from(bytes.len()).ok()?;
    let line = std::str::from_utf8(bytes.strip_suffix(b"\n")?).ok()?;
    let (sum, rest) = line.split_once(' ')?;
    let sum = parse_sum(sum)?;
    if rest.starts_with(MAGIC) {
        return (sum_of(&[rest]) == sum).then(|| parse_head(rest)).flatten();
    }
    // Up to the name, and what follows it.
    let mut spaces = rest.match_indices(' ').map(|(at, _)| at);
    let (first, second, third) = (spaces.next()?, spaces.next()?, spaces.next()?);
    let end = spaces.next().unwrap_or(rest.len());
    let (head, body) = rest.split_at(end);
    if sum_of(&[head]) != sum {
        return None;
    }
    let batch = head[..first].parse().ok()?;
    let (n, of) = head[first + 1..second].split_once('/')?;
    let (n, of) = (n.parse().ok()?, of.parse().ok()?);
    let (operation, name) = (&head[second + 1..third], &head[third + 1..]);
    let says = match operation {
        "+" => record(head, body).map(Says::Record),
        "-" | "0" => Some(Says::Deleted),
        "!" => Some(Says::Lost),
        _ => None,
    };
    Some(Parsed::Line { batch, n, of, name, says, len })
}

fn record<'a>(head: &str, body: &'a str) -> Option<&'a str> {
    let (sum, text) = body.strip_prefix(' ')?.split_once(' ')?;
    (sum_of(&[head, text]) == parse_sum(sum)?).then_some(text)
}

fn parse_sum(text: &str) -> Option<u32> {
    (text.len() == SUM_LEN).then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

fn parse_head(text: &str) -> Option<Parsed<'static>> {
    let mut words = text.split(' ').skip(1);
    if words.next()? != VERSION {
        return None;
    }
    let mut store_id = [0; STORE_ID_LEN];
    hex::decode_to_slice(words.next()?, &mut store_id).ok()?;
    let (batch, count) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let header = STANDARD_NO_PAD.decode(words.next()?).ok()?;
    Some(Parsed::Head(Head { store_id, header }, batch, count))
}

/// Sums up texts as if a space stood between them.
fn sum_of(parts: &[&str]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part.as_bytes());
        hasher.update(b" ");
    }
    hasher.finalize()
}

fn push_line(out: &mut String, batch: u64, n: usize, of: usize, operation: char, name: &str) -> usize {
    let head = format!("{batch} {n}/{of} {operation} {name}");
    let began = out.len();
    let _ = write!(out, "{:08x} {head}", sum_of(&[&head]));
    began
}

fn push_create(out: &mut String, batch: u64, n: usize, of: usize, name: &str, record: &[u8]) {
    let began = push_line(out, batch, n, of, '+', name);
    let head_at = began + SUM_LEN + 1;
    let text = STANDARD_NO_PAD.encode(record);
    let sum = sum_of(&[&out[head_at..], &text]);
    let _ = writeln!(out, " {sum:08x} {text}");
}

fn push_other(out: &mut String, batch: u64, n: usize, of: usize, operation: char, name: &str) {
    push_line(out, batch, n, of, operation, name);
    out.push('\n');
}

impl Journal {
    /// Returns where the journal of a store in `directory` lies.
    pub fn path_in(directory: &Path) -> PathBuf {
        directory.join(JOURNAL_FILE)
    }

    /// Reads the journal's bytes; `None` where there is none.
    pub fn read(directory: &Path) -> io::Result<Option<Vec<u8>>> {
        disk::read_regular(&Self::path_in(directory))
    }

    /// Writes a journal that says that the store holds `entries` after batch `batch`, from 1 on, in place of the one that is
    /// there.
    ///
    /// It is there whole or not at all.
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

    /// Removes what an interrupted [`write`](Self::write) has left.
    pub fn clean_up(directory: &Path) -> io::Result<()> {
        match fs::remove_file(directory.join(UNFINISHED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Opens the journal of the store `head` that `scan` was made of, to go on behind its last whole batch.
    pub fn open(directory: &Path, head: &Head, scan: &Scan<'_>) -> io::Result<Self> {
        let path = Self::path_in(directory);
        let file = File::options().read(true).write(true).open(&path)?;
        if file.metadata()?.len() > scan.len {
            file.set_len(scan.len)?;
        }
        file.sync_all()?;
        let live = scan.names.values().filter(|line| !matches!(line.says, Says::Deleted));
        let dead = scan.len.saturating_sub(live.map(|line| u64::from(line.len)).sum());
        let mark = Mark::open(directory, &head.store_id)?;
        Ok(Self { file, mark, path, len: scan.len, batch: scan.last, dead, rewrite_at: MIN_REWRITE })
    }

    /// Returns the number of the last batch.
    pub fn batch(&self) -> u64 {
        self.batch
    }

    /// Writes the next batch and syncs it.
    ///
    /// After an error it is not known what is on the disk; [`cut`](Self::cut) takes it back.
    pub fn append(&mut self, changes: &[Change<'_>]) -> io::Result<()> {
        let batch = self.batch + 1;
        let mut text = String::with_capacity(changes.len() * 512);
        for (n, change) in changes.iter().enumerate() {
            match change {
                Change::Create(name, record) => {
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

    /// Notes that the last batch is in the database too, so that it can be acknowledged.
    pub fn note_done(&self) -> io::Result<()> {
        self.mark.set(self.batch)
    }

    /// Makes durable what was noted so far.
    pub fn sync_notes(&self) -> io::Result<()> {
        self.mark.sync()
    }

    /// Takes note that `name` was deleted, whose record had `len` bytes: two lines are dead.
    pub fn note_deleted(&mut self, name: &str, len: usize) {
        // Two sums, two numbers, and what stands between them.
        const AROUND: usize = 40;
        self.dead += (2 * (name.len() + AROUND) + len.div_ceil(3) * 4) as u64;
    }

    /// Returns where the next batch will begin.
    pub fn mark(&self) -> u64 {
        self.len
    }

    /// Takes back the batch that began at `mark`, which was refused, and says so in its place.
    ///
    /// The journal has to be opened anew then.
    pub fn cut(self, mark: u64) -> io::Result<()> {
        self.file.set_len(mark)?;
        let batch = if self.len > mark { self.batch } else { self.batch + 1 };
        let mut text = String::new();
        push_other(&mut text, batch, 1, 1, '0', NOBODY);
        let said = self.file.write_all_at(text.as_bytes(), mark);
        self.file.sync_all()?;
        said
    }

    /// Tells whether so much of the file is dead that it should be written anew.
    pub fn is_half_dead(&self) -> bool {
        self.dead >= self.rewrite_at && self.dead * 2 > self.len
    }

    /// Puts off the next rewrite, since one failed.
    pub fn put_off_rewrite(&mut self) {
        self.rewrite_at = self.dead + self.len / 2;
    }

    /// Tells whether the file still has its name.
    pub fn is_in_place(&self) -> bool {
        disk::is_same_file(&self.file, &self.path)
    }
}

impl Head {
    fn to_text(&self, batch: u64, count: usize) -> String {
        let id = hex::encode(self.store_id);
        let header = STANDARD_NO_PAD.encode(&self.header);
        let text = format!("{MAGIC} {VERSION} {id} {batch} {count} {header}");
        format!("{:08x} {text}\n", sum_of(&[&text]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_journal_reads_as_it_was_written_wherever_it_is_cut_for_its_readers() {
        let dir = tempfile::tempdir().unwrap();
        let head = Head { store_id: [7; STORE_ID_LEN], header: vec![2; 80] };
        let record = |n: usize| Some(vec![u8::try_from(n % 251).unwrap(); 5000 + n % 7].into());
        let entries: Entries = (0..1000).map(|n| (format!("key-{n:04}"), record(n))).collect();
        let mut journal = Journal::write(dir.path(), &head, 1, &entries).unwrap();
        journal.append(&[Change::Delete("key-0003"), Change::Create("new", b"record")]).unwrap();
        let text = Journal::read(dir.path()).unwrap().unwrap();
        assert!(text.len() > 5 << 20, "several readers take part");
        let scan = Scan::of(&text);
        assert!(scan.is_whole() && scan.tail.is_empty());
        assert_eq!((scan.last, scan.len), (2, text.len() as u64));
        assert_eq!(scan.names.len(), 1001);
        for (name, record) in &entries {
            let line = &scan.names[name.as_str()];
            if name == "key-0003" {
                assert!(matches!(line.says, Says::Deleted));
            } else {
                assert!(line.says.record() == *record, "{name}");
            }
        }
        // A line in the middle that is damaged is one that is missing, for whichever reader it was.
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
