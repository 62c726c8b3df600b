//! The lines of an escrow file: how each is written and read.
//!
//! An escrow file is text, so that it can be read in an emergency, and damage ends at the next line:
//!
//! ```text
//! <sum> <batch> <n>/<of> <time> kms-escrow 1                                  what the file is
//! <sum> <batch> <n>/<of> <time> entry <name> <fingerprint> <sha256> <age>      a record, before the store has it
//! <sum> <batch> <n>/<of> <time> stored <batch>/<n> <name> <fingerprint>        the store has that record
//! <sum> <batch> <n>/<of> <time> refused <batch>/<n> <name> <fingerprint>       the store did not take it
//! <sum> <batch> <n>/<of> <time> deleted <name> <fingerprint>                   the key can be restored in the store
//! <sum> <batch> <n>/<of> <time> restored <name> <fingerprint>                  it was restored there
//! <sum> <batch> <n>/<of> <time> removing <name> <fingerprint>                  the store is asked to remove it
//! <sum> <batch> <n>/<of> <time> kept <name> <fingerprint>                      it did not remove it
//! <sum> <batch> <n>/<of> <time> gone <name> <fingerprint>                      it was removed for ever
//! <sum> <batch> <n>/<of> <time> replaced <name> <fingerprint>                  another key has its name in the store
//! <sum> <batch> <n>/<of> <time> torn <batch> <offset>                          what a power cut left, up to here
//! ```
//!
//! A sum is the first 16 hexadecimal digits of the SHA-256 of what follows it, up to the end of the line. That of an entry
//! ends before the base64, whose content has a SHA-256 of its own. So a name stays legible where its record is damaged. Lines of
//! one batch were written and synced at once. A fingerprint that is not known is `-`. Where a line is about one record of a key,
//! a dot and the [mark](kms_core::store::KeyRecord::mark) of that record follow the fingerprint; the first files have none.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

const MAGIC: &str = "kms-escrow";

/// The version of the format.
pub const VERSION: &str = "1";

/// The number of hexadecimal digits of a sum.
const SUM_LEN: usize = 16;

/// The text in the place of a fingerprint that is not known.
const UNKNOWN: &str = "-";

/// The place of a line: its batch, and its number in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub batch: u64,
    pub n: u32,
}

/// What a line is about: an entry of the store, and the key or the record in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// The name of the entry: that of a key, or `.v/<key>/<fingerprint>/<version>`.
    pub name: Box<str>,
    /// The fingerprint in hexadecimal digits, or `-`.
    pub fingerprint: Box<str>,
    /// What tells records of one fingerprint apart; `None` if it is not known, or if all of them are meant.
    pub record: Option<[u8; 8]>,
}

impl Subject {
    /// Creates a subject of all records with a fingerprint. One that is not known is `None`.
    pub fn new(name: &str, fingerprint: Option<&str>) -> Self {
        Self { name: name.into(), fingerprint: fingerprint.unwrap_or(UNKNOWN).into(), record: None }
    }

    /// Reads what a line says of a fingerprint and a record.
    fn parse(name: &str, text: &str) -> Self {
        let mut record = [0; 8];
        match text.split_once('.') {
            Some((fingerprint, digits))
                if hex::decode_to_slice(digits, &mut record).is_ok() && hex::encode(record) == digits =>
            {
                Self { record: Some(record), ..Self::new(name, Some(fingerprint)) }
            }
            _ => Self::new(name, Some(text)),
        }
    }

    /// Returns whether the fingerprint is known.
    pub fn is_known(&self) -> bool {
        &*self.fingerprint != UNKNOWN
    }

    /// Returns whether this is about `other`. What names no fingerprint is about all entries of its name.
    pub fn is_about(&self, other: &Self) -> bool {
        self.name == other.name && !self.is_known() || self.may_be(other)
    }

    /// Returns whether both may be the same record: they are unless both say that they are not.
    pub fn may_be(&self, other: &Self) -> bool {
        let is_record = self.record.is_none() || other.record.is_none() || self.record == other.record;
        self.name == other.name && self.fingerprint == other.fingerprint && is_record
    }

