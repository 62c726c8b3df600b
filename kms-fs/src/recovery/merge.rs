//! Judging what a store holds, by its journal and its database together.
//!
//! The file that is whole and newer decides. Where neither is, the knowledge of both is put together. A name
//! without a legible record is known to have been there. Where not even the names are known, a name that is not
//! found must not be taken for absent.

use crate::entries::Entries;
use crate::journal::{Damage, Line, Says, Scan};

/// The content of a database.
#[derive(Default)]
pub struct Database {
    pub entries: Entries,
    /// The last batch of the journal that is in it. `None` where a release without a journal wrote it.
    pub batch: Option<u64>,
    /// What of the database cannot be read, or was left out of its replay.
    pub damage: Option<String>,
    /// Whether the database was found to hold what the journal says, so that `entries` are the journal's.
    pub is_as_journal: bool,
}

/// The judged content of a store.
#[derive(Default)]
pub struct Merged {
    pub entries: Entries,
    /// Why a name that is not found may have been there.
    pub doubt: Option<String>,
    /// What was mended, for the log.
    pub notes: Vec<String>,
    /// Whether the journal says exactly this, so that it need not be written anew.
    pub journal_agrees: bool,
    /// Whether the legible part of the database holds exactly this.
    pub database_agrees: bool,
    /// Whether the journal has records that are not in `entries`, and does not say that they were deleted.
    pub journal_has_more: bool,
}

/// Judges what the store holds.
///
/// `last` is the number of an acknowledged batch, or 0 where none is known. Journal and database have to reach
/// it.
pub fn merge(scan: Option<&Scan<'_>>, database: Option<Database>, last: u64) -> Merged {
    let reached = database.as_ref().and_then(|database| database.batch).max(scan.map(Scan::newest));
    let mut merged = judge(scan, database, last);
    if reached.is_some_and(|reached| reached < last) {
        let why = "keys that were acknowledged last are neither in the journal nor in the database";
        merged.doubt.get_or_insert_with(|| why.to_owned());
    }
    merged
}

fn judge(scan: Option<&Scan<'_>>, database: Option<Database>, last: u64) -> Merged {
    match (scan, database) {
        (None, None) => {
            Merged { doubt: Some("neither journal nor database can be read".into()), ..Merged::default() }
        }
        (None, Some(Database { entries, batch, damage, .. })) => {
            let unknown = batch.is_some() && last == 0;
            let unknown = unknown.then(|| "nothing says how far the database has to reach".to_owned());
            Merged {
                entries,
                database_agrees: damage.is_none(),
                doubt: damage.or(unknown).map(|why| format!("{why}, and there is no journal")),
                notes: batch.map(|_| "the journal is missing".to_owned()).into_iter().collect(),
                ..Merged::default()
            }
        }
        (Some(scan), None) => by_journal(scan, Entries::new(), None),
        (Some(scan), Some(database)) => {
            let Database { entries, batch, damage, is_as_journal } = database;
            match (batch, damage) {
                (Some(batch), None) if !(scan.is_whole() && scan.last >= batch) => {
                    by_database(scan, entries, batch, last)
                }
                (Some(batch), None) if is_as_journal => {
                    let mut merged =
                        Merged { entries, journal_agrees: true, database_agrees: true, ..Merged::default() };
                    merged.lose_tail(scan, batch, last);
                    merged
                }
                (Some(batch), None) => by_whole_journal(scan, entries, batch, last),
                (None, None) => by_journal(scan, entries, None),
                (_, Some(damage)) => by_journal(scan, entries, Some(damage)),
            }
        }
    }
}

