//! Comparing a database with the entries of the journal.

use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::quiet::quietly;
use super::trees::{DAMAGED, failed};
use crate::entries::{Entries, Iter};
use crate::error::OpenError;

type Piece = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The blocks of entries that a reader takes at once.
const BLOCKS: usize = 32;

/// Returns whether a database holds exactly those of `entries` whose values are not lost.
pub fn holds(
    records: &sled::Tree,
    entries: &Entries,
    is_urgent: bool,
    path: &Path,
) -> Result<bool, OpenError> {
    let parts: Vec<_> = entries.parts(BLOCKS).collect();
    let first = |number: usize| parts.get(number).and_then(|part| part.clone().next());
    let piece = |number: usize| -> Piece {
        let start = first(number).filter(|_| number > 0);
        let bytes = |(name, _): (&str, _)| name.as_bytes().to_vec();
        (
            start.map_or(Bound::Unbounded, |start| Bound::Included(bytes(start))),
            first(number + 1).map_or(Bound::Unbounded, |end| Bound::Excluded(bytes(end))),
        )
    };
    let (next, differs) = (AtomicUsize::new(0), AtomicBool::new(false));
    let compare = || {
        while !differs.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let part = match parts.get(number) {
                Some(part) => part.clone(),
                // Where there are no entries, there is a piece all the same.
                None if number == 0 => entries.iter(),
                None => break,
            };
            let same = quietly(|| holds_piece(records, piece(number), part, path));
            if !same.unwrap_or_else(|| Err(OpenError::corrupt(path, DAMAGED)))? {
                differs.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    };
    let threads = if is_urgent { thread::available_parallelism().map_or(1, usize::from).min(8) } else { 1 };
    thread::scope(|scope| {
        let readers: Vec<_> = (1..threads).map(|_| scope.spawn(compare)).collect();
        let mut outcome = compare();
        for reader in readers {
            let other = reader.join().unwrap_or_else(|_| Err(OpenError::corrupt(path, DAMAGED)));
            outcome = outcome.and(other);
        }
        outcome
    })?;
    Ok(!differs.into_inner())
}

fn holds_piece(records: &sled::Tree, piece: Piece, part: Iter<'_>, path: &Path) -> Result<bool, OpenError> {
    let mut part = part.filter_map(|(name, value)| Some((name.as_bytes(), value?)));
    for entry in records.range::<Vec<u8>, _>(piece) {
        let (name, value) = entry.map_err(|error| failed("access store", path, error))?;
        if part.next() != Some((name.as_ref(), value.as_ref())) {
            return Ok(false);
        }
    }
    Ok(part.next().is_none())
}
