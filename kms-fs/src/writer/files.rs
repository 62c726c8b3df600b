//! Journal and database of an open store, as the writer uses them.

use std::io;
use std::path::Path;

use tracing::warn;

use crate::config::FsConfig;
use crate::database::{self, Engine};
use crate::entries::{Change, Entries};
use crate::error::OpenError;
use crate::journal::{Head, Journal, Mark, Scan};
use crate::keys::Header;
use crate::recovery::{self, Database, Found, Known, Merged, merge};

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
    ///
    /// Whatever became of the files meanwhile, the records of `served` stay.
    pub fn judge(config: &FsConfig, head: &Head, served: &Entries) -> Result<Judged<Self>, OpenError> {
        let path = &config.path;
        let mut notes = Vec::new();
        let text = Journal::read(path).map_err(OpenError::io("read", Journal::path_in(path)))?;
        let scan = text.as_deref().map(Scan::of);
        let last = Mark::read(path).map_or(0, |(_, last)| last);
        let (database, engine) = find(config, head, scan.as_ref(), last, &mut notes)?;
        let batch = database.as_ref().and_then(|database| database.batch);
        let Merged {
            mut entries,
            doubt,
            notes: told,
            mut journal_agrees,
            mut database_agrees,
            mut journal_has_more,
        } = merge(scan.as_ref(), database, last);
        notes.extend(told);
        let mut restored = 0;
        for (name, value) in served.iter().filter(|(_, value)| value.is_some()) {
            if entries.get(name) != Some(value) {
                entries.insert(name, value);
                restored += 1;
            }
        }
        if restored > 0 {
            notes.push(format!(
                "{restored} records that are no longer legible on the disk were still in memory"
            ));
            (journal_agrees, database_agrees, journal_has_more) = (false, false, false);
        }
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
        let (database, engine) = find(config, head, scan.as_ref(), last, &mut notes)?;
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

/// Finds the database of the store `head`. Fails if its directory holds another store by now.
fn find(
    config: &FsConfig,
    head: &Head,
    scan: Option<&Scan<'_>>,
    last: u64,
    notes: &mut Vec<String>,
) -> Result<(Option<Database>, Option<Engine>), OpenError> {
    let path = &config.path;
    let foreign = || OpenError::corrupt(path, "another store is in its place; nothing was written");
    let of_mark = Mark::read(path).map(|(store_id, _)| store_id);
    let of_journal = scan.and_then(|scan| scan.head.as_ref()).map(|head| head.store_id);
    if of_mark.into_iter().chain(of_journal).any(|store_id| store_id != head.store_id) {
        return Err(foreign());
    }
    let Some(Found { header, database, engine, .. }) = recovery::find(config, scan, last, None, notes)?
    else {
        return Ok((None, None));
    };
    let header = header.and_then(|header| Header::decode(&header, path).ok());
    if header.is_some_and(|header| header.store_id != head.store_id) {
        if let Some(engine) = engine {
            engine.close();
        }
        return Err(foreign());
    }
    Ok((Some(database), engine))
}

#[cfg(test)]
#[cfg(not(feature = "model"))]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::PathBuf;

    use kms_core::KeyName;
    use kms_core::primitives::SecretBytes;
    use kms_core::store::{EntryName, KeyStore as _};
    use tempfile::TempDir;

    use super::*;
    use crate::{OpenMode, RootKey, open};

    const NAMES: [&str; 3] = ["a", "b", "c"];

    struct Sample {
        dir: TempDir,
        root: RootKey,
    }

    impl Sample {
        async fn make() -> Self {
            let sample = Self { dir: tempfile::tempdir().unwrap(), root: RootKey::random().unwrap() };
            let store = open(&sample.config(), &sample.root, OpenMode::CreateOrOpen).unwrap().store;
            for name in NAMES {
                let entry = EntryName::from(&KeyName::new(name).unwrap());
                store.create(&entry, &SecretBytes::from(name.as_bytes())).await.unwrap();
            }
            sample
        }

        fn config(&self) -> FsConfig {
            FsConfig::new(self.dir.path().join("store"))
        }

        fn journal(&self) -> PathBuf {
            Journal::path_in(&self.config().path)
        }

        fn all_files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
            let directory = self.config().path;
            let files =
                [directory.clone(), directory.join("sled")].map(|directory| fs::read_dir(directory).unwrap());
            let paths = files.into_iter().flatten().map(|file| file.unwrap().path());
            paths.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(path).unwrap())).collect()
        }

        fn head_and_entries(&self) -> (Head, Entries) {
            let text = fs::read(self.journal()).unwrap();
            let scan = Scan::of(&text);
            (scan.head.clone().unwrap(), scan.entries())
        }

        async fn assert_is_whole(&self) {
            let opened = open(&self.config(), &self.root, OpenMode::Existing).unwrap();
            assert_eq!(opened.warnings, [""; 0]);
            for name in NAMES {
                let entry = EntryName::from(&KeyName::new(name).unwrap());
                assert!(opened.store.get(&entry).await.unwrap() == SecretBytes::from(name.as_bytes()));
            }
        }
    }

    #[tokio::test]
    async fn what_was_served_stays_whatever_became_of_the_files() {
        let flip = |sample: &Sample| {
            let mut text = fs::read(sample.journal()).unwrap();
            let at = text.windows(5).position(|part| part == b" + b ").unwrap();
            text[at + 10] ^= 1;
            fs::write(sample.journal(), text).unwrap();
        };
        let no_database = |sample: &Sample| fs::remove_dir_all(sample.config().path.join("sled")).unwrap();
        for harm in [&flip as &dyn Fn(&Sample), &no_database, &|sample| (flip(sample), no_database(sample)).0]
        {
            let sample = Sample::make().await;
            let (head, served) = sample.head_and_entries();
            harm(&sample);
            let judged = Files::judge(&sample.config(), &head, &served).unwrap();
            assert!(judged.entries == served);
            judged.files.ok().unwrap().end(&sample.config().path);
            sample.assert_is_whole().await;
        }
    }

    #[tokio::test]
    async fn another_store_in_its_place_is_not_written_to() {
        let (ours, theirs) = (Sample::make().await, Sample::make().await);
        let (head, served) = ours.head_and_entries();
        let before = theirs.all_files();
        let judged = Files::judge(&theirs.config(), &head, &served).err().unwrap();
        assert!(judged.to_string().contains("another store is in its place"), "{judged}");
        let opened = Files::open_anew(&theirs.config(), &head, &served, false).err().unwrap();
        assert!(opened.to_string().contains("another store is in its place"), "{opened}");
        assert!(theirs.all_files() == before, "its database was not even opened");
        theirs.assert_is_whole().await;
    }
}