    /// Returns the fingerprint, with what tells the record from others of it if that is known.
    pub fn what(&self) -> String {
        match self.record {
            Some(record) => format!("{}.{}", self.fingerprint, hex::encode(record)),
            None => self.fingerprint.to_string(),
        }
    }
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Says {
    Begins { version: Box<str> },
    Entry { subject: Subject, sealed: Sealed },
    Stored { entry: Place, subject: Subject },
    Refused { entry: Place, subject: Subject },
    Deleted(Subject),
    Restored(Subject),
    Removing(Subject),
    Kept(Subject),
    Gone(Subject),
    Replaced(Subject),
    Torn { batch: u64, offset: u64 },
}

/// A sealed record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sealed {
    Whole(Vec<u8>),
    Damaged,
}

/// A line that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub place: Place,
    /// The number of lines of the batch.
    pub of: u32,
    pub at: Timestamp,
    pub says: Says,
}

impl Line {
    /// Appends the line to `out`.
    pub fn push_to(&self, out: &mut String) {
        let Place { batch, n } = self.place;
        let mut text = format!("{batch} {n}/{} {} ", self.of, self.at);
        let about = |subject: &Subject| format!("{} {}", subject.name, subject.what());
        let of_entry = |entry: &Place, subject| format!("{}/{} {}", entry.batch, entry.n, about(subject));
        let mut record = String::new();
        let said = match &self.says {
            Says::Begins { version } => format!("{MAGIC} {version}"),
            Says::Entry { subject, sealed } => {
                let sealed = if let Sealed::Whole(sealed) = sealed { sealed.as_slice() } else { &[] };
                record = format!(" {}", STANDARD.encode(sealed));
                format!("entry {} {}", about(subject), sha256(sealed))
            }
            Says::Stored { entry, subject } => format!("stored {}", of_entry(entry, subject)),
            Says::Refused { entry, subject } => format!("refused {}", of_entry(entry, subject)),
            Says::Deleted(subject) => format!("deleted {}", about(subject)),
            Says::Restored(subject) => format!("restored {}", about(subject)),
            Says::Removing(subject) => format!("removing {}", about(subject)),
            Says::Kept(subject) => format!("kept {}", about(subject)),
            Says::Gone(subject) => format!("gone {}", about(subject)),
            Says::Replaced(subject) => format!("replaced {}", about(subject)),
            Says::Torn { batch, offset } => format!("torn {batch} {offset}"),
        };
        text.push_str(&said);
        for part in [sum_of(&text).as_str(), " ", &text, &record, "\n"] {
            out.push_str(part);
        }
    }

    /// Reads a line with its end. Returns `None` for one that is damaged.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(bytes.strip_suffix(b"\n")?).ok()?;
        let (sum, rest) = line.split_once(' ')?;
        // Only an entry has more words than those of its sum.
        let end = rest.match_indices(' ').nth(6).map_or(rest.len(), |(at, _)| at);
        let (text, record) = rest.split_at_checked(end)?;
        if sum != sum_of(text) {
            return None;
        }
        let words: Vec<&str> = text.split(' ').collect();
        let [batch, n_of, at, word, said @ ..] = words.as_slice() else { return None };
        let (n, of) = n_of.split_once('/')?;
        let place = Place { batch: batch.parse().ok()?, n: n.parse().ok()? };
        let (of, at) = (of.parse().ok()?, at.parse().ok()?);
        let says = match (*word, said) {
            (MAGIC, [version, ..]) => Says::Begins { version: (*version).into() },
            ("entry", [name, fingerprint, sum]) => {
                let sealed = STANDARD.decode(record.strip_prefix(' ').unwrap_or_default());
                let sealed = sealed.ok().filter(|sealed| sha256(sealed) == *sum);
                let sealed = sealed.map_or(Sealed::Damaged, Sealed::Whole);
                Says::Entry { subject: Subject::parse(name, fingerprint), sealed }
            }
            _ if !record.is_empty() => return None,
            ("stored", [entry, name, fingerprint]) => {
                Says::Stored { entry: place_of(entry)?, subject: Subject::parse(name, fingerprint) }
            }
            ("refused", [entry, name, fingerprint]) => {
                Says::Refused { entry: place_of(entry)?, subject: Subject::parse(name, fingerprint) }
            }
            ("deleted", [name, fingerprint]) => Says::Deleted(Subject::parse(name, fingerprint)),
            ("restored", [name, fingerprint]) => Says::Restored(Subject::parse(name, fingerprint)),
            ("removing", [name, fingerprint]) => Says::Removing(Subject::parse(name, fingerprint)),
            ("kept", [name, fingerprint]) => Says::Kept(Subject::parse(name, fingerprint)),
            ("gone", [name, fingerprint]) => Says::Gone(Subject::parse(name, fingerprint)),
            ("replaced", [name, fingerprint]) => Says::Replaced(Subject::parse(name, fingerprint)),
            ("torn", [batch, offset]) => {
                Says::Torn { batch: batch.parse().ok()?, offset: offset.parse().ok()? }
            }
            _ => return None,
        };
        Some(Self { place, of, at, says })
    }
}

