//! Opening a store, making one, and changing its root key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kms_core::Wrapped;

use crate::config::{FsConfig, OpenMode};
use crate::disk::create_directories;
use crate::engine::{Engine, Entries};
use crate::error::OpenError;
use crate::header::{Header, Root};
use crate::journal::{Head, Journal, Scan};
use crate::lock::Lock;
use crate::mark::Mark;
use crate::merge::{Merged, merge};
use crate::repair::{self, Found, Known};
use crate::root_key::{Change, RootKey, remove_unfinished};
use crate::store::SledStore;
use crate::store_key::StoreKey;
use crate::sync::Files;
use crate::writer::{Index, Writer};

/// A local store with records sealed under its own root.
pub type FsStore = Wrapped<SledStore, StoreKey>;

/// A store that was opened, and what is worth telling of it.
pub struct Opened {
    /// The store.
    pub store: FsStore,
    /// Whether it was made just now.
    pub is_new: bool,
    /// The number of keys in it.
    pub keys: usize,
    /// What an operator should hear, a sentence each: the root key lies inside the store, an interrupted change of
    /// the root key was completed or waits to be, files were damaged and what became of that.
    pub warnings: Vec<String>,
    /// Names of keys whose records cannot be read. Other than when salvaging, only those that are known to be lost.
    pub illegible: Vec<String>,
}

/// A store whose records come wrapped, and what is worth telling of it.
pub struct OpenedBare {
    /// The store, to be put under a [`Wrapper`](kms_core::Wrapper).
    pub store: SledStore,
    /// Whether it was made just now.
    pub is_new: bool,
    /// The number of keys in it.
    pub keys: usize,
    /// What an operator should hear of damage, a sentence each.
    pub warnings: Vec<String>,
    /// Names of keys whose records are lost.
    pub illegible: Vec<String>,
}

/// Opens a store under its root key, or makes one.
///
/// The wrong root key is refused before any record is read or written. Where a change of the root key was interrupted
/// and the store has the new one already, the change is completed. Damage is mended where nothing is lost by that; where
/// something may be, the store is read-only, and a name that is not found is [`Corrupt`](kms_core::ErrorKind::Corrupt).
pub fn open(config: &FsConfig, root_key: &RootKey, mode: OpenMode) -> Result<Opened, OpenError> {
    let mut warnings = Vec::new();
    let parts = Parts::open(
        config,
        mode,
        root_key.file(),
        || Header::new_local(root_key),
        |headers| unwrap_any(headers, root_key, &config.path, &mut warnings),
    )?;
    warnings.extend(root_key.file().and_then(|file| lies_inside(file, &config.path)));
    let (is_new, store_key) = (parts.is_new, parts.root);
    let (store, mut told) = parts.stored.start(config)?;
    warnings.append(&mut told);
    let (keys, mut illegible) = (store.keys(), store.lost());
    if mode == OpenMode::Salvage {
        illegible = store.illegible(|name, record| store_key.opens(name, record));
        warnings.push(format!(
            "salvage: {} of {keys} entries can be read, and nothing is written",
            keys - illegible.len()
        ));
    }
    Ok(Opened { store: Wrapped::new(store, store_key), is_new, keys, warnings, illegible })
}

/// Opens a store for records that are wrapped by something else, or makes one.
pub fn open_bare(config: &FsConfig, mode: OpenMode) -> Result<OpenedBare, OpenError> {
    let parts = Parts::open(config, mode, None, Header::new_wrapper, |headers| {
        let bare = headers.iter().position(|header| matches!(header.root, Root::Wrapper));
        let has = "a local root key, which has to be given to open it";
        bare.map(|n| (n, ())).ok_or_else(|| OpenError::OtherRoot { path: config.path.clone(), has })
    })?;
    let is_new = parts.is_new;
    let (store, warnings) = parts.stored.start(config)?;
    let (keys, illegible) = (store.keys(), store.lost());
    Ok(OpenedBare { store, is_new, keys, warnings, illegible })
}

