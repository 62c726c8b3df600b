//! Opening a store, making one, and changing its root key.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kms_core::Wrapped;

use crate::config::{FsConfig, OpenMode};
use crate::engine::{self, Engine};
use crate::error::OpenError;
use crate::header::{Header, Root};
use crate::lock::Lock;
use crate::root_key::{RootKey, sync_directory_of};
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
/// The wrong root key is refused before any record is read or written.
pub fn open(config: &FsConfig, root_key: &RootKey, mode: OpenMode) -> Result<Opened, OpenError> {
    let parts = Parts::open(config, mode, || Header::new_local(root_key))?;
    let store_key = parts.header.unwrap_store_key(root_key, &config.path)?;
    let is_new = parts.is_new;
    let store = parts.start(config)?;
    let keys = store.keys();
    Ok(Opened { store: Wrapped::new(store, store_key), is_new, keys })
}

/// Opens a store for records that are wrapped by something else, or makes one.
pub fn open_bare(config: &FsConfig, mode: OpenMode) -> Result<OpenedBare, OpenError> {
    let parts = Parts::open(config, mode, Header::new_wrapper)?;
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
    let parts = Parts::open(config, OpenMode::Existing, Header::new_wrapper)?;
    let rewrapped = parts.header.rewrap(old, new, &config.path)?;
    parts.engine.swap_header(Some(&parts.header.encode()), &rewrapped.encode())
}

/// Gives a store that is not in use a new root key, which replaces the one in `file`; returns where the old one is kept.
///
/// The new key is written to `<file>.new` first, then the store changes, then the files: `<file>` becomes `<file>.old` and
/// `<file>.new` becomes `<file>`. Interrupted anywhere, it is completed by calling it again. Backups of the store
/// made before need the old key.
pub fn rotate_root_key_file(config: &FsConfig, file: &Path) -> Result<PathBuf, OpenError> {
    let (new_file, old_file) = (with_suffix(file, ".new"), with_suffix(file, ".old"));
    if !new_file.exists() {
        if old_file.exists() {
            let why =
                "a root key replaced earlier is there; move it to where backups need it, then try again";
            return Err(OpenError::BadRootKey {
                origin: format!("file '{}'", old_file.display()),
                why: why.into(),
            });
        }
        RootKey::random()?.write_new(&new_file)?;
    }
    let new = RootKey::from_file(&new_file)?.key;
    // An interrupted change may have got as far as moving the old file away.
    let old = RootKey::from_file(if file.exists() { file } else { &old_file })?.key;
    match rotate_root_key(config, &old, &new) {
        // The store may have changed already.
        Err(OpenError::WrongRootKey { .. }) => rotate_root_key(config, &new, &new)?,
        outcome => outcome?,
    }
    let rename = |from: &Path, to: &Path| {
        fs::rename(from, to).map_err(OpenError::io("rename root key file", from))?;
        sync_directory_of(to)
    };
    if file.exists() {
        rename(file, &old_file)?;
    }
    rename(&new_file, file)?;
    Ok(old_file)
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
        new_header: impl FnOnce() -> Result<Header, OpenError>,
    ) -> Result<Self, OpenError> {
        let path = &config.path;
        if mode == OpenMode::Existing && !engine::exists(path) {
            return Err(OpenError::NoStore { path: path.clone() });
        }
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path).map_err(OpenError::io("create directory", path))?;
        let lock = Lock::take(path)?;
        if !engine::exists(path)
            && let Some(found) = engine::foreign_file(path)?
        {
            return Err(OpenError::NotAStore { path: path.clone(), found });
        }
        let engine = Engine::open(config)?;
        let (header, is_new) = match engine.header()? {
            Some(_) if mode == OpenMode::Create => {
                return Err(OpenError::AlreadyExists { path: path.clone() });
            }
            Some(header) => (Header::decode(&header, path)?, false),
            // Never used: made just now, or the process that made it was stopped before the header was on the disk.
            None if mode == OpenMode::Existing => return Err(OpenError::NoStore { path: path.clone() }),
            None => {
                let header = new_header()?;
                engine.swap_header(None, &header.encode())?;
                (header, true)
            }
        };
        Ok(Self { lock, engine, header, is_new })
    }

    fn start(self, config: &FsConfig) -> Result<SledStore, OpenError> {
        let index = Arc::new(Index::load(&self.engine)?);
        let writer = Writer::start(config.clone(), self.engine, Arc::clone(&index));
        let writer = writer.map_err(OpenError::io("start the writer of", &config.path))?;
        Ok(SledStore::new(index, writer, self.lock))
    }
}

fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
