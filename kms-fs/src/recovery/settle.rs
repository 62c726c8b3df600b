//! Making journal and database hold the same entries.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::directory::{DAMAGED, REPAIRED, name_aside};
use crate::config::FsConfig;
use crate::database::{DATABASE, Engine, MAX_COMMIT_LEN, MAX_VALUE_LEN};
use crate::disk;
use crate::entries::{Change, Entries};
use crate::error::OpenError;
use crate::journal::{Head, Journal, MARK_FILE, Scan};

/// What is known about the files that are to hold the entries.
#[derive(Default)]
pub struct Known<'a> {
    /// The journal, if it says exactly this.
    pub scan: Option<&'a Scan<'a>>,
    /// An open database that only has to be updated, and the last batch in it.
    pub engine: Option<(Engine, Option<u64>)>,
    /// Whether the database holds exactly this.
    pub database_agrees: bool,
    /// Whether the present journal has records that are no longer served.
    pub journal_has_more: bool,
    /// The number of an acknowledged batch, or 0.
    pub last: u64,
}

/// Makes journal and database hold `entries`, and opens both.
///
/// `notes` gets a text about each file that was set aside.
pub fn settle(
    config: &FsConfig,
    head: &Head,
    entries: &Entries,
    known: Known<'_>,
    notes: &mut Vec<String>,
) -> Result<(Engine, Journal), OpenError> {
    let Known { scan, engine, database_agrees, journal_has_more, last } = known;
    let path = &config.path;
    let (engine, before) = match engine {
        Some((engine, batch)) => (Some(engine), batch),
        None => (None, None),
    };
    let journal_failed = || OpenError::io("write", Journal::path_in(path));
    let journal = if let Some(scan) = scan {
        Journal::open(path, head, scan).map_err(journal_failed())?
    } else {
        let text = Journal::read(path).map_err(journal_failed())?;
        let present = text.as_deref().map(Scan::of);
        let batch = present.as_ref().map_or(0, Scan::newest).max(before.unwrap_or(0)).max(last).max(1);
        if let Some(present) = present {
            let aside = if present.is_whole() && !journal_has_more {
                String::new()
            } else {
                let aside = keep_journal(path).map_err(journal_failed())?;
                format!(", and the one before is kept as '{}'", aside.display())
            };
            notes.push(format!("the journal was written anew{aside}"));
        } else if before.is_some() {
            notes.push("the journal was written anew".to_owned());
        }
        Journal::write(path, head, batch, entries).map_err(journal_failed())?
    };
    let engine = if let Some(engine) = engine {
        bring_up_to_date(&engine, head, entries, journal.batch(), before, database_agrees)?;
        engine
    } else {
        replace_database(config, head, entries, journal.batch(), notes)?;
        Engine::open(config)?
    };
    journal.note_done().map_err(OpenError::io("write", path.join(MARK_FILE)))?;
    Ok((engine, journal))
}

/// Makes an open database hold `entries`, the header, and the number of the journal's last batch.
fn bring_up_to_date(
    engine: &Engine,
    head: &Head,
    entries: &Entries,
    batch: u64,
    before: Option<u64>,
    agrees: bool,
) -> Result<(), OpenError> {
    let failed = |error| OpenError::io("write to the database of", engine.path())(error);
    if !agrees {
        let found = engine.entries()?;
        let surplus = found.iter().filter(|(name, value)| entries.get(name) != Some(*value));
        let missing =
            entries.iter().filter(|(name, value)| value.is_some() && found.get(name) != Some(*value));
        let changes: Vec<Change<'_>> = surplus
            .map(|(name, _)| Change::Delete(name))
            .chain(missing.filter_map(|(name, value)| Some(Change::Create(name, value?))))
            .collect();
        let chunks = changes.chunks(MAX_COMMIT_LEN / MAX_VALUE_LEN);
        chunks.into_iter().try_for_each(|changes| engine.commit(changes, batch)).map_err(failed)?;
    }
    if before != Some(batch) {
        engine.commit(&[], batch).map_err(failed)?;
    }
    if engine.header()?.as_ref() != Some(&head.header) {
        engine.set_header(&head.header)?;
    }
    Ok(())
}

/// Replaces the present database by one that holds `entries`. The present one is kept under another name.
fn replace_database(
    config: &FsConfig,
    head: &Head,
    entries: &Entries,
    batch: u64,
    notes: &mut Vec<String>,
) -> Result<(), OpenError> {
    let path = &config.path;
    let (database, repaired) = (path.join(DATABASE), path.join(REPAIRED));
    let made = Engine::make(config, &head.header, batch, entries)?;
    if database.symlink_metadata().is_ok() {
        fs::rename(&made, &repaired).map_err(OpenError::io("rename", &made))?;
        disk::sync_directory(path)?;
        let aside = name_aside(path, DAMAGED);
        fs::rename(&database, &aside).map_err(OpenError::io("set aside", &database))?;
        disk::sync_directory(path)?;
        fs::rename(&repaired, &database).map_err(OpenError::io("rename", &repaired))?;
        notes.push(format!(
            "the database was made anew, and the damaged one is kept as '{}'",
            aside.display()
        ));
    } else {
        fs::rename(&made, &database).map_err(OpenError::io("rename", &made))?;
    }
    disk::sync_directory(path)
}

/// Keeps the journal under another name too, before it is replaced.
fn keep_journal(path: &Path) -> io::Result<PathBuf> {
    let (journal, aside) = (Journal::path_in(path), name_aside(path, "journal.damaged-"));
    if fs::hard_link(&journal, &aside).is_err() {
        disk::copy_file(&fs::File::open(&journal)?, &aside)?; // a file system without links
    }
    Ok(aside)
}