/// Takes the loss for given of entries whose very names are lost, so that the store in `config` takes writes again.
///
/// What can be read is written anew; whatever else there was is kept under another name, and is no longer looked for.
pub fn accept_losses(config: &FsConfig, root_key: Option<&RootKey>) -> Result<Vec<String>, OpenError> {
    let mut warnings = Vec::new();
    let unwrap = |headers: &[Header]| match root_key {
        Some(root_key) => unwrap_any(headers, root_key, &config.path, &mut warnings).map(|(n, _)| (n, ())),
        None => Ok((0, ())),
    };
    if !repair::exists(&config.path)? {
        return Err(OpenError::NoStore { path: config.path.clone() });
    }
    let lock = Lock::take(&config.path)?;
    repair::clean_up(&config.path)?;
    let (stored, ()) = Stored::load(config, OpenMode::Salvage, Some(lock), unwrap)?;
    let Stored { lock: _lock, head, entries, last, .. } = stored;
    let known = Known { journal_has_more: true, last, ..Known::default() };
    repair::settle(config, &head, &entries, known, &mut warnings)?;
    Ok(warnings)
}

/// Wraps the store key of a store that is not in use under another root key, durably and at one stroke.
pub fn rotate_root_key(config: &FsConfig, old: &RootKey, new: &RootKey) -> Result<(), OpenError> {
    let parts = Parts::open(config, OpenMode::Existing, None, Header::new_wrapper, |headers| {
        unwrap_with(headers, old, &config.path)
    })?;
    let Stored { lock: _lock, header, head, entries, access, .. } = parts.stored;
    let (engine, journal) = match access {
        Access::ReadWrite(engine, journal) => (engine, journal),
        Access::Full(why) | Access::ReadOnly(why) => {
            return Err(OpenError::ReadOnly { path: config.path.clone(), why });
        }
    };
    let rewrapped = header.rewrap(old, new, &config.path)?.encode();
    // The database first: where both open, and differ, the next start writes the journal's anew.
    engine.set_header(&rewrapped)?;
    let head = Head { header: rewrapped, ..head };
    let written = Journal::write(&config.path, &head, journal.batch(), &entries);
    written.map_err(OpenError::io("write", Journal::path_in(&config.path)))?;
    engine.close();
    Ok(())
}

/// Gives a store that is not in use a new root key, which replaces the one in `file`; returns where the old one is kept.
///
/// The new key is written to `<file>.new` first, then the store changes, then the files: `<file>` is kept as `<file>.old`
/// too and `<file>.new` takes its place. Interrupted anywhere, it is completed by calling it again, or by
/// opening the store if that has changed. Backups of the store made before need the old key.
pub fn rotate_root_key_file(config: &FsConfig, file: &Path) -> Result<PathBuf, OpenError> {
    let old = RootKey::from_file(file)?.key;
    let change = Change::of(file);
    // Nothing is left behind where the store is in use or has another root key.
    if !change.new_file.exists() {
        Parts::open(config, OpenMode::Existing, None, Header::new_wrapper, |headers| {
            unwrap_with(headers, &old, &config.path)
        })?;
    }
    let new = change.prepare()?;
    match rotate_root_key(config, &old, &new) {
        // The store may have changed already.
        Err(OpenError::WrongRootKey { .. }) => rotate_root_key(config, &new, &new)?,
        outcome => outcome?,
    }
    change.finish()?;
    remove_unfinished(file, |key| *key == new);
    Ok(change.old_file)
}

/// Unwraps the store key of the first header that opens under this very root key; returns which that is.
fn unwrap_with(headers: &[Header], root_key: &RootKey, path: &Path) -> Result<(usize, StoreKey), OpenError> {
    for (n, header) in headers.iter().enumerate() {
        match header.unwrap_store_key(root_key, path) {
            Err(OpenError::WrongRootKey { .. }) => {}
            unwrapped => return Ok((n, unwrapped?)),
        }
    }
    Err(OpenError::WrongRootKey { path: path.to_owned() })
}

