//! Reading a journal that is whole, as nearly every start finds it.
//!
//! The text is never in memory as a whole. Each of several readers reads a part of the file through a small buffer, and
//! keeps the names and the decoded records.

use std::fs::File;
use std::io::{self, BufRead as _};
use std::os::unix::fs::FileExt as _;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use super::file::Journal;
use super::line::{Head, NOBODY, Parsed, Says, parse};
use super::names::last_of_each;
use crate::disk;
use crate::entries::{Builder, Entries};

/// The bytes that a reader reads at once.
const BUFFER: usize = 512 << 10;

/// The longest line that is read here.
const MAX_LINE: usize = 16 << 20;

/// The least number of bytes that are worth a reader of their own.
const LEAST: u64 = 1 << 20;

/// A journal in which every line is legible and every batch is whole, and that knows of no lost record.
pub struct Whole {
    pub head: Head,
    /// The number of the last batch.
    pub last: u64,
    /// The length of the file.
    pub len: u64,
    parts: Vec<Part>,
}

/// The lines of a part of the file.
#[derive(Default)]
struct Part {
    head: Option<Head>,
    /// The places of the first line and of the last one. `None` where there is no line but those of the head.
    first: Option<Place>,
    last: Option<Place>,
    /// Names and records, one after the other.
    bytes: Vec<u8>,
    lines: Vec<Line>,
}

/// The batch of a line, its number there, and the number of lines of the batch.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    batch: u64,
    n: u32,
    of: u32,
}

/// A line about a name. The name begins at `start`, and the record ends at `end`.
#[derive(Clone, Copy)]
struct Line {
    start: usize,
    record: usize,
    end: usize,
    is_deleted: bool,
    len: u32,
}

impl Place {
    /// Returns whether this place comes right after `before`.
    fn follows(self, before: Self) -> bool {
        let in_batch = self.batch == before.batch && self.of == before.of && self.n == before.n + 1;
        let in_next = before.n == before.of && self.batch == before.batch + 1 && self.n == 1;
        (in_batch || in_next) && self.n <= self.of
    }
}

impl Whole {
    /// Reads the journal of a store in `directory`. Returns `None` where it is not whole.
    pub fn read(directory: &Path) -> io::Result<Option<Self>> {
        let path = Journal::path_in(directory);
        if !disk::refuse_other_types(&path)? {
            return Ok(None);
        }
        let file = File::open(&path)?;
        let len = file.metadata()?.len();
        let readers = thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64).min(8);
        let step = len.div_ceil(readers).max(LEAST);
        let cuts: Vec<u64> = (0..readers).map(|n| n * step).take_while(|from| *from < len).collect();
        let parts: io::Result<Option<Vec<Part>>> = thread::scope(|scope| {
            let read = |from: u64| Part::read(&file, from, (from + step).min(len));
            let readers: Vec<_> = cuts.iter().skip(1).map(|from| scope.spawn(move || read(*from))).collect();
            let first = read(0);
            let others =
                readers.into_iter().map(|reader| reader.join().unwrap_or_else(|why| resume_unwind(why)));
            [first].into_iter().chain(others).collect()
        });
        Ok(parts?.and_then(|parts| Self::of(parts, len)))
    }

    /// Puts parts together, unless a line is missing between them.
    fn of(mut parts: Vec<Part>, len: u64) -> Option<Self> {
        let head = parts.first_mut()?.head.take()?;
        if parts.iter().any(|part| part.head.is_some()) {
            return None;
        }
        let mut before: Option<Place> = None;
        for part in &parts {
            if let (Some(before), Some(first)) = (before, part.first)
                && !first.follows(before)
            {
                return None;
            }
            before = part.last.or(before);
        }
        let last = before.filter(|last| last.n == last.of)?.batch;
        Some(Self { head, last, len, parts })
    }

    /// Returns the entries, and approximately the bytes of lines that no longer say what they are.
    pub fn into_entries(self) -> (Entries, u64) {
        let ends: Vec<usize> = self
            .parts
            .iter()
            .scan(0, |lines, part| {
                *lines += part.lines.len();
                Some(*lines)
            })
            .collect();
        let line = |n: usize| {
            let part = ends.partition_point(|end| *end <= n);
            let began = part.checked_sub(1).map_or(0, |before| ends[before]);
            (&self.parts[part], &self.parts[part].lines[n - began])
        };
        let order = last_of_each(ends.last().copied().unwrap_or_default(), |n| {
            let (part, line) = line(n);
            part.name(line)
        });
        let build = |numbers: &[usize]| {
            let (mut entries, mut bytes) = (Builder::default(), 0);
            for (part, line) in numbers.iter().map(|n| line(*n)).filter(|(_, line)| !line.is_deleted) {
                entries.push(part.name(line), Some(&part.bytes[line.record..line.end]));
                bytes += u64::from(line.len);
            }
            (entries.finish(), bytes)
        };
        let (lower, upper) = order.split_at(order.len() / 2);
        let ((mut entries, bytes), (others, others_bytes)) = thread::scope(|scope| {
            let upper = scope.spawn(|| build(upper));
            (build(lower), upper.join().unwrap_or_else(|why| resume_unwind(why)))
        });
        entries.append(others);
        (entries, self.len.saturating_sub(bytes + others_bytes))
    }
}