fn place_of(text: &str) -> Option<Place> {
    let (batch, n) = text.split_once('/')?;
    Some(Place { batch: batch.parse().ok()?, n: n.parse().ok()? })
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes))
}

fn sum_of(text: &str) -> String {
    let mut sum = sha256(text.as_bytes());
    sum.truncate(SUM_LEN);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<Line> {
        let subject = Subject::new("my-key", Some("00112233445566778899aabbccddeeff"));
        let entry = Place { batch: 3, n: 1 };
        let record = Subject { record: Some([7; 8]), ..subject.clone() };
        let says = [
            Says::Begins { version: VERSION.into() },
            Says::Entry { subject: subject.clone(), sealed: Sealed::Whole(b"sealed".to_vec()) },
            Says::Entry { subject: Subject::new(".v/k/00/2", None), sealed: Sealed::Whole(vec![0; 300]) },
            Says::Entry { subject: record.clone(), sealed: Sealed::Whole(vec![1; 30]) },
            Says::Stored { entry, subject: record.clone() },
            Says::Refused { entry, subject: subject.clone() },
            Says::Deleted(subject.clone()),
            Says::Restored(subject.clone()),
            Says::Removing(record.clone()),
            Says::Kept(record),
            Says::Gone(subject.clone()),
            Says::Replaced(subject),
            Says::Torn { batch: 7, offset: 12_345 },
        ];
        (1..)
            .zip(says)
            .map(|(n, says)| Line { place: Place { batch: 3, n }, of: 13, at: at(), says })
            .collect()
    }

    fn at() -> Timestamp {
        "2026-01-02T03:04:05.678Z".parse().unwrap()
    }

    #[test]
    fn each_line_reads_as_it_was_written() {
        for line in lines() {
            let mut text = String::new();
            line.push_to(&mut text);
            assert_eq!(Line::parse(text.as_bytes()), Some(line), "{text}");
        }
    }

    #[test]
    fn lines_of_the_first_files_are_read_and_mean_each_record_of_their_key() {
        let text = "1 1/1 2026-01-02T03:04:05.678Z gone my-key 00112233445566778899aabbccddeeff";
        let line = Line::parse(format!("{} {text}\n", sum_of(text)).as_bytes()).unwrap();
        let Says::Gone(old) = line.says else { panic!("{line:?}") };
        let [one, other] = [1, 2].map(|byte| Subject { record: Some([byte; 8]), ..old.clone() });
        assert!(old.is_about(&one) && old.is_about(&other) && one.is_about(&old));
        assert!(!one.is_about(&other) && !one.may_be(&other));
        let name_only = Subject::new("my-key", None);
        assert!(name_only.is_about(&one) && !one.is_about(&name_only));
    }

    #[test]
    fn no_changed_byte_goes_unseen() {
        for line in lines() {
            let mut text = String::new();
            line.push_to(&mut text);
            for at in 0..text.len() {
                for bit in 0..8 {
                    let mut changed = text.clone().into_bytes();
                    changed[at] ^= 1 << bit;
                    // Behind its sum, an entry keeps its name and loses its record.
                    let expected = match &line.says {
                        Says::Entry { subject, .. } => {
                            Some(Says::Entry { subject: subject.clone(), sealed: Sealed::Damaged })
                        }
                        _ => None,
                    };
                    let read = Line::parse(&changed).map(|line| line.says);
                    assert!(read.is_none() || read == expected, "{text}, {at}, {bit}: {read:?}");
                }
                assert_eq!(Line::parse(&text.as_bytes()[..at]), None, "{text} cut at {at}");
            }
        }
    }
}