/// Unwraps the store key of the first header that opens; a change of the root key that was interrupted is completed.
fn unwrap_any(
    headers: &[Header],
    root_key: &RootKey,
    path: &Path,
    warnings: &mut Vec<String>,
) -> Result<(usize, StoreKey), OpenError> {
    match unwrap_with(headers, root_key, path) {
        Err(OpenError::WrongRootKey { .. }) => {}
        unwrapped => {
            if let Some(file) = root_key.file().filter(|_| unwrapped.is_ok()) {
                warnings.extend(unfinished_change(file));
                remove_unfinished(file, |key| unwrap_with(headers, key, path).is_ok());
            }
            return unwrapped;
        }
    }
    for (n, header) in headers.iter().enumerate() {
        if let Some(store_key) = open_with_successor(header, root_key, path, warnings) {
            return Ok((n, store_key));
        }
    }
    Err(OpenError::WrongRootKey { path: path.to_owned() })
}

/// Tries the key that an interrupted change of the root key has left beside `root_key`, and completes the change.
fn open_with_successor(
    header: &Header,
    root_key: &RootKey,
    path: &Path,
    warnings: &mut Vec<String>,
) -> Option<StoreKey> {
    let file = root_key.file()?;
    let change = Change::of(file);
    let successor = RootKey::from_file(&change.new_file).ok()?.key;
    let store_key = header.unwrap_store_key(&successor, path).ok()?;
    let file = file.display();
    warnings.push(match change.finish() {
        Ok(()) => format!(
            "an interrupted change of the root key was completed: the new one is in '{file}', the old one in '{}'",
            change.old_file.display()
        ),
        Err(why) => format!(
            "an interrupted change of the root key could not be completed, the one in '{}' is in force: {why}",
            change.new_file.display()
        ),
    });
    Some(store_key)
}

fn unfinished_change(file: &Path) -> Option<String> {
    let new_file = Change::of(file).new_file;
    new_file.exists().then(|| {
        format!(
            "a change of the root key was begun and not completed: '{}' is not in force",
            new_file.display()
        )
    })
}

fn lies_inside(file: &Path, store: &Path) -> Option<String> {
    let inside = file.canonicalize().ok()?.starts_with(store.canonicalize().ok()?);
    inside.then(|| {
        let (file, store) = (file.display(), store.display());
        format!("root key '{file}' lies inside the store '{store}': whoever copies the store can read it")
    })
}

/// A store on the way to being opened, and what its root was found to be.
struct Parts<R> {
    stored: Stored,
    root: R,
    is_new: bool,
}

/// What a store holds, and how it can be written.
struct Stored {
    lock: Option<Lock>,
    header: Header,
    head: Head,
    entries: Entries,
    /// The number of a batch that was acknowledged.
    last: u64,
    /// Why a name that is not found may have been there all the same.
    doubt: Option<String>,
    access: Access,
    notes: Vec<String>,
}

enum Access {
    ReadWrite(Engine, Journal),
    /// There is no room to write.
    Full(String),
    /// Nothing may be written until somebody decides.
    ReadOnly(String),
}

impl<R> Parts<R> {
    /// Opens or makes a store; `unwrap` finds, of the headers given, one that its root opens.
    fn open(
        config: &FsConfig,
        mode: OpenMode,
        root_key_file: Option<&Path>,
        new_header: impl FnOnce() -> Result<Header, OpenError>,
        mut unwrap: impl FnMut(&[Header]) -> Result<(usize, R), OpenError>,
    ) -> Result<Self, OpenError> {
        let path = &config.path;
        match (repair::exists(path)?, mode) {
            (false, OpenMode::Existing | OpenMode::Salvage) => {
                return Err(OpenError::NoStore { path: path.clone() });
            }
            (true, OpenMode::Create) => return Err(OpenError::AlreadyExists { path: path.clone() }),
            _ => {}
        }
        if mode == OpenMode::Salvage {
            // On a disk that may have been mounted for reading alone.
            let (stored, root) = Stored::load(config, mode, Lock::take_to_read(path)?, unwrap)?;
            return Ok(Self { stored, root, is_new: false });
        }
        create_directories(path)?;
        let lock = Lock::take(path)?;
        repair::clean_up(path)?;
        if repair::exists(path)? {
            let (stored, root) = Stored::load(config, mode, Some(lock), unwrap)?;
            return Ok(Self { stored, root, is_new: false });
        }
        if let Some(found) = repair::foreign_file(path, root_key_file)? {
            return Err(OpenError::NotAStore { path: path.clone(), found });
        }
        let header = new_header()?;
        let (_, root) = unwrap(std::slice::from_ref(&header))?;
        let head = head_of(&header);
        let mut notes = Vec::new();
        let entries = Entries::new();
        let (engine, journal) = repair::settle(config, &head, &entries, Known::default(), &mut notes)?;
        let access = Access::ReadWrite(engine, journal);
        let stored = Stored { lock: Some(lock), header, head, entries, last: 0, doubt: None, access, notes };
        Ok(Self { stored, root, is_new: true })
    }
}

