//! Journal and database of an open store, as the writer uses them.

use std::io;
use std::path::Path;

use tracing::warn;

use crate::config::FsConfig;
use crate::database::{self, Engine};
use crate::entries::{Change, Entries};
use crate::error::OpenError;
use crate::journal::{Head, Journal, Mark, Scan};
use crate::recovery::{self, Known, Merged, merge};

pub struct Files {
    engine: Engine,
    journal: Journal,
}

/// What a store holds, judged while it is open.
pub struct Judged<F> {
    pub entries: Entries,
    /// Why a name that is not found may have been there.
    pub doubt: Option<String>,
    pub notes: Vec<String>,
    /// The open files, or why there is no room to write.
    pub files: Result<F, String>,
}

impl Files {
    pub fn new(engine: Engine, journal: Journal) -> Self {
        Self { engine, journal }
    }

    /// Returns whether both files still have their names.
    pub fn is_in_place(&self) -> bool {
        self.engine.is_in_place() && self.journal.is_in_place()
    }

    /// Writes changes to the journal, and then those `in_database` to the database.
    ///
    /// After an error the changes are taken back, and the files are closed.
    pub fn write(
        mut self,
        path: &Path,
        changes: &[Change<'_>],
        in_database: &[Change<'_>],
    ) -> io::Result<Self> {
        let mark = self.journal.mark();
        let outcome =
            self.journal.append(changes).and_then(|()| self.engine.commit(in_database, self.journal.batch()));
        if let Err(error) = outcome {
            // If this fails too, the next opening finds the batch and makes the journal agree with the index.
            if let Err(error) = self.journal.cut(mark) {
                warn!(path = %path.display(), "the journal could not be cut: {error}");
            }
            self.engine.close();
            return Err(error);
        }
        if let Err(error) = self.journal.note_done() {
            warn!(path = %path.display(), "how far the journal reaches could not be noted: {error}");
        }
        Ok(self)
    }

    /// Returns whether the database holds exactly these entries.
    pub fn hold(&self, entries: &Entries) -> bool {
        self.engine.holds(entries, false).unwrap_or(false)
    }

    /// Gives back the memory of a database of which everything was read.
    pub fn reopen(self, config: &FsConfig) -> Result<Self, OpenError> {
        let Self { engine, journal } = self;
        let engine = engine.reopen(config)?;
        if engine.batch()? == Some(journal.batch()) {
            return Ok(Self { engine, journal });
        }
        engine.close();
        Err(OpenError::corrupt(&config.path, "its database was changed by somebody else"))
    }

    /// Judges what the store `head` holds and repairs it, as a start does.
    pub fn judge(config: &FsConfig, head: &Head) -> Result<Judged<Self>, OpenError> {
        let path = &config.path;
        let mut notes = Vec::new();
        let text = Journal::read(path).map_err(OpenError::io("read", Journal::path_in(path)))?;
        let scan = text.as_deref().map(Scan::of);
        let last = Mark::read(path).filter(|(id, _)| *id == head.store_id).map_or(0, |(_, last)| last);
        let found = recovery::find(config, scan.as_ref(), last, None, &mut notes)?;
        let (database, engine) = found.map_or((None, None), |found| (Some(found.database), found.engine));
        let batch = database.as_ref().and_then(|database| database.batch);
        let Merged { entries, doubt, notes: told, journal_agrees, database_agrees, journal_has_more } =
            merge(scan.as_ref(), database, last);
        notes.extend(told);
        if doubt.is_some() {
            if let Some(engine) = engine {
                engine.close();
            }
            return Ok(Judged { entries, doubt, notes, files: Err(String::new()) });
        }
        let scan = scan.filter(|scan| journal_agrees && scan.head.as_ref() == Some(head));
        let engine = engine.map(|engine| (engine, batch));
        let known = Known { scan: scan.as_ref(), engine, database_agrees, journal_has_more, last };
        let files = match recovery::settle(config, head, &entries, known, &mut notes) {
            Ok((engine, journal)) => Ok(Self { engine, journal }),
            Err(error) if error.is_full() => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        Ok(Judged { entries, doubt, notes, files })
    }

    /// Notes that `name` was deleted, whose value had `len` bytes.
    pub fn note_deleted(&mut self, name: &str, len: usize) {
        self.journal.note_deleted(name, len);
    }

    /// Writes the journal anew if half of it is dead.
    pub fn compact(&mut self, path: &Path, head: &Head, entries: &Entries) {
        if !self.journal.is_half_dead() {
            return;
        }
        match Journal::write(path, head, self.journal.batch(), entries) {
            Ok(written) => self.journal = written,
            // The present journal stays in use.
            Err(error) => {
                warn!(path = %path.display(), "the journal could not be written anew: {error}");
                self.journal.put_off_rewrite();
            }
        }
    }

    /// Closes the files after an error.
    pub fn close(self) {
        self.engine.close();
    }

    /// Closes the files at the end.
    pub fn end(self, path: &Path) {
        self.engine.close();
        if let Err(error) = self.journal.sync_notes() {
            warn!(path = %path.display(), "how far the journal reaches could not be synced: {error}");
        }
    }

    /// Brings everything that can be read of the database to the disk, after a failed sync.
    pub fn write_back(path: &Path) -> io::Result<()> {
        database::write_back(path)
    }

    /// Opens journal and database, and makes them agree with the index.
    ///
    /// Changes that were refused and reached the disk all the same are undone. Changes that were acknowledged
    /// and did not reach it are done again.
    pub fn open_anew(
        config: &FsConfig,
        head: &Head,
        entries: &Entries,
        unsynced: bool,
    ) -> Result<Self, OpenError> {
        let path = &config.path;
        let text = Journal::read(path).map_err(OpenError::io("read", Journal::path_in(path)))?;
        let scan = text.as_deref().map(Scan::of);
        let mut notes = Vec::new();
        let last = Mark::read(path).map_or(0, |(_, last)| last);
        let found = recovery::find(config, scan.as_ref(), last, None, &mut notes)?;
        let (database, engine) = found.map_or((None, None), |found| (Some(found.database), found.engine));
        let engine = engine.map(|engine| (engine, database.as_ref().and_then(|database| database.batch)));
        let merged = merge(scan.as_ref(), database, last);
        let agrees = merged.entries == *entries;
        let scan = scan
            .filter(|scan| agrees && merged.journal_agrees && !unsynced && scan.head.as_ref() == Some(head));
        let known = Known {
            scan: scan.as_ref(),
            engine,
            database_agrees: agrees && merged.database_agrees,
            journal_has_more: false,
            last,
        };
        let opened = recovery::settle(config, head, entries, known, &mut notes);
        if !notes.is_empty() {
            warn!(path = %path.display(), "{}", notes.join("; "));
        }
        opened.map(|(engine, journal)| Self { engine, journal })
    }
}