/// Judges by a journal that is whole and not older than the database.
///
/// Entries of which the journal says nothing are kept. Two lives of one store may have been mixed, and nobody
/// knows whose key that is.
fn by_whole_journal(scan: &Scan<'_>, mut entries: Entries, batch: u64, last: u64) -> Merged {
    let mut buffer = Vec::new();
    let (mut put_back, mut recovered) = (0_usize, 0_usize);
    let strays = entries.iter().filter(|(name, _)| scan.names.get(name).is_none()).count();
    let mut deleted = 0;
    for (name, line) in scan.names.iter() {
        match (line.says, entries.get(name)) {
            (Says::Deleted, found) => {
                deleted += usize::from(found.is_some());
                entries.remove(name);
            }
            (Says::Lost, Some(_)) => recovered += 1,
            (Says::Lost, None) => entries.insert(name, None),
            (says, found) => {
                let says = says.record_in(&mut buffer);
                if found != Some(says) {
                    put_back += 1;
                    entries.insert(name, says);
                }
            }
        }
    }
    let mut merged = Merged {
        entries,
        journal_agrees: recovered == 0 && strays == 0,
        database_agrees: put_back == 0 && deleted == 0,
        ..Merged::default()
    };
    note(&mut merged.notes, put_back, "entries that only the journal has as they are");
    note(&mut merged.notes, deleted, "entries of the database that the journal says are deleted");
    note(
        &mut merged.notes,
        strays,
        "entries of the database that the journal says nothing of, and that are kept",
    );
    note(&mut merged.notes, recovered, "entries that had been lost and are in the database");
    merged.lose_tail(scan, batch, last);
    merged
}

/// Judges by a database that is whole, where the journal is damaged or older.
///
/// What the database has not seen comes from the journal.
fn by_database(scan: &Scan<'_>, mut entries: Entries, batch: u64, last: u64) -> Merged {
    let newest = scan.newest();
    let (mut applied, mut buffer) = (0, Vec::new());
    for (name, Line { says, .. }) in scan.names.iter().filter(|(_, line)| line.batch > batch) {
        applied += 1;
        match says {
            Says::Deleted => drop(entries.remove(name)),
            _ => entries.insert(name, says.record_in(&mut buffer)),
        }
    }
    // The first batch after the database's last one was never acknowledged if no further batch came.
    let acknowledged = |damage: &&Damage<'_>| {
        let is_torn = damage.batch == batch + 1 && newest == batch + 1 && damage.batch > last;
        damage.batch > batch && !is_torn
    };
    let gone: Vec<_> = scan.damage.iter().chain(&scan.tail).filter(acknowledged).copied().collect();
    let mut merged = Merged { entries, ..Merged::default() };
    if !scan.damage.is_empty() || scan.head.is_none() {
        merged.notes.push("the journal is damaged".to_owned());
    } else if scan.last < batch {
        merged.notes.push("the journal ends too early".to_owned());
    }
    note(&mut merged.notes, applied, "changes that are in the journal and not yet in the database");
    let more = scan
        .names
        .iter()
        .filter(|(name, line)| matches!(line.says, Says::Record(_)) && !merged.entries.contains(name));
    let more = more.count();
    merged.journal_has_more = more > 0;
    note(&mut merged.notes, more, "entries of the journal that the database, which is newer, does not have");
    merged.lose(scan, &gone);
    merged
}

/// Judges by the journal, where the database is damaged or of unknown age.
///
/// Entries that only the database has are kept.
fn by_journal(scan: &Scan<'_>, mut entries: Entries, damage: Option<String>) -> Merged {
    let mut buffer = Vec::new();
    for (name, line) in scan.names.iter() {
        match line.says {
            Says::Deleted => drop(entries.remove(name)),
            says => entries.insert(name, says.record_in(&mut buffer)),
        }
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
    /// Notes what the unreadable end of the journal said.
    ///
    /// The batch after the database's last one does not count if it was never acknowledged.
    fn lose_tail(&mut self, scan: &Scan<'_>, batch: u64, last: u64) {
        if scan.last > batch || last > scan.last {
            self.lose(scan, &scan.tail);
        }
    }

    /// Notes what damaged lines of the journal said, if nothing else says it.
    fn lose(&mut self, scan: &Scan<'_>, lost: &[Damage<'_>]) {
        let mut unnamed = false;
        for Damage { batch, name } in lost {
            match name {
                // A later line about the same name decides.
                Some(name) if scan.names.get(name).is_some_and(|line| line.batch > *batch) => {}
                Some(name) if self.entries.get(name).is_some_and(|value| value.is_some()) => {}
                Some(name) => {
                    self.entries.insert(name, None);
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
    if count > 0 {
        notes.push(format!("{what}: {count}"));
    }
}
