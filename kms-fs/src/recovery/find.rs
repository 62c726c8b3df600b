//! Reading a database, whole or damaged.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use super::directory::{COPY, names_in, remove_directory};
use super::merge::Database;
use crate::config::FsConfig;
use crate::database::{DATABASE, Engine, SLED_LOG};
use crate::disk::{self, Ballast};
use crate::error::OpenError;
use crate::journal::Scan;

/// A database that was found.
pub struct Found {
    pub header: Option<Vec<u8>>,
    pub database: Database,
    /// The open database, if it is the store's own and undamaged.
    pub engine: Option<Engine>,
    /// Whether the database opens with all of its files.
    pub opens: bool,
}

/// Finds out what is left of a database whose journal reads as `scan`.
///
/// Returns `None` where nothing of it can be read. sled may erase what it cannot read, so a copy is tried
/// before the database itself. Only where the journal alone could replace the database is it opened at once.
///
/// `last` is the number of the last batch that is known to be acknowledged, or 0. `opened` is what came of an earlier
/// attempt to open the database in place.
pub fn find(
    config: &FsConfig,
    scan: Option<&Scan<'_>>,
    last: u64,
    opened: Option<Result<Engine, OpenError>>,
    notes: &mut Vec<String>,
) -> Result<Option<Found>, OpenError> {
    // A journal with a torn end is whole if it is known how far it has to reach.
    let has_all =
        |scan: &Scan<'_>| scan.is_whole() && scan.last >= last && (scan.tail.is_empty() || last > 0);
    if let Some(scan) = scan.filter(|scan| has_all(scan)) {
        match open_in_place(config, Some(scan), opened) {
            Ok(found) => return Ok(Some(found)),
            Err(error) if !is_unusable(&error) => return Err(error),
            Err(OpenError::Corrupt { why, .. }) => notes.push(why),
            Err(error) => notes.push(error.to_string()),
        }
        // The journal holds enough, except for a batch at its end that may have been damaged since.
        return if scan.tail.is_empty() { Ok(None) } else { read_copy(config, &config.path.join(COPY)) };
    }
    if let Some(Ok(engine)) = opened {
        engine.close();
    }
    let copy = config.path.join(COPY);
    match read_copy(config, &copy) {
        Ok(Some(found))
            if found.opens
                && found.database.damage.is_none()
                && (scan.is_some() || last > 0 || found.database.batch.is_none())
                && found.database.batch.max(scan.map(Scan::newest)).unwrap_or_default() >= last =>
        {
            open_in_place(config, None, None).map(Some)
        }
        Ok(found) => {
            if found.as_ref().is_some_and(|found| !found.opens) {
                notes
                    .push("the snapshot of the database cannot be read, and its log was replayed".to_owned());
            }
            Ok(found)
        }
        // There is no room for a copy. As long as that is so, nothing else is written either.
        Err(error) if error.is_full() => open_in_place(config, None, None).map(Some),
        Err(error) => Err(error),
    }
}

/// Returns whether an error is about the database's own files, and not about the file system below them.
fn is_unusable(error: &OpenError) -> bool {
    match error {
        OpenError::Corrupt { .. } => true,
        OpenError::Io { source, .. } => {
            matches!(
                source.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
            )
        }
        _ => false,
    }
}

/// Opens the database itself.
///
/// Where there is a whole journal, its entries are decoded meanwhile. Nearly always the database holds the same, which
/// is found out without a second copy of them.
fn open_in_place(
    config: &FsConfig,
    journal: Option<&Scan<'_>>,
    opened: Option<Result<Engine, OpenError>>,
) -> Result<Found, OpenError> {
    let (engine, journal) = thread::scope(|scope| {
        let opening = scope.spawn(|| opened.unwrap_or_else(|| open_with_room(config)));
        let journal = journal.map(|scan| (scan.entries(), scan.last));
        (opening.join().unwrap_or_else(|why| resume_unwind(why)), journal)
    });
    let engine = engine?;
    if let (Ok(header), Ok(batch)) = (engine.header(), engine.batch())
        && header.is_some()
    {
        let journal = journal.filter(|(_, last)| batch.is_some_and(|batch| batch <= *last));
        let same = journal.filter(|(entries, _)| engine.holds(entries, true).unwrap_or(false));
        let is_as_journal = same.is_some();
        if let Ok(entries) = same.map_or_else(|| engine.entries(), |(entries, _)| Ok(entries)) {
            let database = Database { entries, batch, damage: None, is_as_journal };
            return Ok(Found { header, database, engine: Some(engine), opens: true });
        }
    }
    let found = look_into(&engine);
    engine.close();
    Ok(found)
}

