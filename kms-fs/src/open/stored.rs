//! Reading what a store holds, finding out whether it takes writes, and beginning to serve it.

use std::path::Path;
use std::sync::Arc;

use crate::config::{FsConfig, OpenMode};
use crate::database::Engine;
use crate::disk::{Lock, create_directories};
use crate::entries::Entries;
use crate::error::OpenError;
use crate::journal::{Head, Journal, Mark, Scan};
use crate::keys::Header;
use crate::recovery::{self, Agreed, Found, Known, Look, Merged, merge};
use crate::store::SledStore;
use crate::writer::{Files, Index, Refusing, Writer};

/// A store before it is served, and the root that opened it.
pub struct Parts<R> {
    pub stored: Stored,
    pub root: R,
    pub is_new: bool,
}

/// What a store holds, and how it can be written.
pub struct Stored {
    pub lock: Option<Lock>,
    pub header: Header,
    pub head: Head,
    pub entries: Entries,
    /// The number of an acknowledged batch, or 0.
    pub last: u64,
    /// Why a name that is not found may have been there.
    pub doubt: Option<String>,
    pub access: Access,
    /// Whether the database was compared with the journal.
    pub is_compared: bool,
    pub notes: Vec<String>,
}

pub enum Access {
    ReadWrite(Engine, Journal),
    /// There is no room to write.
    Full(String),
    /// Nothing may be written until an operator decides.
    ReadOnly(String),
}

impl<R> Parts<R> {
    /// Opens or makes a store. `unwrap` finds the header, among those given, that its root opens.
    pub fn open(
        config: &FsConfig,
        mode: OpenMode,
        root_key_file: Option<&Path>,
        new_header: impl FnOnce() -> Result<Header, OpenError>,
        mut unwrap: impl FnMut(&[Header]) -> Result<(usize, R), OpenError>,
    ) -> Result<Self, OpenError> {
        let path = &config.path;
        match (recovery::exists(path)?, mode) {
            (false, OpenMode::Existing | OpenMode::Salvage) => {
                return Err(OpenError::NoStore { path: path.clone() });
            }
            (true, OpenMode::Create) => return Err(OpenError::AlreadyExists { path: path.clone() }),
            _ => {}
        }
        if mode == OpenMode::Salvage {
            // The disk may be mounted read-only, so nothing is created on it.
            let (stored, root) = Stored::load(config, mode, Lock::take_to_read(path)?, unwrap)?;
            return Ok(Self { stored, root, is_new: false });
        }
        create_directories(path)?;
        let lock = Lock::take(path)?;
        recovery::clean_up(path)?;
        if recovery::exists(path)? {
            let (stored, root) = Stored::load(config, mode, Some(lock), unwrap)?;
            return Ok(Self { stored, root, is_new: false });
        }
        if let Some(found) = recovery::foreign_file(path, root_key_file)? {
            return Err(OpenError::NotAStore { path: path.clone(), found });
        }
        let header = new_header()?;
        let (_, root) = unwrap(std::slice::from_ref(&header))?;
        let head = head_of(&header);
        let mut notes = Vec::new();
        let entries = Entries::new();
        let (engine, journal) = recovery::settle(config, &head, &entries, Known::default(), &mut notes)?;
        let access = Access::ReadWrite(engine, journal);
        let (lock, is_compared) = (Some(lock), true);
        let stored = Stored { lock, header, head, entries, last: 0, doubt: None, access, is_compared, notes };
        Ok(Self { stored, root, is_new: true })
    }
}

impl Stored {
    pub fn load<R>(
        config: &FsConfig,
        mode: OpenMode,
        lock: Option<Lock>,
        mut unwrap: impl FnMut(&[Header]) -> Result<(usize, R), OpenError>,
    ) -> Result<(Self, R), OpenError> {
        let path = &config.path;
        let mut notes = Vec::new();
        let opened = match mode {
            OpenMode::Salvage => None,
            _ => match recovery::look(config) {
                Look::Agreed(agreed) => return Self::agreed(*agreed, lock, unwrap),
                Look::Differs(opened) => opened,
            },
        };
        let text = Journal::read(path).map_err(OpenError::io("read", Journal::path_in(path)))?;
        let scan = text.as_deref().map(Scan::of);
        let mark = Mark::read(path);
        let last = mark.map_or(0, |(_, last)| last);
        let found = match mode {
            OpenMode::Salvage => salvage(config, scan.as_ref(), &mut notes)?,
            _ => recovery::find(config, scan.as_ref(), last, opened, &mut notes)?,
        };
        let headers = headers(found.as_ref(), scan.as_ref(), path)?;
        let (n, root) = unwrap(&headers)?;
        let last = if mark.is_some_and(|(store_id, _)| store_id == headers[n].store_id) { last } else { 0 };
        let header = headers[n].in_present_format();
        if header.format != headers[n].format {
            notes.push("it gets a journal now, and releases without one refuse it from now on".to_owned());
        }
        let head = head_of(&header);

        let (database, engine) = match found {
            Some(Found { database, engine, .. }) => (Some(database), engine),
            None => (None, None),
        };
        let batch = database.as_ref().and_then(|database| database.batch);
        let merged = merge(scan.as_ref(), database, last);
        let Merged { entries, doubt, notes: told, journal_agrees, database_agrees, journal_has_more } =
            merged;
        notes.extend(told);
        if mode == OpenMode::Salvage {
            let why = "it is being salvaged".to_owned();
            let doubt = doubt.or_else(|| Some(why.clone()));
            return Ok((
                Self {
                    lock,
                    header,
                    head,
                    entries,
                    last,
                    doubt,
                    access: Access::ReadOnly(why),
                    is_compared: true,
                    notes,
                },
                root,
            ));
        }
        let access = if let Some(doubt) = &doubt {
            if let Some(engine) = engine {
                engine.close();
            }
            Access::ReadOnly(doubt.clone())
        } else {
            let scan = scan.filter(|scan| journal_agrees && scan.head.as_ref() == Some(&head));
            let engine = engine.map(|engine| (engine, batch));
            let known = Known { scan: scan.as_ref(), engine, database_agrees, journal_has_more, last };
            match recovery::settle(config, &head, &entries, known, &mut notes) {
                Ok((engine, journal)) => Access::ReadWrite(engine, journal),
                Err(error) if error.is_full() => Access::Full(error.to_string()),
                Err(error) => return Err(error),
            }
        };
        Ok((Self { lock, header, head, entries, last, doubt, access, is_compared: true, notes }, root))
    }

