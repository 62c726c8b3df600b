//! What lies in a store's directory, what of it can be read, and how it is put right.
//!
//! A database that does not open is read from a copy, and set aside as `sled.damaged-<time>` when another was made of
//! what the journal and it hold. Every step can be cut off: the next start finds the journal as it was or as it
//! will be, and a database, or none, of which the journal makes another.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::ballast::{BALLAST_FILE, Ballast};
use crate::config::FsConfig;
use crate::disk;
use crate::engine::{Change, DATABASE, Engine, Entries, MAX_COMMIT_LEN, MAX_VALUE_LEN, SLED_LOG, UNFINISHED};
use crate::error::OpenError;
use crate::journal::{Head, JOURNAL_FILE, Journal, Scan};
use crate::lock::LOCK_FILE;
use crate::mark::MARK_FILE;
use crate::merge::Database;

/// A copy of the database, to be looked into.
pub const COPY: &str = "sled.copy";
/// A database that is whole and waits for the name of the one that it replaces.
const REPAIRED: &str = "sled.repaired";
/// What the name of a database that was set aside begins with.
const DAMAGED: &str = "sled.damaged-";

/// Tells whether a store was made in `path`, whatever has become of it. A directory that cannot be read is an error.
pub fn exists(path: &Path) -> Result<bool, OpenError> {
    const PARTS: [&str; 4] = [DATABASE, JOURNAL_FILE, MARK_FILE, REPAIRED];
    let names = match names_in(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        names => names.map_err(OpenError::io("read directory", path))?,
    };
    Ok(names.iter().any(|name| PARTS.contains(&name.as_str()) || name.starts_with(DAMAGED)))
}

/// Finds a file in `path` that no store of ours put there.
///
/// The file `root_key`, if it lies there, is none: that is unwise, and told elsewhere.
pub fn foreign_file(path: &Path, root_key: Option<&Path>) -> Result<Option<String>, OpenError> {
    const OURS: [&str; 5] = [LOCK_FILE, BALLAST_FILE, UNFINISHED, "journal.new", "lost+found"];
    let root_key = root_key.and_then(|file| file.canonicalize().ok());
    let names = names_in(path).map_err(OpenError::io("read directory", path))?;
    let is_root_key = |name: &str| root_key.is_some() && path.join(name).canonicalize().ok() == root_key;
    Ok(names.into_iter().find(|name| !OURS.contains(&name.as_str()) && !is_root_key(name)))
}

/// Completes, or removes, what a start that was cut off has left.
pub fn clean_up(path: &Path) -> Result<(), OpenError> {
    let failed = |name: &str| OpenError::io("clean up", path.join(name));
    Journal::clean_up(path).map_err(failed("journal.new"))?;
    remove_directory(&path.join(COPY)).map_err(failed(COPY))?;
    let (repaired, database) = (path.join(REPAIRED), path.join(DATABASE));
    if is_there(&repaired).map_err(failed(REPAIRED))? {
        if is_there(&database).map_err(failed(DATABASE))? {
            // It has not got its name yet; what it holds, the journal holds too.
            remove_directory(&repaired).map_err(failed(REPAIRED))?;
        } else {
            fs::rename(&repaired, &database).map_err(failed(REPAIRED))?;
            disk::sync_directory(path)?;
        }
    }
    Ok(())
}

/// What was found of a database.
pub struct Found {
    pub header: Option<Vec<u8>>,
    pub database: Database,
    /// The open database, where it is the store's own and as it was written.
    pub engine: Option<Engine>,
    /// Whether it opens as it is, without anything left away.
    pub opens: bool,
}