impl Stored {
    fn load<R>(
        config: &FsConfig,
        mode: OpenMode,
        lock: Option<Lock>,
        mut unwrap: impl FnMut(&[Header]) -> Result<(usize, R), OpenError>,
    ) -> Result<(Self, R), OpenError> {
        let path = &config.path;
        let mut notes = Vec::new();
        let text = Journal::read(path).map_err(OpenError::io("read", Journal::path_in(path)))?;
        let scan = text.as_deref().map(Scan::of);
        let mark = Mark::read(path);
        let last = mark.map_or(0, |(_, last)| last);
        let found = match mode {
            OpenMode::Salvage => salvage(config, scan.as_ref(), &mut notes)?,
            _ => repair::find(config, scan.as_ref(), last, &mut notes)?,
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
                Self { lock, header, head, entries, last, doubt, access: Access::ReadOnly(why), notes },
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
            match repair::settle(config, &head, &entries, known, &mut notes) {
                Ok((engine, journal)) => Access::ReadWrite(engine, journal),
                Err(error) if error.is_full() => Access::Full(error.to_string()),
                Err(error) => return Err(error),
            }
        };
        Ok((Self { lock, header, head, entries, last, doubt, access, notes }, root))
    }

    /// Begins to serve it; returns what is to be told of damage too.
    fn start(self, config: &FsConfig) -> Result<(SledStore, Vec<String>), OpenError> {
        let Self { lock, head, entries, doubt, access, notes, .. } = self;
        let at = |text: String| format!("store '{}': {text}", config.path.display());
        let mut told: Vec<String> = Vec::new();
        if !notes.is_empty() {
            told.push(at(notes.join("; ")));
        }
        let lost: Vec<&str> =
            entries.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name.as_str()).collect();
        if !lost.is_empty() {
            told.push(at(format!(
                "the records of {} keys are lost unless a backup has them: {}",
                lost.len(),
                few(&lost)
            )));
        }
        let index = Arc::new(Index::new(entries, doubt));
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
                told.push(at(format!(
                    "it is read-only, and a key that is not found may have been lost: {why}; restore a backup, or see \
                     'kms key discard'"
                )));
                index.set_read_only(Some(why));
                None
            }
        };
        Ok((SledStore::new(index, writer, lock), told))
    }
}

/// Tells names in a line of the log, which has an end; `kms check` tells them all.
fn few(names: &[&str]) -> String {
    const MOST: usize = 20;
    match names.len().checked_sub(MOST) {
        None | Some(0) => names.join(", "),
        Some(rest) => format!("{} and {rest} more", names[..MOST].join(", ")),
    }
}

/// Reads the database from a copy outside of the store, to which nothing is written.
fn salvage(
    config: &FsConfig,
    scan: Option<&Scan<'_>>,
    notes: &mut Vec<String>,
) -> Result<Option<Found>, OpenError> {
    let mut random = [0; 8];
    kms_core::fill_random(&mut random)?;
    let name = format!("kms-salvage-{:016x}", u64::from_be_bytes(random));
    match repair::read_copy(config, &std::env::temp_dir().join(name)) {
        // The journal may do.
        Err(error) if scan.is_some_and(Scan::is_whole) => {
            notes.push(format!("the database was not read: {error}"));
            Ok(None)
        }
        read => read,
    }
}

/// Takes apart the headers that can be read: the database's before the journal's.
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
    let corrupt = |why: &str| OpenError::Corrupt { path: path.into(), why: why.into() };
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
