//! A store whose store key several roots have: its header, and the entries of `.r/`.

use std::path::Path;
use std::sync::Arc;

use kms_core::roots::{self, Form};
use kms_core::store::Wrapper;

use super::stored::{Access, Parts, Stored};
use super::unwrap::unwrap_any;
use crate::config::{FsConfig, OpenMode};
use crate::error::OpenError;
use crate::journal::{Head, Journal};
use crate::keys::{Header, Root, RootKey, StoreKey};
use crate::store::SledStore;

/// An open store of sealed records, and what an operator should know about it.
#[non_exhaustive]
pub struct OpenedWithRoots {
    /// The store, to be put under its [`Roots`](roots::Roots) with the [`FsForm`].
    pub store: SledStore,
    /// What the header holds.
    pub header: InHeader,
    /// The number of keys in the store.
    pub keys: usize,
    /// What an operator should know, a sentence each.
    pub warnings: Vec<String>,
    /// Names of keys whose records are lost.
    pub illegible: Vec<String>,
    in_force: Header,
}

impl OpenedWithRoots {
    /// Returns the store key, if `root_key` opens the header of the store, which is at `path`.
    ///
    /// So a root key that is configured as another root is known to be that of the header.
    pub fn open_header(&self, root_key: &RootKey, path: &Path) -> Option<roots::StoreKey> {
        self.in_force.unwrap_store_key(root_key, path).ok()?.to_roots().ok()
    }
}

/// What the header of a store holds of the store key.
pub enum InHeader {
    /// The store key, which the given root key opened.
    Opened(roots::StoreKey),
    /// The store key under a root key that was not given.
    Closed,
    /// No store key: it is in the entries of roots only.
    Nothing,
}

/// The form of the records of a local store: all are sealed under the store key, which the header or a root has.
pub struct FsForm {
    /// The store key that the header holds, if the root key opened it. Before an adoption it is the only one.
    pub header: Option<roots::StoreKey>,
}

impl Form for FsForm {
    fn under(&self, key: &roots::StoreKey) -> kms_core::Result<Arc<dyn Wrapper>> {
        Ok(Arc::new(StoreKey::of_roots(key)?))
    }

    fn earlier(&self) -> Option<Arc<dyn Wrapper>> {
        let key = StoreKey::of_roots(self.header.as_ref()?).ok()?;
        Some(Arc::new(key))
    }

    fn is_earlier(&self, _: &[u8]) -> bool {
        false
    }
}

/// Opens an existing store whose store key its roots have. `root_key` is the one that may be that of the header.
///
/// Whoever opens a store so has to have a root open it, before a record is served: nothing says here that one does.
///
/// # Errors
///
/// - [`OpenError::OtherRoot`]: the records of the store are wrapped by something else than a store key.
/// - Every other error of [`open`](crate::open()) for an existing store, except [`OpenError::WrongRootKey`].
pub fn open_with_roots(
    config: &FsConfig,
    root_key: Option<&RootKey>,
    mode: OpenMode,
) -> Result<OpenedWithRoots, OpenError> {
    let mut warnings = Vec::new();
    let unwrap = |headers: &[Header]| choose(headers, root_key, config, &mut warnings);
    let parts = Parts::open(config, existing(mode), None, Header::new_wrapper, unwrap)?;
    let header = match (&parts.stored.header.root, parts.root) {
        (_, Some(key)) => InHeader::Opened(key.to_roots()?),
        (Root::Entries, None) => InHeader::Nothing,
        (Root::Local { .. } | Root::Wrapper, None) => InHeader::Closed,
    };
    let in_force = parts.stored.header.clone();
    let (store, mut told) = parts.stored.start(config)?;
    warnings.append(&mut told);
    let (keys, illegible) = (store.keys(), store.lost());
    Ok(OpenedWithRoots { store, header, keys, warnings, illegible, in_force })
}

/// Takes the store key out of the header, so that the root key that opened it opens nothing any more.
///
/// The store must not be in use, and a root has to have been seen to open it. Releases that know no such header refuse
/// the store by name from then on.
///
/// # Errors
///
/// - [`OpenError::OtherRoot`]: the records of the store are wrapped by something else than a store key.
/// - [`OpenError::ReadOnly`]: the store takes no writes.
/// - The errors of [`open`](crate::open()) for an existing store.
pub fn forget_local_root(config: &FsConfig) -> Result<(), OpenError> {
    let unwrap = |headers: &[Header]| choose(headers, None, config, &mut Vec::new());
    let parts = Parts::open(config, OpenMode::Existing, None, Header::new_wrapper, unwrap)?;
    let Stored { lock: _lock, header, head, entries, access, .. } = parts.stored;
    let (engine, journal) = match access {
        Access::ReadWrite(engine, journal) => (engine, journal),
        Access::Full(why) | Access::ReadOnly(why) => {
            return Err(OpenError::ReadOnly { path: config.path.clone(), why });
        }
    };
    // The database comes first. Where the two differ, the header without a store key decides at the next start.
    let bare = header.without_store_key().encode();
    engine.set_header(&bare)?;
    let written = Journal::write(&config.path, &Head { header: bare, ..head }, journal.batch(), &entries);
    written.map_err(OpenError::io("write", Journal::path_in(&config.path)))?;
    engine.close();
    Ok(())
}

/// Chooses the header in force: one without a store key, if a removal made it; else one that the root key opens.
fn choose(
    headers: &[Header],
    root_key: Option<&RootKey>,
    config: &FsConfig,
    warnings: &mut Vec<String>,
) -> Result<(usize, Option<StoreKey>), OpenError> {
    if let Some(n) = headers.iter().position(|header| matches!(header.root, Root::Entries)) {
        return Ok((n, None));
    }
    if headers.iter().any(|header| matches!(header.root, Root::Wrapper)) {
        let has = "its records wrapped by a key service, and no store key";
        return Err(OpenError::OtherRoot { path: config.path.clone(), has });
    }
    match root_key.map(|root_key| unwrap_any(headers, root_key, &config.path, warnings)) {
        Some(Ok((n, key))) => Ok((n, Some(key))),
        // Another root may open the store. The database's header is the later one.
        None | Some(Err(OpenError::WrongRootKey { .. })) => Ok((0, None)),
        Some(Err(error)) => Err(error),
    }
}

/// A store without a root key file cannot be new: it would have no store key.
fn existing(mode: OpenMode) -> OpenMode {
    match mode {
        OpenMode::Salvage => OpenMode::Salvage,
        OpenMode::CreateOrOpen | OpenMode::Existing | OpenMode::Create => OpenMode::Existing,
    }
}
