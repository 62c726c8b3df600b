//! What an escrow file holds, and what is wrong with it.

use std::collections::HashMap;
use std::io::{self, BufRead, Read as _};

use jiff::Timestamp;

use super::line::{Line, Place, Says, Sealed, Subject};

/// The longest line that is read. That of the longest record is shorter.
const MOST_LINE: u64 = 2 << 20;

/// What ends a line that a power cut or a kill cut off, once a later start has found it.
pub const CUT_OFF: &str = " torn\n";

/// What a file says, in its order.
#[derive(Default)]
pub struct Contents {
    /// The version of its format, by its first line.
    pub version: Option<Box<str>>,
    /// What its lines say, in their order.
    pub facts: Vec<Fact>,
    /// What is wrong, by the place in the file.
    pub flaws: Vec<Flaw>,
    /// The number of lines, damaged ones too.
    pub lines: u64,
    /// The number of bytes.
    pub len: u64,
    /// The last batch.
    pub batch: u64,
    /// When the last legible line was written.
    pub at: Option<Timestamp>,
    /// What a power cut left at the end, and no later start has told yet.
    pub(super) tail: Option<Tail>,
}

/// A line that says something of an entry.
pub struct Fact {
    pub place: Place,
    pub at: Timestamp,
    pub says: Says,
}

/// Something that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// The byte where it begins.
    pub offset: u64,
    /// What it is, in words.
    pub what: String,
    /// What it means.
    pub kind: FlawKind,
}

/// What a flaw means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlawKind {
    /// Something that was acknowledged may be unreadable.
    Damage,
    /// A write was cut off, and a later start has told so.
    Torn,
    /// It is at the end, so it may be a write that was cut off or is under way.
    AtTheEnd,
}

/// The end of a file that has no whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    pub batch: u64,
    pub offset: u64,
}

impl Contents {
    /// Reads a file. Sealed records are only checked, unless they are to be kept.
    ///
    /// # Errors
    ///
    /// Those of `file`. What is wrong with its content is in [`flaws`](Self::flaws).
    pub fn read(file: impl BufRead, keep_records: bool) -> io::Result<Self> {
        let mut reading = Reading { keep_records, is_complete: true, ..Reading::default() };
        reading.read(file)?;
        Ok(reading.finish())
    }
}

#[derive(Default)]
struct Reading {
    contents: Contents,
    keep_records: bool,
    /// The last whole line and the number of lines of its batch.
    last: Option<(Place, u32)>,
    /// Where the last legible line begins.
    last_begins: u64,
    /// The end of that line.
    last_end: u64,
    /// The end of the last whole line before the batch, and before those that may be torn with it.
    batch_begins: u64,
    /// Whether the batch is whole so far.
    is_complete: bool,
}

