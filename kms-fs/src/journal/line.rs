//! The lines of a journal: how each is written and read.
//!
//! A journal is text, so that it can be read in an emergency, and damage ends at the next line:
//!
//! ```text
//! <sum> kms-fs-journal 1 <store id> <batch> <count> <header of the store>   (twice)
//! <sum> <batch> <n>/<of> + <name> <sum> <record>                            create
//! <sum> <batch> <n>/<of> - <name>                                           delete
//! <sum> <batch> <n>/<of> ! <name>                                           the record of this name is lost
//! <sum> <batch> 1/1 0 -                                                     sled refused the batch before
//! ```
//!
//! A sum is the CRC-32, in hex, of what follows it up to the end of the line. The first sum of a create ends
//! before the second one, and the second one covers the record too, so that a name stays legible where its
//! record is damaged. Records are sealed and stand here as base64, as does the header of the store. `count` is
//! the number of lines of the first batch.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::keys::{STORE_ID_LEN, StoreId};

const MAGIC: &str = "kms-fs-journal";

const VERSION: &str = "1";

/// The number of hex digits of a sum.
const SUM_LEN: usize = 8;

/// The text in place of a name in a line that is about none.
pub const NOBODY: &str = "-";

/// The head of a journal.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    pub store_id: StoreId,
    /// The header of the store. The database holds it too.
    pub header: Vec<u8>,
}

/// What a line says about its name.
#[derive(Clone, Copy)]
pub enum Says<'a> {
    /// There is a record, here in base64.
    Record(&'a str),
    Deleted,
    Lost,
}

pub enum Parsed<'a> {
    /// The head, the number of the first batch, and the number of its lines.
    Head {
        head: Head,
        batch: u64,
        count: u32,
    },
    Line {
        batch: u64,
        n: u32,
        of: u32,
        name: &'a str,
        says: Option<Says<'a>>,
        len: u32,
    },
}

impl Says<'_> {
    /// Decodes the record into a buffer, in place of what is there. Returns `None` where the line has none.
    pub fn record_in<'b>(&self, buffer: &'b mut Vec<u8>) -> Option<&'b [u8]> {
        buffer.clear();
        self.push_record(buffer)?;
        Some(buffer)
    }

    /// Decodes the record behind what is in a buffer. Returns `None` where the line has none.
    pub fn push_record(&self, buffer: &mut Vec<u8>) -> Option<()> {
        let Self::Record(text) = self else { return None };
        STANDARD_NO_PAD.decode_vec(text, buffer).ok()
    }
}

impl Head {
    pub fn to_text(&self, batch: u64, count: usize) -> String {
        let id = hex::encode(self.store_id);
        let header = STANDARD_NO_PAD.encode(&self.header);
        let text = format!("{MAGIC} {VERSION} {id} {batch} {count} {header}");
        format!("{:08x} {text}\n", sum_of(&[&text]))
    }
}

pub fn parse(bytes: &[u8]) -> Option<Parsed<'_>> {
    let len = u32::try_from(bytes.len()).ok()?;
    let line = std::str::from_utf8(bytes.strip_suffix(b"\n")?).ok()?;
    let (sum, rest) = line.split_once(' ')?;
    let sum = parse_sum(sum)?;
    if rest.starts_with(MAGIC) {
        return (sum_of(&[rest]) == sum).then(|| parse_head(rest)).flatten();
    }
    // The head ends with the name; the body follows it.
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

fn parse_head(text: &str) -> Option<Parsed<'static>> {
    let mut words = text.split(' ').skip(1);
    if words.next()? != VERSION {
        return None;
    }
    let mut store_id = [0; STORE_ID_LEN];
    hex::decode_to_slice(words.next()?, &mut store_id).ok()?;
    let (batch, count) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let header = STANDARD_NO_PAD.decode(words.next()?).ok()?;
    Some(Parsed::Head { head: Head { store_id, header }, batch, count })
}

fn parse_sum(text: &str) -> Option<u32> {
    (text.len() == SUM_LEN).then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

/// Computes the sum of texts, each followed by a space.
fn sum_of(parts: &[&str]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part.as_bytes());
        hasher.update(b" ");
    }
    hasher.finalize()
}

pub fn push_create(out: &mut String, batch: u64, n: usize, of: usize, name: &str, record: &[u8]) {
    let began = push_line(out, batch, n, of, '+', name);
    let head_at = began + SUM_LEN + 1;
    let text = STANDARD_NO_PAD.encode(record);
    let sum = sum_of(&[&out[head_at..], &text]);
    let _ = writeln!(out, " {sum:08x} {text}");
}

pub fn push_other(out: &mut String, batch: u64, n: usize, of: usize, operation: char, name: &str) {
    push_line(out, batch, n, of, operation, name);
    out.push('\n');
}

fn push_line(out: &mut String, batch: u64, n: usize, of: usize, operation: char, name: &str) -> usize {
    let head = format!("{batch} {n}/{of} {operation} {name}");
    let began = out.len();
    let _ = write!(out, "{:08x} {head}", sum_of(&[&head]));
    began
}
