//! What a store holds, judged by its journal and its database together.
//!
//! Whichever is whole and newer decides. Where neither is, what both tell is put together; a name of which no record is left
//! is known to have been there, and where not even the names are known, nothing that is not found may be taken for
//! absent.

use std::thread;

use crate::engine::Entries;
use crate::journal::{Damage, Line, Says, Scan};

/// What a database holds.
#[derive(Default)]
pub struct Database {
    pub entries: Entries,
    /// The last batch of the journal that is in it; `None` where it was written by a release without a journal.
    pub batch: Option<u64>,
    /// What of it cannot be read, or was left out of its replay.
    pub damage: Option<String>,
}

/// What the store holds.
#[derive(Default)]
pub struct Merged {
    pub entries: Entries,
    /// Why a name that is not found may have been there all the same.
    pub doubt: Option<String>,
    /// What was mended, for the log.
    pub notes: Vec<String>,
    /// Whether the journal says just this, so that it need not be written anew.
    pub journal_agrees: bool,
    /// Whether the database, as far as it could be read, holds just this.
    pub database_agrees: bool,
    /// Whether the database has entries that a whole journal knows nothing of. They are not served, and not destroyed either.
    pub has_strays: bool,
}

/// Judges what the store holds.
///
/// A journal that is whole begins with all that the store held, so what it does not have was deleted or never acknowledged.
pub fn merge(scan: Option<&Scan<'_>>, database: Option<Database>) -> Merged {
    match (scan, database) {
        (None, None) => {
            Merged { doubt: Some("neither journal nor database can be read".into()), ..Merged::default() }
        }
        (None, Some(database)) => Merged {
            entries: database.entries,
            database_agrees: database.damage.is_none(),
            doubt: database.damage.map(|damage| format!("{damage}, and there is no journal")),
            ..Merged::default()
        },
        (Some(scan), None) => by_journal(scan, Entries::new(), None),
        (Some(scan), Some(database)) => {
            let Database { entries, batch, damage } = database;
            match (batch, damage) {
                (Some(batch), None) if !(scan.is_whole() && scan.last >= batch) => {
                    by_database(scan, entries, batch)
                }
                (Some(batch), None) => by_whole_journal(scan, entries, batch),
                (None, None) => by_journal(scan, entries, None),
                (_, Some(damage)) => by_journal(scan, entries, Some(damage)),
            }
        }
    }
}

/// The journal is whole, and not older than the database: it decides.
fn by_whole_journal(scan: &Scan<'_>, mut entries: Entries, batch: u64) -> Merged {
    let mut scratch = Vec::new();
    let (mut put_back, mut found, mut recovered) = (0_usize, 0_usize, 0_usize);
    let before = entries.len();
    // Nearly always both say the same, which is found without a search in the tree.
    let lives = scan.names.values().filter(|line| !matches!(line.says, Says::Deleted)).count();
    if lives == before && says_the_same(scan, &entries) {
        let mut merged = Merged { entries, journal_agrees: true, database_agrees: true, ..Merged::default() };
        if scan.last > batch {
            merged.lose(scan, &scan.tail);
        }
        return merged;
    }
    for (name, line) in &scan.names {
        match (line.says, entries.get_mut(*name)) {
            (Says::Deleted, _) => {}
            (Says::Lost, Some(_)) => {
                found += 1;
                recovered += 1;
            }
            (Says::Lost, None) => drop(entries.insert((*name).to_owned(), None)),
            (says, Some(Some(record))) if says.is_record(record, &mut scratch) => found += 1,
            (says, Some(record)) => {
                found += 1;
                put_back += 1;
                *record = says.record();
            }
            (says, None) => {
                put_back += 1;
                entries.insert((*name).to_owned(), says.record());
            }
        }
    }
    let surplus = before - found;
    let mut strays = 0_usize;
    if surplus > 0 {
        let lives = |name: &str| scan.names.get(name).is_some_and(|line| !matches!(line.says, Says::Deleted));
        strays = entries.keys().filter(|name| !lives(name) && !scan.is_news(name, batch)).count();
        entries.retain(|name, _| lives(name));
    }
    let mut merged = Merged {
        entries,
        journal_agrees: recovered == 0,
        database_agrees: put_back == 0 && surplus == 0,
        has_strays: strays > 0,
        ..Merged::default()
    };
    note(&mut merged.notes, put_back, "were put back into the database from the journal");
    note(
        &mut merged.notes,
        surplus - strays,
        "that the journal says are deleted were taken out of the database",
    );
    note(&mut merged.notes, strays, "were in the database that the journal does not have");
    note(&mut merged.notes, recovered, "that had been lost were found again in the database");
    if scan.last > batch {
        // The batch that was being written when the process ended has the number after the last one of the database.
        merged.lose(scan, &scan.tail);
    }
    merged
}

