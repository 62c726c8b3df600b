//! How entries that belong to a key are made and removed.

use std::time::{Duration, Instant};

use tracing::warn;

use super::backend::Backend;
use super::cache::{Cache, failed_read};
use super::key::CachedKey;
use super::policy::CALL_TIMEOUT;
use super::search::Search;
use crate::error::{Error, ErrorKind, Result};
use crate::identity::Identity;
use crate::name::KeyName;
use crate::primitives::{Fingerprint, SecretBytes};
use crate::store::belonging::{EntryMac, Marker};
use crate::store::entry::MAX_VERSIONS;
use crate::store::gone::GoneNote;
use crate::store::{EntryName, KeyStore};
use crate::sync::sleep;

/// The pause after another server changed the same entry: what it still does, and what a replica shows, may be behind.
pub const AFTER_ANOTHER: Duration = Duration::from_millis(200);
/// How often a marker is made that meets one without effect, or one that goes at that moment.
const ATTEMPTS: usize = 3;

/// Stores the record of a new entry, and succeeds only if this very record is in the store afterwards. Returns when it was
/// read back; `None` if it was acknowledged, and was gone then.
///
/// It never succeeds over an entry that was there before. It never fails with `NotFound`, which means nothing to the
/// caller.
pub async fn store_new<S: KeyStore>(
    backend: &Backend<S>,
    entry: &EntryName,
    record: &SecretBytes,
    operation: impl Fn() -> String,
    failed_read: impl Fn(Error) -> Error,
) -> Result<Option<Instant>> {
    let create = backend.store.create(entry, record);
    store_by(backend, create, entry, record, operation, failed_read).await
}

/// Stores the record of a new entry by the call `create`, as [`store_new`] does.
pub async fn store_by<S: KeyStore>(
    backend: &Backend<S>,
    create: impl Future<Output = Result<()>>,
    entry: &EntryName,
    record: &SecretBytes,
    operation: impl Fn() -> String,
    failed_read: impl Fn(Error) -> Error,
) -> Result<Option<Instant>> {
    let written = backend.write(create).await;
    match &written {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotAuthentic) => {
            // A create neither finds nor opens anything, so the backend means something of its own.
            return Err(Error::with_source(ErrorKind::Internal, operation(), error.clone()));
        }
        Err(error) if !error.kind().leaves_outcome_unknown() => return Err(error.clone()),
        _ => {}
    }
    // The write was acknowledged, or its outcome is unknown: the record that is read back decides. A create is never
    // sent twice.
    let (stored, began) = match (backend.read_back(entry).await.map_err(failed_read), written) {
        (Ok(read), _) => read,
        (Err(read), Ok(())) if read.kind() == ErrorKind::NotFound => return Ok(None),
        (Err(read), Ok(())) => return Err(read),
        // The outcome of the write is unknown, and the entry holds something else.
        (Err(read), Err(_)) if read.kind() == ErrorKind::Corrupt => {
            return Err(Error::with_source(ErrorKind::AlreadyExists, operation(), read));
        }
        (Err(_), Err(written)) => return Err(written),
    };
    if stored != *record {
        let detail = "another record was read back";
        return Err(Error::with_source(ErrorKind::AlreadyExists, operation(), detail));
    }
    Ok(Some(began))
}

/// Creates the error of an entry that was acknowledged, and was gone when it was read back.
pub fn gone_at_once(operation: String) -> Error {
    let detail = "it was acknowledged and is not there: it was deleted at once, or the store lost it";
    Error::with_source(ErrorKind::Internal, operation, detail)
}