    /// Takes over a store in which everything agrees.
    fn agreed<R>(
        agreed: Agreed,
        lock: Option<Lock>,
        mut unwrap: impl FnMut(&[Header]) -> Result<(usize, R), OpenError>,
    ) -> Result<(Self, R), OpenError> {
        let Agreed { header, head, entries, engine, journal, is_compared } = agreed;
        let (_, root) = match unwrap(std::slice::from_ref(&header)) {
            Ok(unwrapped) => unwrapped,
            Err(error) => {
                engine.close();
                return Err(error);
            }
        };
        let (last, access) = (journal.batch(), Access::ReadWrite(engine, journal));
        let notes = Vec::new();
        Ok((Self { lock, header, head, entries, last, doubt: None, access, is_compared, notes }, root))
    }

    /// Begins to serve the store. Also returns the warnings.
    pub fn start(self, config: &FsConfig) -> Result<(SledStore, Vec<String>), OpenError> {
        let Self { lock, head, entries, doubt, access, is_compared, notes, .. } = self;
        let read_only = match &access {
            Access::ReadOnly(why) => Some(why.clone()),
            _ => None,
        };
        let told = recovery::told(&config.path, &notes, &entries, read_only.as_deref());
        let index = Arc::new(Index::new(entries, doubt, is_compared));
        let started = |why| OpenError::io("start the writer of", &config.path)(why);
        let writer = match access {
            Access::ReadWrite(engine, journal) => {
                let files = Files::new(engine, journal);
                Some(Writer::start(config.clone(), head, Ok(files), &index).map_err(started)?)
            }
            Access::Full(why) => {
                Some(Writer::start(config.clone(), head, Err(why), &index).map_err(started)?)
            }
            Access::ReadOnly(why) => {
                index.set_read_only(Some(Refusing::because(why)));
                None
            }
        };
        Ok((SledStore::new(index, writer, lock), told))
    }
}

/// Reads the database from a copy outside of the store. Nothing is written to the store.
fn salvage(
    config: &FsConfig,
    scan: Option<&Scan<'_>>,
    notes: &mut Vec<String>,
) -> Result<Option<Found>, OpenError> {
    let mut random = [0; 8];
    kms_core::primitives::fill_random(&mut random)?;
    let name = format!("kms-salvage-{:016x}", u64::from_be_bytes(random));
    match recovery::read_copy(config, &std::env::temp_dir().join(name)) {
        // The journal may be enough.
        Err(error) if scan.is_some_and(Scan::is_whole) => {
            notes.push(format!("the database was not read: {error}"));
            Ok(None)
        }
        read => read,
    }
}

/// Decodes the headers that can be read: the database's first, then the journal's.
fn headers(found: Option<&Found>, scan: Option<&Scan<'_>>, path: &Path) -> Result<Vec<Header>, OpenError> {
    let of_database = found.and_then(|found| found.header.as_deref());
    let of_journal = scan.and_then(|scan| scan.head.as_ref()).map(|head| head.header.as_slice());
    let mut headers = Vec::new();
    for bytes in of_database.into_iter().chain(of_journal) {
        match Header::decode(bytes, path) {
            Ok(header) => headers.push(header),
            Err(error @ OpenError::NewerFormat { .. }) => return Err(error),
            Err(_) => {}
        }
    }
    let corrupt = |why: &str| OpenError::corrupt(path, why);
    let Some(first) = headers.first() else {
        return Err(corrupt(
            "neither its database nor its journal has a legible header; nothing was written: restore it from a backup",
        ));
    };
    if headers.iter().any(|header| header.store_id != first.store_id) {
        return Err(corrupt("its journal is that of another store; nothing was written"));
    }
    Ok(headers)
}

fn head_of(header: &Header) -> Head {
    Head { store_id: header.store_id, header: header.encode() }
}
