//! Opening a store, making one, and changing its root key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kms_core::Wrapped;

use crate::ballast::Ballast;
use crate::config::{FsConfig, OpenMode};
use crate::disk::create_directories;
use crate::engine::{self, Engine};
use crate::error::OpenError;
use crate::header::{Header, Root};
use crate::lock::Lock;
use crate::root_key::{Change, RootKey};
use crate::store::SledStore;
use crate::store_key::StoreKey;
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
    /// the root key was completed or waits to be.
    pub warnings: Vec<String>,
}

/// A store whose records come wrapped, and what is worth telling of it.
pub struct OpenedBare {
    /// The store, to be put under a [`Wrapper`](kms_core::Wrapper).
    pub store: SledStore,
    /// Whether it was made just now.
    pub is_new: bool,
    /// The number of keys in it.
    pub keys: usize,
}

/// Opens a store under its root key, or makes one.
///
/// The wrong root key is refused before any record is read or written. Where a change of the root key was interrupted
/// and the store has the new one already, the change is completed.
pub fn open(config: &FsConfig, root_key: &RootKey, mode: OpenMode) -> Result<Opened, OpenError> {
    let parts = Parts::open(config, mode, root_key.file(), || Header::new_local(root_key))?;
    let mut warnings = Vec::new();
    let store_key = match parts.header.unwrap_store_key(root_key, &config.path) {
        Err(OpenError::WrongRootKey { path }) => {
            let opened = open_with_successor(&parts.header, root_key, &path, &mut warnings);
            opened.ok_or(OpenError::WrongRootKey { path })?
        }
        unwrapped => {
            warnings.extend(root_key.file().and_then(unfinished_change));
            unwrapped?
        }
    };
    warnings.extend(root_key.file().and_then(|file| lies_inside(file, &config.path)));
    let is_new = parts.is_new;
    let store = parts.start(config)?;
    let keys = store.keys();
    Ok(Opened { store: Wrapped::new(store, store_key), is_new, keys, warnings })
}

/// Opens a store for records that are wrapped by something else, or makes one.
pub fn open_bare(config: &FsConfig, mode: OpenMode) -> Result<OpenedBare, OpenError> {
    let parts = Parts::open(config, mode, None, Header::new_wrapper)?;
    if let Root::Local { .. } = parts.header.root {
        let has = "a local root key, which has to be given to open it";
        return Err(OpenError::OtherRoot { path: config.path.clone(), has });
    }
    let is_new = parts.is_new;
    let store = parts.start(config)?;
    let keys = store.keys();
    Ok(OpenedBare { store, is_new, keys })
}

/// Wraps the store key of a store that is not in use under another root key, durably and at one stroke.
pub fn rotate_root_key(config: &FsConfig, old: &RootKey, new: &RootKey) -> Result<(), OpenError> {
    let parts = Parts::open(config, OpenMode::Existing, None, Header::new_wrapper)?;
    let rewrapped = parts.header.rewrap(old, new, &config.path)?;
    parts.engine.swap_header(&parts.header.encode(), &rewrapped.encode())
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
        let parts = Parts::open(config, OpenMode::Existing, None, Header::new_wrapper)?;
        parts.header.unwrap_store_key(&old, &config.path)?;
    }
    let new = change.prepare()?;
    match rotate_root_key(config, &old, &new) {
        // The store may have changed already.
        Err(OpenError::WrongRootKey { .. }) => rotate_root_key(config, &new, &new)?,
        outcome => outcome?,
    }
    change.finish()?;
    Ok(change.old_file)
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

/// A store on the way to being opened.
struct Parts {
    lock: Lock,
    engine: Engine,
    header: Header,
    is_new: bool,
}

impl Parts {
    fn open(
        config: &FsConfig,
        mode: OpenMode,
        root_key_file: Option<&Path>,
        new_header: impl FnOnce() -> Result<Header, OpenError>,
    ) -> Result<Self, OpenError> {
        let path = &config.path;
        match (engine::exists(path), mode) {
            (false, OpenMode::Existing) => return Err(OpenError::NoStore { path: path.clone() }),
            (true, OpenMode::Create) => return Err(OpenError::AlreadyExists { path: path.clone() }),
            _ => {}
        }
        create_directories(path)?;
        let lock = Lock::take(path)?;
        if engine::exists(path) {
            let engine = Engine::open(config).or_else(|error| {
                if !error.is_full() {
                    return Err(error);
                }
                let given = Ballast::new(config).give_up();
                given.map_err(OpenError::io("give up the reserve on the disk of", path))?;
                Engine::open(config)
            })?;
            let header = Header::decode(&engine.header()?, path)?;
            return Ok(Self { lock, engine, header, is_new: false });
        }
        if let Some(found) = engine::foreign_file(path, root_key_file)? {
            return Err(OpenError::NotAStore { path: path.clone(), found });
        }
        let header = new_header()?;
        let engine = Engine::create(config, &header.encode())?;
        Ok(Self { lock, engine, header, is_new: true })
    }

    fn start(self, config: &FsConfig) -> Result<SledStore, OpenError> {
        let index = Arc::new(Index::new(self.engine.entries()?));
        let writer = Writer::start(config.clone(), self.engine, Arc::clone(&index));
        let writer = writer.map_err(OpenError::io("start the writer of", &config.path))?;
        Ok(SledStore::new(index, writer, self.lock))
    }
}