/// Makes a marker of a key. Returns whether there was none: one of somebody who does not know the key makes room.
pub async fn put_marker<S: KeyStore>(
    search: &Search<'_, S>,
    marker: &EntryName,
    content: &str,
    operation: impl Fn() -> String,
) -> Result<bool> {
    let Search { backend, name, first, .. } = *search;
    let content = EntryMac::of(&first.sealing).sign(marker, content.as_bytes());
    let failed = |error| failed_read(name, error);
    for _ in 0..ATTEMPTS {
        match store_new(backend, marker, &content, &operation, failed).await {
            Ok(Some(_)) => return Ok(true),
            Ok(None) => {
                let why = "another server undid it at the same moment";
                return Err(Error::with_source(ErrorKind::Conflict, operation(), why));
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        match search.read_marker(marker).await.map_err(failed)? {
            Marker::There(_) => return Ok(false),
            Marker::Foreign(error) => {
                warn!(key = %name, entry = %marker, cause = error.as_dyn(), "a marker without effect is removed");
                match backend.write(backend.store.erase(marker)).await {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                // Another server may be about to do the same, and must not remove the marker that is made next.
                sleep(AFTER_ANOTHER).await;
            }
            Marker::Absent => {}
            Marker::Denied(error) => return Err(error),
        }
    }
    let why = format!("{} cannot be made, nor what is there be removed", backend.store.place(marker));
    Err(Error::with_source(ErrorKind::Corrupt, operation(), why))
}

/// Removes an entry of a key that was deleted meanwhile, and returns that there is no such key.
pub async fn without_owner<S: KeyStore>(
    cache: &Cache<S>,
    name: &KeyName,
    entry: &EntryName,
    operation: impl Fn() -> String,
) -> Error {
    if let Err(error) = cache.backend.write(cache.backend.store.delete(entry)).await {
        warn!(key = %name, %entry, cause = error.as_dyn(), "the key was deleted meanwhile, and this entry of it was not");
    }
    Error::with_source(ErrorKind::NotFound, operation(), "it was deleted meanwhile")
}

/// Returns whether there is an entry, readable or not.
pub async fn exists<S: KeyStore>(cache: &Cache<S>, entry: &EntryName) -> Result<bool> {
    match cache.backend.read_back(entry).await {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            ErrorKind::NotFound => Ok(false),
            ErrorKind::Corrupt | ErrorKind::Deleted | ErrorKind::Disabled => Ok(true),
            _ => Err(error),
        },
    }
}

/// Returns the number of the newest version that a search finds.
pub async fn newest_of<S: KeyStore>(cache: &Cache<S>, name: &KeyName, first: &CachedKey) -> Result<u32> {
    let found = cache.search(name, first, None, Instant::now() + CALL_TIMEOUT).await;
    let found = found.map_err(|error| failed_read(name, error))?;
    Ok(found.versions.map_or(1, |versions| versions.newest()))
}

/// Returns the number of the newest version of which there is an entry, readable or not, given that `newest` is there.
///
/// One that is missing ends the walk only if the next one is missing, too.
pub async fn last_version<S: KeyStore>(
    cache: &Cache<S>,
    name: &KeyName,
    first: &Fingerprint,
    mut newest: u32,
) -> Result<u32> {
    let mut number = newest + 1;
    while number <= MAX_VERSIONS && number <= newest + 2 {
        match exists(cache, &EntryName::version(name, first, number)).await {
            Ok(true) => newest = number,
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::Denied => {
                warn!(key = %name, cause = error.as_dyn(), "if the key has later versions, they stay in the key store");
                break;
            }
            Err(error) => return Err(error),
        }
        number += 1;
    }
    Ok(newest)
}

/// Removes the slots of versions from the newest down, and then their markers.
pub async fn remove_versions<S: KeyStore>(
    cache: &Cache<S>,
    name: &KeyName,
    first: &Fingerprint,
    newest: u32,
) -> Result<()> {
    let versions = (2..=newest).rev().map(|number| EntryName::version(name, first, number));
    let markers = (1..=newest).rev().map(|number| EntryName::disabled(name, first, number));
    for entry in versions.chain(markers) {
        match remove(cache, &entry).await {
            // Where the path is denied as a whole, no server of ours made such an entry.
            Err(error) if error.kind() == ErrorKind::Denied => match exists(cache, &entry).await {
                Ok(true) => return Err(error),
                Err(error) if error.kind() != ErrorKind::Denied => return Err(error),
                _ => {}
            },
            removed => removed?,
        }
    }
    Ok(())
}

/// Removes the entry of a key for ever, and notes that where the store keeps such notes. It is no error if there is none.
pub async fn remove_key<S: KeyStore>(
    cache: &Cache<S>,
    caller: Identity,
    name: &KeyName,
    first: &Fingerprint,
) -> Result<()> {
    match remove_noting(cache, caller, name, first).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the entry of a key for ever, and notes that where the store keeps such notes.
pub async fn remove_noting<S: KeyStore>(
    cache: &Cache<S>,
    caller: Identity,
    name: &KeyName,
    first: &Fingerprint,
) -> Result<()> {
    let (entry, gone, note) =
        (EntryName::from(name), EntryName::gone(name, first), GoneNote::now(caller).record()?);
    cache.backend.write(cache.backend.store.remove(&entry, &gone, &note)).await
}

/// Removes an entry for ever. It is no error if there is none.
pub async fn remove<S: KeyStore>(cache: &Cache<S>, entry: &EntryName) -> Result<()> {
    match cache.backend.write(cache.backend.store.erase(entry)).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
