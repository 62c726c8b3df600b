//! Reading a journal, whole or damaged.

use std::panic::resume_unwind;
use std::thread;

use super::line::{Head, NOBODY, Parsed, Says, parse};
use super::names::{Line, Names};
use crate::entries::{Builder, Entries};

/// Everything that could be read of a journal.
#[derive(Default)]
pub struct Scan<'a> {
    /// The head. `None` where both of its lines are damaged.
    pub head: Option<Head>,
    /// For each name, the last legible line about it.
    pub names: Names<'a>,
    /// Unreadable lines up to the end of the last whole batch.
    pub damage: Vec<Damage<'a>>,
    /// The number of the last whole batch.
    pub last: u64,
    /// The end of that batch in the file.
    pub len: u64,
    /// Unreadable lines behind that batch. It was torn while it was written, or damaged since.
    pub tail: Vec<Damage<'a>>,
}

/// A line that cannot be read.
#[derive(Clone, Copy)]
pub struct Damage<'a> {
    /// The batch of the line. It may belong to an earlier one.
    pub batch: u64,
    /// The name, if that part of the line is legible.
    pub name: Option<&'a str>,
}

impl<'a> Scan<'a> {
    /// Reads everything that can be read of the journal `text`.
    pub fn of(text: &'a [u8]) -> Self {
        let mut reader = Reader::default();
        for (line, end) in lines(text).into_iter().flatten() {
            reader.line(line, end);
        }
        reader.end()
    }

    /// Returns the number of the newest batch that left any trace.
    pub fn newest(&self) -> u64 {
        self.damage.iter().chain(&self.tail).map(|damage| damage.batch).fold(self.last, u64::max)
    }

    /// Decodes the entries of which the journal holds at least the names.
    pub fn entries(&self) -> Entries {
        let (mut entries, mut record) = (Builder::default(), Vec::new());
        for (name, line) in self.names.iter() {
            match line.says {
                Says::Deleted => {}
                says => entries.push(name, says.record_in(&mut record)),
            }
        }
        entries.finish()
    }

    /// Returns whether nothing is damaged up to the end of the last whole batch.
    pub fn is_whole(&self) -> bool {
        self.head.is_some() && self.damage.is_empty()
    }
}

#[derive(Default)]
struct Reader<'a> {
    scan: Scan<'a>,
    /// The present batch, the number of its lines so far, and the number that it should have.
    batch: u64,
    come: u32,
    of: u32,
    began: bool,
    /// Damage since the last whole batch.
    pending: Vec<Damage<'a>>,
    /// Lines of all batches.
    lines: Vec<(&'a str, Line<'a>)>,
    /// The number of those that count. Lines of the present batch count only when it is whole and was not refused.
    taken: usize,
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
            // The head is damaged, so nobody knows what came before.
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
            // Lines of an incomplete batch still tell about their names.
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
        self.taken = self.lines.len();
    }

    fn end(mut self) -> Scan<'a> {
        if self.scan.last == 0 && self.began {
            // Not even the first batch is whole.
            self.take_lines();
            self.pending.push(Damage { batch: self.batch, name: None });
            self.scan.damage.append(&mut self.pending);
            return self.named();
        }
        let began_another = self.batch > self.scan.last || self.come < self.of;
        if began_another || self.unreadable || !self.pending.is_empty() {
            let batch = if began_another { self.batch } else { self.scan.last + 1 };
            // Each line that came is legible. Those that did not come are not.
            let names = self.lines[self.taken..].iter().map(|(name, _)| Damage { batch, name: Some(name) });
            self.scan.tail.extend(names);
            self.scan.tail.append(&mut self.pending);
            if self.unreadable || self.come < self.of {
                self.scan.tail.push(Damage { batch, name: None });
            }
        }
        self.named()
    }

    fn named(mut self) -> Scan<'a> {
        self.lines.truncate(self.taken);
        self.scan.names = Names::of(self.lines);
        self.scan
    }
}

/// Parses the lines of a text on all processors, since every start reads the whole journal.
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