impl Reading {
    fn read(&mut self, mut file: impl BufRead) -> io::Result<()> {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let mut len = (&mut file).take(MOST_LINE).read_until(b'\n', &mut bytes)? as u64;
            if len == 0 {
                return Ok(());
            }
            if len == MOST_LINE && !bytes.ends_with(b"\n") {
                len += file.skip_until(b'\n')? as u64;
            }
            let offset = self.contents.len;
            self.contents.lines += 1;
            self.contents.len += len;
            // A power cut leaves zeros where a block did not reach the disk. A whole line with a wrong sum was changed later.
            let is_cut_off =
                !bytes.ends_with(b"\n") || bytes.contains(&0) || bytes.ends_with(CUT_OFF.as_bytes());
            let kind = if is_cut_off { FlawKind::AtTheEnd } else { FlawKind::Damage };
            match Line::parse(&bytes) {
                Some(line) => self.take(line, offset, kind),
                None if bytes == b"\n" => {}
                None => self.tell(offset, format!("line {}: it is damaged", self.contents.lines), kind),
            }
        }
    }

    fn tell(&mut self, offset: u64, what: String, kind: FlawKind) {
        self.contents.flaws.push(Flaw { offset, what, kind });
    }

    /// Takes in a line. `kind` is what it means if its record is damaged.
    fn take(&mut self, line: Line, offset: u64, kind: FlawKind) {
        let Line { place, of, at, mut says } = line;
        if let Err(missing) = self.follow(place, of) {
            let number = self.contents.lines;
            let is_late = missing.is_none();
            let missing = missing.unwrap_or_else(|| "it repeats an earlier one".to_owned());
            let from = if is_late { offset } else { self.last_end };
            // Zeros in a line may have swallowed those behind it.
            let before = self.contents.flaws.last().filter(|before| before.offset >= self.last_begins);
            let kind = before.filter(|_| !is_late).map_or(FlawKind::Damage, |before| before.kind);
            self.tell(from, format!("line {number}: {missing}"), kind);
            if is_late {
                return;
            }
        }
        if self.last.is_none_or(|(last, _)| last.batch != place.batch) {
            // The first line of a batch may have told of the end that was torn before it, and be torn itself by now.
            if place.n == 1 || self.is_whole() {
                self.batch_begins = self.last_end;
            }
            self.is_complete = place.n == 1;
        } else if self.last.is_some_and(|(last, _)| last.n.checked_add(1) != Some(place.n)) {
            self.is_complete = false;
        }
        self.last = Some((place, of));
        self.last_begins = offset;
        self.contents.at = Some(at);
        self.last_end = self.contents.len;
        match &mut says {
            Says::Begins { version } => {
                self.contents.version.get_or_insert_with(|| version.clone());
                return;
            }
            Says::Torn { offset: from, .. } => {
                let torn = self.contents.flaws.iter_mut();
                torn.filter(|flaw| flaw.offset >= *from).for_each(|flaw| flaw.kind = FlawKind::Torn);
                return;
            }
            Says::Entry { subject, sealed: Sealed::Damaged } => {
                let (number, Subject { name, fingerprint, .. }) = (self.contents.lines, subject);
                let what = format!("line {number}: the record of entry '{name}' ({fingerprint}) is damaged");
                self.is_complete = false;
                self.tell(offset, what, kind);
            }
            Says::Entry { sealed: Sealed::Whole(sealed), .. } if !self.keep_records => *sealed = Vec::new(),
            _ => {}
        }
        self.contents.facts.push(Fact { place, at, says });
    }

    /// Compares the place of a line with that of the one before. Fails with what is missing between them; with nothing if
    /// the line is not later.
    fn follow(&self, place: Place, of: u32) -> Result<(), Option<String>> {
        let Some((last, last_of)) = self.last else {
            let is_first = place == Place { batch: 1, n: 1 };
            return if is_first { Ok(()) } else { Err(Some("the lines before it are missing".to_owned())) };
        };
        if place <= last {
            return Err(None);
        }
        let follows_in_batch =
            place.batch == last.batch && last.n.checked_add(1) == Some(place.n) && of == last_of;
        let begins_the_next =
            last.batch.checked_add(1) == Some(place.batch) && place.n == 1 && last.n == last_of;
        if follows_in_batch || begins_the_next {
            return Ok(());
        }
        let (from, to) = (format!("{}/{}", last.batch, last.n), format!("{}/{}", place.batch, place.n));
        Err(Some(format!("what was between {from} and {to} is missing")))
    }

    /// Returns whether the batch of the last line is whole.
    fn is_whole(&self) -> bool {
        self.is_complete && self.last.is_none_or(|(last, of)| last.n == of)
    }

    fn finish(mut self) -> Contents {
        let (last, last_of) = self.last.unwrap_or((Place { batch: 0, n: 0 }, 0));
        let is_whole = self.is_whole();
        let offset = if is_whole { self.last_end } else { self.batch_begins };
        let damage = self.contents.flaws.iter().filter(|flaw| flaw.kind == FlawKind::Damage);
        let last_damage = damage.map(|flaw| flaw.offset).filter(|at| *at >= offset).max();
        if last.n != last_of {
            let what =
                format!("at the end: batch {} has {last_of} lines, and {} are there", last.batch, last.n);
            let kind = if last_damage.is_none() { FlawKind::AtTheEnd } else { FlawKind::Damage };
            self.tell(self.last_end, what, kind);
        }
        // What a later start tells as torn must not hide damage before it.
        let offset = last_damage.map_or(offset, |at| at + 1);
        let mut is_torn = false;
        for flaw in self.contents.flaws.iter_mut().filter(|flaw| flaw.kind == FlawKind::AtTheEnd) {
            if flaw.offset >= offset {
                is_torn = true;
            } else {
                flaw.kind = FlawKind::Damage;
            }
        }
        self.contents.batch = last.batch;
        let batch = if is_whole { last.batch.saturating_add(1) } else { last.batch };
        self.contents.tail = is_torn.then_some(Tail { batch, offset });
        self.tell_of_marks();
        self.contents
    }

    /// Tells of marks whose entry cannot be read.
    fn tell_of_marks(&mut self) {
        let mut entries: HashMap<Place, &Subject> = HashMap::new();
        let mut told = Vec::new();
        for Fact { place, says, .. } in &self.contents.facts {
            match says {
                Says::Entry { subject, .. } => drop(entries.insert(*place, subject)),
                Says::Stored { entry, subject } if entries.get(entry) != Some(&subject) => {
                    told.push(format!(
                        "{}/{}: entry '{}' ({}) was stored, and its line {}/{} is not legible",
                        place.batch, place.n, subject.name, subject.fingerprint, entry.batch, entry.n
                    ));
                }
                _ => {}
            }
        }
        for what in told {
            self.tell(self.contents.len, what, FlawKind::Damage);
        }
    }
}