/// Opens the database, and gives up the ballast for that where the disk is full.
pub fn open_with_room(config: &FsConfig) -> Result<Engine, OpenError> {
    Engine::open(config).or_else(|error| {
        if !error.is_full() {
            return Err(error);
        }
        let given = Ballast::new(config).give_up();
        given.map_err(OpenError::io("give up the reserve on the disk of", &config.path))?;
        Engine::open(config)
    })
}

/// Reads a copy of the database. Returns `None` where there is nothing to be read.
///
/// Nothing is written to the database itself. If its copy does not open, a second one is made without snapshot
/// and settings. They only save sled work: the log holds everything.
pub fn read_copy(config: &FsConfig, copy: &Path) -> Result<Option<Found>, OpenError> {
    let original = config.path.join(DATABASE);
    let log = original.join(SLED_LOG);
    match log.metadata() {
        Ok(found) if found.is_file() => {}
        // A file that cannot be looked at is not lost.
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Err(OpenError::io("look at", log)(error));
        }
        _ => return Ok(None),
    }
    let outcome = read_copies(config, &original, copy);
    // This also cleans up after a copy for which there was no room.
    let removed = remove_directory(copy).map_err(OpenError::io("remove the copy", copy));
    let found = outcome?;
    removed.map(|()| found)
}

fn read_copies(config: &FsConfig, original: &Path, copy: &Path) -> Result<Option<Found>, OpenError> {
    let mut best: Option<Found> = None;
    for only_log in [false, true] {
        copy_database(original, copy, only_log)?;
        let Ok(engine) = Engine::open_copy(copy, config) else { continue };
        let mut found = look_into(&engine);
        engine.close();
        found.opens = !only_log;
        if only_log && found.database.damage.is_none() {
            let (log, replayed) = (original.join(SLED_LOG), copy.join(SLED_LOG));
            let erased = was_erased(&log, &replayed).map_err(OpenError::io("read", &log))?;
            found.database.damage =
                erased.then(|| "the log of the database is damaged, and its replay ended there".to_owned());
        }
        let better = best.as_ref().is_none_or(|best| {
            (found.header.is_some(), found.database.entries.len())
                > (best.header.is_some(), best.database.entries.len())
        });
        if better {
            best = Some(found);
        }
        if best.as_ref().is_some_and(|best| best.header.is_some() && best.database.damage.is_none()) {
            break;
        }
    }
    Ok(best)
}

/// Reads everything that can be read of an open database.
fn look_into(engine: &Engine) -> Found {
    let header = engine.header().ok().flatten();
    let batch = engine.batch();
    let (entries, damage) = if let Ok(entries) = engine.entries() {
        (entries, None)
    } else {
        let (entries, holes) = engine.legible_entries();
        (entries, Some(format!("the database cannot be read in {holes} places")))
    };
    let damage = damage.or_else(|| {
        (header.is_none() || batch.is_err()).then(|| "the database has no legible header".to_owned())
    });
    Found {
        header,
        database: Database { entries, batch: batch.ok().flatten(), damage, is_as_journal: false },
        engine: None,
        opens: true,
    }
}

fn copy_database(original: &Path, copy: &Path, only_log: bool) -> Result<(), OpenError> {
    remove_directory(copy).map_err(OpenError::io("remove the copy", copy))?;
    DirBuilder::new().mode(0o700).create(copy).map_err(OpenError::io("make the copy", copy))?;
    for name in names_in(original).map_err(OpenError::io("read directory", original))? {
        let file = original.join(&name);
        if file.is_file() && (!only_log || name == SLED_LOG) {
            let source = fs::File::open(&file).map_err(OpenError::io("open", &file))?;
            let target = copy.join(&name);
            disk::copy_file(&source, &target).map_err(OpenError::io("copy the database to", &target))?;
        }
    }
    Ok(())
}

/// Returns whether the replay of a log erased something. sled overwrites with zeros what it takes for torn.
fn was_erased(log: &Path, replayed: &Path) -> io::Result<bool> {
    const BLOCK: usize = 64 << 10;
    let (log, replayed) = (fs::File::open(log)?, fs::File::open(replayed)?);
    let (mut before, mut after) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut offset = 0;
    loop {
        let len = log.read_at(&mut before, offset)?;
        let same = replayed.read_at(&mut after[..len.max(1)], offset)?;
        if len == 0 || same == 0 {
            return Ok(false);
        }
        if before[..len.min(same)].iter().zip(&after).any(|(before, after)| *before != 0 && *after == 0) {
            return Ok(true);
        }
        offset += len as u64;
    }
}
