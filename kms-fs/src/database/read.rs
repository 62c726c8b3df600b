//! Reading all entries of a database, whole or damaged.

use std::ops::Bound;
use std::path::Path;

use super::quiet::quietly;
use super::trees::{DAMAGED, failed};
use crate::entries::Entries;
use crate::error::OpenError;

/// Reads all entries.
pub fn entries(records: &sled::Tree, path: &Path) -> Result<Entries, OpenError> {
    let read = || {
        let mut entries = Entries::new();
        for entry in records {
            let (name, value) = entry.map_err(|error| failed("access store", path, error))?;
            entries.insert(name_of(&name, path)?, Some(&value));
        }
        entries.shrink();
        Ok(entries)
    };
    quietly(read).unwrap_or_else(|| Err(OpenError::corrupt(path, DAMAGED)))
}

fn name_of<'a>(name: &'a [u8], path: &Path) -> Result<&'a str, OpenError> {
    std::str::from_utf8(name).map_err(|_| OpenError::corrupt(path, "a name is not UTF-8"))
}

/// Reads the legible entries. Also returns the number of places that cannot be read.
pub fn legible_entries(records: &sled::Tree) -> (Entries, usize) {
    let (mut entries, mut holes) = (Entries::new(), 0);
    let mut from = Bound::Unbounded;
    loop {
        let read = quietly(|| {
            let mut last = None;
            for entry in records.range::<Vec<u8>, _>((from.clone(), Bound::Unbounded)) {
                let Ok((name, value)) = entry else { return (last, true) };
                if let Ok(name) = std::str::from_utf8(&name) {
                    entries.insert(name, Some(&value));
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
        match next_legible(records, &last.unwrap_or_default()) {
            Some(next) => from = Bound::Included(next),
            None => return (entries, holes),
        }
    }
}

/// Finds a name after `last` from which on entries can be read.
fn next_legible(records: &sled::Tree, last: &[u8]) -> Option<Vec<u8>> {
    /// The length of a text that is longer than any name.
    const LEN: usize = 160;
    let legible = |from: &[u8]| {
        let range = (Bound::Included(from.to_vec()), Bound::Unbounded);
        let next = quietly(|| records.range::<Vec<u8>, _>(range).next());
        matches!(next, Some(Some(Ok(_))))
    };
    let padded = |name: &[u8], with: u8| {
        let mut padded = name.to_vec();
        padded.resize(LEN, with);
        padded
    };
    // The search moves away in growing steps, and then back to the end of the damage.
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

/// Returns the number in the middle between two big-endian numbers of the same length.
///
/// Returns `None` where no number lies between them.
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
