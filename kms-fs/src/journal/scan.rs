//! What can be read of a journal.

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::thread;

use super::line::{Head, NOBODY, Parsed, Says, parse};

/// The most names that room is made for before they have come.
const MOST_RESERVED: usize = 1 << 20;

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
    pub len: u32,
}

/// A line that cannot be read.
#[derive(Clone, Copy)]
pub struct Damage<'a> {
    /// The batch that it belongs to, at the latest.
    pub batch: u64,
    /// The name, where that part of the line is legible.
    pub name: Option<&'a str>,
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
        let (batch, n, of, name, line) = match line {
            None => {
                self.unreadable = true;
                return;
            }
            Some(Parsed::Head { head, batch, count }) => {
                self.head(head, batch, count, end);
                return;
            }
            Some(Parsed::Line { batch, n, of, name, says, len }) => {
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

    fn head(&mut self, head: Head, batch: u64, count: u32, end: u64) {
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
