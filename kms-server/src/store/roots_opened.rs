//! When each root of a local store last opened it: a note of the server in the directory of the store.
//!
//! The server of such a store is stopped while an operator looks at its roots, so nobody could be asked. The note decides nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use kms_core::roots::Rooted;
use tokio::sync::watch;

use crate::host::files::{self, PRIVATE};

/// The name of the note in the directory of the store.
const FILE: &str = "roots-opened.json";

/// The times by the ids of the roots.
pub type Times = BTreeMap<String, Timestamp>;

/// Returns the place of the note.
pub fn file_in(store: &Path) -> PathBuf {
    store.join(FILE)
}

/// Reads the note. What is absent or unreadable is not known.
pub fn read(store: &Path) -> Times {
    let text = std::fs::read(file_in(store)).unwrap_or_default();
    let noted: BTreeMap<String, String> = serde_json::from_slice(&text).unwrap_or_default();
    noted.into_iter().filter_map(|(id, at)| Some((id, at.parse().ok()?))).collect()
}

/// Writes the note now, and after each look at the roots, until `rooted` is dropped.
pub fn keep(store: &Path, rooted: &Rooted) {
    let (sender, mut receiver) = watch::channel(Times::new());
    rooted.tell_openings(move |last| {
        let last = last.iter().map(|(id, at)| (id.to_string(), *at));
        sender.send_replace(last.collect());
    });
    let store = store.to_owned();
    tokio::spawn(async move {
        let mut was_written = true;
        while receiver.changed().await.is_ok() {
            let seen = receiver.borrow_and_update().clone();
            let place = store.clone();
            let written = tokio::task::spawn_blocking(move || write(&place, seen)).await;
            if let Ok(Err(error)) = &written
                && was_written
            {
                tracing::warn!(
                    "when roots last opened cannot be noted: {}",
                    files::failed(&file_in(&store), error)
                );
            }
            was_written = matches!(written, Ok(Ok(())));
        }
    });
}

/// Adds what was seen to the note.
fn write(store: &Path, seen: Times) -> std::io::Result<()> {
    let mut times = read(store);
    times.extend(seen);
    let times: BTreeMap<_, _> = times.iter().map(|(id, at)| (id, format!("{at:.0}"))).collect();
    files::replace(&file_in(store), &serde_json::to_vec(&times)?, PRIVATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_keeps_the_times_of_roots_that_open_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path();
        assert!(read(store).is_empty());
        let at = |second| Timestamp::from_second(second).unwrap();
        write(store, Times::from([("one".into(), at(1)), ("two".into(), at(1))])).unwrap();
        write(store, Times::from([("two".into(), at(2))])).unwrap();
        assert_eq!(read(store), Times::from([("one".into(), at(1)), ("two".into(), at(2))]));
        std::fs::write(file_in(store), "{").unwrap();
        assert!(read(store).is_empty());
        write(store, Times::from([("one".into(), at(3))])).unwrap();
        assert_eq!(read(store).len(), 1);
    }
}