impl Part {
    /// Reads the lines that begin at `from` or later, and before `to`. Returns `None` where one is not legible.
    fn read(file: &File, from: u64, to: u64) -> io::Result<Option<Self>> {
        let mut part = Self::default();
        // Three quarters of a line are its record. What is not used costs no memory.
        let len = usize::try_from(to - from).unwrap_or(usize::MAX);
        if part.bytes.try_reserve_exact(len).is_err() {
            return Ok(None);
        }
        let mut buffer = vec![0; BUFFER];
        // The line before ends with the byte before `from`, or somewhere behind it.
        let mut offset = from.saturating_sub(1);
        let (mut filled, mut skips) = (0, from > 0);
        loop {
            let read = file.read_at(&mut buffer[filled..], offset)?;
            let began = offset - filled as u64;
            filled += read;
            offset += read as u64;
            let (mut at, mut rest) = (0, &buffer[..filled]);
            while began + (at as u64) < to || skips {
                let len = rest.skip_until(b'\n')?;
                let line = &buffer[at..at + len];
                if line.last() != Some(&b'\n') {
                    break;
                }
                at += len;
                if !std::mem::take(&mut skips) && part.line(line).is_none() {
                    return Ok(None);
                }
            }
            if began + at as u64 >= to && !skips {
                part.lines.shrink_to_fit();
                return Ok(Some(part));
            }
            if read == 0 || filled - at > MAX_LINE {
                return Ok(None);
            }
            buffer.copy_within(at..filled, 0);
            filled -= at;
            if filled == buffer.len() {
                buffer.resize(filled * 2, 0);
            }
        }
    }

    /// Takes in a line. Returns `None` if it does not come right after the line before, or says that a record is lost.
    fn line(&mut self, line: &[u8]) -> Option<()> {
        match parse(line)? {
            Parsed::Head { head, batch, count } => {
                if self.head.is_none() && self.first.is_none() {
                    // The place right before that of the first line.
                    self.last = Some(Place { batch, n: 0, of: count });
                    self.head = Some(head);
                } else if self.head.as_ref() != Some(&head) || self.first.is_some() {
                    return None;
                }
            }
            Parsed::Line { batch, n, of, name, says, len } => {
                let place = Place { batch, n, of };
                if self.last.is_some_and(|before| !place.follows(before)) || n == 0 || n > of {
                    return None;
                }
                self.first.get_or_insert(place);
                self.last = Some(place);
                let start = self.bytes.len();
                let is_deleted = match says? {
                    Says::Lost => return None,
                    Says::Deleted if name == NOBODY => return Some(()),
                    Says::Deleted => {
                        self.bytes.extend_from_slice(name.as_bytes());
                        true
                    }
                    says @ Says::Record(_) => {
                        self.bytes.extend_from_slice(name.as_bytes());
                        says.push_record(&mut self.bytes)?;
                        false
                    }
                };
                let (record, end) = (start + name.len(), self.bytes.len());
                self.lines.push(Line { start, record, end, is_deleted, len });
            }
        }
        Some(())
    }

    fn name(&self, line: &Line) -> &str {
        std::str::from_utf8(&self.bytes[line.start..line.record]).unwrap_or_default()
    }
}

#[cfg(test)]
#[cfg(not(feature = "model"))]
mod tests {
    use std::fs;

    use super::super::scan::Scan;
    use super::*;
    use crate::entries::Change;
    use crate::keys::STORE_ID_LEN;

    fn head() -> Head {
        Head { store_id: [7; STORE_ID_LEN], header: vec![2; 80] }
    }