/// Finds out what there is of a database, for a store whose journal reads as `scan`.
///
/// `None` where nothing of it can be read. Only where the journal alone could replace it is the database opened before
/// a copy of it was tried, since sled may erase what it cannot read.
///
/// `last` is the number of a batch that was acknowledged.
pub fn find(
    config: &FsConfig,
    scan: Option<&Scan<'_>>,
    last: u64,
    notes: &mut Vec<String>,
) -> Result<Option<Found>, OpenError> {
    // A journal with a torn end is no less whole where it is known how far it has to reach.
    let has_all =
        |scan: &Scan<'_>| scan.is_whole() && scan.last >= last && (scan.tail.is_empty() || last > 0);
    if scan.is_some_and(has_all) {
        match open_in_place(config) {
            Ok(found) => return Ok(Some(found)),
            Err(error) if !is_unusable(&error) => return Err(error),
            Err(OpenError::Corrupt { why, .. }) => notes.push(why),
            Err(error) => notes.push(error.to_string()),
        }
        // What the journal holds is enough, but for a batch that may have been damaged since.
        return if scan.is_some_and(|scan| scan.tail.is_empty()) {
            Ok(None)
        } else {
            read_copy(config, &config.path.join(COPY))
        };
    }
    let copy = config.path.join(COPY);
    match read_copy(config, &copy) {
        Ok(Some(found))
            if found.opens
                && found.database.damage.is_none()
                && (scan.is_some() || last > 0 || found.database.batch.is_none())
                && found.database.batch.max(scan.map(Scan::newest)).unwrap_or_default() >= last =>
        {
            open_in_place(config).map(Some)
        }
        Ok(found) => {
            if found.as_ref().is_some_and(|found| !found.opens) {
                notes
                    .push("the snapshot of the database cannot be read, and its log was replayed".to_owned());
            }
            Ok(found)
        }
        // No room for a copy. As long as it is so nothing else will be written.
        Err(error) if error.is_full() => open_in_place(config).map(Some),
        Err(error) => Err(error),
    }
}

/// Tells whether an error is about the database's own files, and not about what lies under them.
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

fn open_in_place(config: &FsConfig) -> Result<Found, OpenError> {
    let engine = Engine::open(config).or_else(|error| {
        if !error.is_full() {
            return Err(error);
        }
        let given = Ballast::new(config).give_up();
        given.map_err(OpenError::io("give up the reserve on the disk of", &config.path))?;
        Engine::open(config)
    })?;
    match (engine.header(), engine.batch(), engine.entries()) {
        (Ok(header), Ok(batch), Ok(entries)) if header.is_some() => {
            let database = Database { entries, batch, damage: None };
            Ok(Found { header, database, engine: Some(engine), opens: true })
        }
        _ => {
            let found = look_into(&engine);
            engine.close();
            Ok(found)
        }
    }
}

/// Reads a copy of the database; `None` where there is nothing to be read.
///
/// Nothing is written to the database itself. Where it does not open, its snapshot and its settings are left away: they only
/// spare sled work, and the log has everything.
pub fn read_copy(config: &FsConfig, copy: &Path) -> Result<Option<Found>, OpenError> {
    let original = config.path.join(DATABASE);
    let log = original.join(SLED_LOG);
    match log.metadata() {
        Ok(found) if found.is_file() => {}
        // What cannot be looked at is not lost.
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Err(OpenError::io("look at", log)(error));
        }
        _ => return Ok(None),
    }
    let outcome = read_copies(config, &original, copy);
    // Also after a copy that failed for want of room.
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

/// Reads what can be read of an open database.
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
        database: Database { entries, batch: batch.ok().flatten(), damage },
        engine: None,
        opens: true,
    }
}

/// What is known of the files that are to hold the entries.
#[derive(Default)]
pub struct Known<'a> {
    /// The journal, where it says just this.
    pub scan: Option<&'a Scan<'a>>,
    /// An open database that only has to be brought up to date, and the last batch in it.
    pub engine: Option<(Engine, Option<u64>)>,
    /// Whether it holds just this.
    pub database_agrees: bool,
    /// Whether the journal that is there has records which are no longer served.
    pub journal_has_more: bool,
    /// The number of a batch that was acknowledged.
    pub last: u64,
}

/// Makes journal and database hold `entries`, and opens both; `notes` is told what was set aside.
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

/// Makes an open database hold `entries`, and the header and the number of the journal's last batch with them.
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
        let differs =
            |name: &String, value: &Option<Box<[u8]>>, other: &Entries| other.get(name) != Some(value);
        let surplus = found.iter().filter(|(name, value)| differs(name, value, entries));
        let missing = entries.iter().filter(|(name, value)| value.is_some() && differs(name, value, &found));
        let changes: Vec<Change<'_>> = surplus
            .map(|(name, _)| Change::Delete(name))
            .chain(missing.filter_map(|(name, value)| Some(Change::Create(name, value.as_deref()?))))
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

/// Puts a database that holds `entries` in the place of the one that is there, which is kept under another name.
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

/// Finds a name for what is set aside now.
fn name_aside(path: &Path, prefix: &str) -> PathBuf {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let names = (now..).map(|time| path.join(format!("{prefix}{time}")));
    names.into_iter().find(|path| path.symlink_metadata().is_err()).unwrap_or_default()
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

/// Tells whether something has this name; what cannot be looked at is an error.
fn is_there(path: &Path) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Tells whether the replay of a log erased something that was written: what sled takes for torn it overwrites with zeros.
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

fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn names_in(path: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
