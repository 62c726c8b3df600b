//! Reading all entries of a database, whole or damaged.

use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::quiet::quietly;
use super::trees::{DAMAGED, failed};
use crate::entries::Entries;
use crate::error::OpenError;

type Entry = (String, Option<Box<[u8]>>);

type Piece = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Reads all entries on all processors, since reading takes most of the time of a start.
pub fn entries(records: &sled::Tree, path: &Path) -> Result<Entries, OpenError> {
    let ends = quietly(|| records.first().and_then(|first| Ok((first, records.last()?))));
    let ends = ends.ok_or_else(|| OpenError::corrupt(path, DAMAGED))?;
    let (Some((first, _)), Some((last, _))) = ends.map_err(|error| failed("access store", path, error))?
    else {
        return Ok(Entries::new());
    };
    let pieces = pieces(&first, &last);
    let next = AtomicUsize::new(0);
    let read = || {
        let mut read = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(number) else { return Ok(read) };
            let entries = quietly(|| read_piece(records, piece.clone(), path));
            read.push((number, entries.unwrap_or_else(|| Err(OpenError::corrupt(path, DAMAGED)))?));
        }
    };
    let parts: Result<Vec<Vec<_>>, OpenError> = thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(8);
        let readers: Vec<_> = (0..threads).map(|_| scope.spawn(read)).collect();
        readers
            .into_iter()
            .map(|reader| reader.join().map_err(|_| OpenError::corrupt(path, DAMAGED))?)
            .collect()
    });
    let mut parts: Vec<_> = parts?.into_iter().flatten().collect();
    // Names that come in order make the index without further comparisons.
    parts.sort_unstable_by_key(|(number, _)| *number);
    Ok(parts.into_iter().flat_map(|(_, entries)| entries).collect())
}

fn read_piece(records: &sled::Tree, piece: Piece, path: &Path) -> Result<Vec<Entry>, OpenError> {
    let mut read = Vec::new();
    for entry in records.range::<Vec<u8>, _>(piece) {
        let (name, value) = entry.map_err(|error| failed("access store", path, error))?;
        let name = std::str::from_utf8(&name).map_err(|_| OpenError::corrupt(path, "a name is not UTF-8"))?;
        read.push((name.to_owned(), Some(value.as_ref().into())));
    }
    Ok(read)
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

/// Cuts the names from `first` to `last` into ranges of about the same width. Together they hold every name.
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

#[cfg(test)]
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