    /// Writes a journal of so many records, with batches behind the first one, and returns its text.
    fn journal(directory: &Path, records: usize, len: usize) -> Vec<u8> {
        let record = |n: usize| Some(vec![u8::try_from(n % 251).unwrap(); len + n % 7]);
        let entries: Entries = (0..records).map(|n| (format!("key-{n:04}"), record(n))).collect();
        let mut journal = Journal::write(directory, &head(), 3, &entries).unwrap();
        journal.append(&[Change::Create("new", b"record"), Change::Create("a", b"other")]).unwrap();
        journal.append(&[Change::Delete("new")]).unwrap();
        journal
            .append(&[Change::Create("new", b"again"), Change::Delete("a"), Change::Create("b", b"")])
            .unwrap();
        journal.append(&[Change::Replace("b", b"the place of another")]).unwrap();
        let end = journal.mark();
        journal.cut(end).unwrap();
        fs::read(Journal::path_in(directory)).unwrap()
    }

    /// Checks that what is read here is what a scan finds, and nothing where the scan finds a fault.
    fn check(directory: &Path, text: &[u8], what: &str) -> bool {
        fs::write(Journal::path_in(directory), text).unwrap();
        let scan = Scan::of(text);
        let is_whole = scan.is_whole() && scan.tail.is_empty() && scan.entries().lost() == 0;
        let Some(whole) = Whole::read(directory).unwrap() else { return !is_whole };
        assert!(is_whole, "{what}: the scan finds a fault");
        assert!(scan.head.as_ref() == Some(&whole.head), "{what}");
        assert_eq!((whole.last, whole.len), (scan.last, text.len() as u64), "{what}");
        let (entries, dead) = whole.into_entries();
        assert!(entries == scan.entries(), "{what}");
        let live = scan.names.iter().filter(|(_, line)| !matches!(line.says, Says::Deleted));
        assert_eq!(dead, scan.len - live.map(|(_, line)| u64::from(line.len)).sum::<u64>(), "{what}");
        true
    }

    #[test]
    fn a_whole_journal_reads_as_a_scan_does_wherever_its_parts_are_cut() {
        let dir = tempfile::tempdir().unwrap();
        for (records, len) in [(0, 0), (1, 20), (200, 0), (1000, 2000), (1001, 2777)] {
            let text = journal(dir.path(), records, len);
            assert!(
                check(dir.path(), &text, &format!("{records} records")),
                "{records} records of {len} bytes"
            );
            let heads = head().to_text(3, records).len() * 2;
            let tail = text.len().saturating_sub(1000).max(heads);
            let step = if records > 200 { 97 } else { 1 };
            for cut in [0, 1, heads / 2, heads - 1, heads, text.len() - 1]
                .into_iter()
                .chain((tail..text.len()).step_by(step))
            {
                assert!(
                    check(dir.path(), &text[..cut.min(text.len())], &format!("cut at {cut}")),
                    "cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn a_changed_or_missing_line_is_found_in_each_part() {
        let dir = tempfile::tempdir().unwrap();
        let text = journal(dir.path(), 1000, 2000);
        assert!(text.len() > 2 << 20, "several readers take part");
        let middle = text.len() / 2;
        let places = (0..text.len()).step_by(text.len() / 41).chain((middle - 40..middle + 40).step_by(11));
        for at in places.chain((text.len() - 300..text.len()).step_by(13)) {
            let mut damaged = text.clone();
            damaged[at] ^= 0x10;
            assert!(Whole::read(dir.path()).unwrap().is_some(), "it is whole before");
            // Of the two lines of the head, one is enough for a scan.
            let heads = head().to_text(3, 1000).len() * 2;
            assert!(
                check(dir.path(), &damaged, &format!("changed at {at}")) || at < heads,
                "changed at {at}"
            );
            let from = text[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let to = at + text[at..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
            let missing = [&text[..from], &text[to..]].concat();
            let twice = [&text[..to], &text[from..]].concat();
            if from > 0 {
                assert!(
                    check(dir.path(), &missing, &format!("line at {at} missing")),
                    "line at {at} missing"
                );
            }
            fs::write(Journal::path_in(dir.path()), &twice).unwrap();
            assert!(from < 500 || Whole::read(dir.path()).unwrap().is_none(), "line at {at} twice");
            fs::write(Journal::path_in(dir.path()), &text).unwrap();
        }
    }
}