/// Tells whether the journal has each of these entries as it is; looked at on all processors, since it is so at each start.
fn says_the_same(scan: &Scan<'_>, entries: &Entries) -> bool {
    let entries: Vec<_> = entries.iter().collect();
    let threads = thread::available_parallelism().map_or(1, usize::from).min(8);
    let same = &|part: &[(&String, &Option<Box<[u8]>>)]| {
        let mut scratch = Vec::new();
        part.iter().all(|(name, record)| {
            let (Some(line), Some(record)) = (scan.names.get(name.as_str()), record) else { return false };
            line.says.is_record(record, &mut scratch)
        })
    };
    thread::scope(|scope| {
        let parts = entries.chunks(entries.len().div_ceil(threads).max(1));
        let readers: Vec<_> = parts.map(|part| scope.spawn(move || same(part))).collect();
        readers.into_iter().all(|reader| reader.join().unwrap_or(false))
    })
}

/// The database is whole, and the journal is not, or is older: what the database has not seen comes from the journal.
fn by_database(scan: &Scan<'_>, mut entries: Entries, batch: u64) -> Merged {
    let newest = scan.newest();
    let mut applied = 0;
    for (name, Line { says, .. }) in scan.names.iter().filter(|(_, line)| line.batch > batch) {
        applied += 1;
        match says {
            Says::Deleted => drop(entries.remove(*name)),
            _ => drop(entries.insert((*name).to_owned(), says.record())),
        }
    }
    // The batch after the last one that the database has was never acknowledged if nothing came after it.
    let acknowledged =
        |damage: &&Damage<'_>| damage.batch > batch && !(damage.batch == batch + 1 && newest == batch + 1);
    let lost: Vec<_> = scan.damage.iter().chain(&scan.tail).filter(acknowledged).copied().collect();
    let mut merged = Merged { entries, ..Merged::default() };
    if !scan.damage.is_empty() || scan.head.is_none() {
        merged.notes.push("the journal was damaged; it was written anew from the database".to_owned());
    } else if scan.last < batch {
        merged.notes.push("the journal ended too early; it was written anew from the database".to_owned());
    }
    note(&mut merged.notes, applied, "were put into the database from the journal");
    merged.lose(scan, &lost);
    merged
}

/// The database is damaged, or of unknown age: lines of the journal decide, and what only the database has is kept.
fn by_journal(scan: &Scan<'_>, mut entries: Entries, damage: Option<String>) -> Merged {
    for (name, line) in &scan.names {
        match line.says {
            Says::Deleted => drop(entries.remove(*name)),
            says => drop(entries.insert((*name).to_owned(), says.record())),
        }
    }
    if scan.is_whole() {
        entries.retain(|name, _| damage.is_none() || scan.names.contains_key(name.as_str()));
    }
    let lost: Vec<_> = scan.damage.iter().chain(&scan.tail).copied().collect();
    let mut merged = Merged { entries, ..Merged::default() };
    merged.notes.extend(damage);
    if scan.head.is_none() {
        merged.doubt = Some("the head of the journal is damaged, and so is the database".to_owned());
    }
    merged.lose(scan, &lost);
    merged
}

impl Merged {
    /// Notes what damaged lines of the journal told and nothing else tells.
    fn lose(&mut self, scan: &Scan<'_>, lost: &[Damage<'_>]) {
        let mut unnamed = false;
        for Damage { batch, name } in lost {
            match name {
                // A later line about the same name is what counts.
                Some(name) if scan.names.get(name).is_some_and(|line| line.batch > *batch) => {}
                Some(name) if self.entries.get(*name).is_some_and(Option::is_some) => {}
                Some(name) => {
                    self.entries.insert((*name).to_owned(), None);
                    self.journal_agrees = false;
                }
                None => unnamed = true,
            }
        }
        if unnamed {
            let why = "lines of the journal cannot be read, and the database does not have what they told";
            self.doubt.get_or_insert_with(|| why.to_owned());
        }
    }
}

fn note(notes: &mut Vec<String>, count: usize, what: &str) {
    match count {
        0 => {}
        1 => notes.push(format!("1 entry {}", what.replacen("were", "was", 1))),
        count => notes.push(format!("{count} entries {what}")),
    }
}
