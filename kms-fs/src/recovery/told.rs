//! What an operator is told of a store.

use std::path::Path;

use crate::entries::Entries;

/// Says what was mended, which records are lost, and why the store takes no writes: a sentence each.
pub fn told(path: &Path, notes: &[String], entries: &Entries, read_only: Option<&str>) -> Vec<String> {
    let at = |text: String| format!("store '{}': {text}", path.display());
    let mut told = Vec::new();
    if !notes.is_empty() {
        told.push(at(notes.join("; ")));
    }
    let lost: Vec<&str> = if entries.lost() == 0 {
        Vec::new()
    } else {
        entries.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect()
    };
    if !lost.is_empty() {
        told.push(at(format!(
            "the records of {} keys are lost unless a backup has them: {}",
            lost.len(),
            few(&lost)
        )));
    }
    told.extend(read_only.map(|why| {
        at(format!(
            "it is read-only, and a key that is not found may have been lost: {why}; restore a backup, or see \
             'kms key discard'"
        ))
    }));
    told
}

/// Lists the first names for a line of the log. `kms check` lists all of them.
fn few(names: &[&str]) -> String {
    const MOST: usize = 20;
    match names.len().checked_sub(MOST) {
        None | Some(0) => names.join(", "),
        Some(rest) => format!("{} and {rest} more", names[..MOST].join(", ")),
    }
}
