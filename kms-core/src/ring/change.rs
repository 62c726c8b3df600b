//! What changes a key in the store: create, rotate, retire, enable.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use tracing::warn;

use super::cache::{Cache, failed_read};
use super::entries::{AFTER_ANOTHER, gone_at_once, put_marker, store_by, store_new, without_owner};
use super::key::CachedKey;
use super::loss::taken;
use super::policy::CALL_TIMEOUT;
use super::search::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::identity::{Identity, Request};
use crate::kms::Rotation;
use crate::name::KeyName;
use crate::primitives::SecretKey;
use crate::store::belonging::EntryMac;
use crate::store::entry::MAX_VERSIONS;
use crate::store::{EntryName, KeyRecord, KeyStore};
use crate::sync::sleep;

/// How often a rotation begins anew because another server made the version.
const ROTATIONS: usize = 8;

/// Stores the record of a new key, and takes the key into the cache. `back` is the note of a key that is brought back.
pub async fn create<S: KeyStore>(
    cache: &Cache<S>,
    name: &KeyName,
    record: KeyRecord,
    back: Option<&EntryName>,
) -> Result<()> {
    let place = cache.place(name);
    let failed_read = |error| {
        let error = failed_read(name, error);
        cache.report.learn(name, Some(&error));
        error
    };
    let (entry, encoded) = (EntryName::from(name), record.encode());
    let operation = || format!("create key '{name}'");
    if cache.is_lost(name).await? {
        return Err(taken(name));
    }
    let store = &cache.backend.store;
    let create = match back {
        None => store.create(&entry, &encoded),
        Some(gone) => store.bring_back(&entry, &encoded, gone),
    };
    let began = store_by(&cache.backend, create, &entry, &encoded, operation, failed_read).await?;
    let began = began.ok_or_else(|| gone_at_once(operation()))?;
    cache.publish_new(name, &place, cache.ready(record), began);
    Ok(())
}

/// Makes a new version of a key. With `only_after` it does so only if that is the newest version.
pub async fn rotate<S: KeyStore>(
    cache: &Cache<S>,
    request: &Request,
    name: &KeyName,
    only_after: Option<u32>,
) -> Result<Rotation> {
    let operation = || format!("rotate key '{name}'");
    let unsupported = |error: Error| Error::with_source(ErrorKind::Unsupported, operation(), error);
    let mut attempted = None;
    for _ in 0..ROTATIONS {
        let first = cache.try_key_until(name, Instant::now() + CALL_TIMEOUT).await?;
        let before = cache.versions_in_memory(name, &first);
        let found = cache.search(name, &first, before, Instant::now() + CALL_TIMEOUT).await;
        let found = found.map_err(|error| failed_read(name, error))?;
        if let Some(denied) = found.denied {
            return Err(unsupported(denied));
        }
        let newest = found.versions.as_ref().map_or(1, |versions| versions.newest());
        if let Some(error) = found.versions.and_then(|versions| versions.newest_fails()) {
            return Err(Error::with_source(error.kind(), operation(), error));
        }
        if only_after.is_some_and(|version| version != newest) {
            let why = format!("version {newest} is the newest");
            return Err(Error::with_source(ErrorKind::AlreadyExists, operation(), why));
        }
        if newest == MAX_VERSIONS {
            let why = format!("it has {MAX_VERSIONS} versions, the most that a key may have");
            return Err(Error::with_source(ErrorKind::Conflict, operation(), why));
        }
        let version = newest + 1;
        let mac = EntryMac::of(&first.sealing);
        let search = cache.search_of(name, &first, Instant::now() + CALL_TIMEOUT);
        // A version that is lost must not be made anew: its successors show that it was there.
        let mut step = 1;
        while version + step <= MAX_VERSIONS {
            let entry = search.read(version + step, &mac).await.map_err(|error| failed_read(name, error))?;
            if matches!(entry, Entry::Readable(_)) {
                return Err(Error::with_source(ErrorKind::Corrupt, operation(), search.missing(version)));
            }
            step *= 2;
        }
        let entry = EntryName::version(name, first.fingerprint(), version);
        if attempted.replace(version) == Some(version) {
            let place = cache.backend.store.place(&entry);
            let why = format!(
                "{place} exists and does not read; if it was deleted in the backend, bring it back there"
            );
            return Err(Error::with_source(ErrorKind::Corrupt, operation(), why));
        }
        let mut record =
            KeyRecord::new(SecretKey::random()?, first.sealing.cipher(), request.identity.to_string())?;
        record.hmac_key = None; // HMACs stay those of the first version
        let content = mac.sign(&entry, record.encode().expose());
        match store_new(&cache.backend, &entry, &content, operation, |error| failed_read(name, error)).await {
            Ok(Some(_)) => {}
            Ok(None) => return Err(gone_at_once(operation())),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // A replica may show the other server's version a moment later.
                sleep(AFTER_ANOTHER).await;
                continue;
            }
            Err(error) if error.kind() == ErrorKind::Denied => return Err(unsupported(error)),
            Err(error) => return Err(error),
        }
        // The version is there. A read that fails now is made up for by the next refresh.
        let now = Request::new(request.identity, CALL_TIMEOUT);
        match cache.fetch(&now, name, Some(now.received)).await {
            Ok(key) if key.fingerprint() == first.fingerprint() => {}
            Err(error) if error.kind() == ErrorKind::Deleted => return Err(error),
            Err(error) if error.kind() != ErrorKind::NotFound => {
                warn!(key = %name, cause = error.as_dyn(), "version {version} was made, and could not be read again yet");
            }
            // The key was deleted meanwhile, so the version has no owner.
            _ => return Err(without_owner(cache, name, &entry, operation).await),
        }
        return Ok(Rotation::new(Some(version), cache.delay()));
    }
    let why = "other servers made a version each time";
    Err(Error::with_source(ErrorKind::Throttled, operation(), why))
}

/// Disables a version of a key.
pub async fn retire<S: KeyStore>(
    cache: &Cache<S>,
    caller: Identity,
    name: &KeyName,
    version: u32,
) -> Result<()> {
    let operation = || format!("retire version {version} of key '{name}'");
    let conflict = |why: String| Error::with_source(ErrorKind::Conflict, operation(), why);
    let (first, newest) = with_version(cache, name, version, operation).await?;
    let search = cache.search_of(name, &first, Instant::now() + CALL_TIMEOUT);
    let (mac, delay) = (EntryMac::of(&first.sealing), cache.retire_delay());
    let (mut youngest, mut is_followed) = (None, false);
    for number in version + 1..=newest {
        if let Entry::Readable(next) =
            search.read(number, &mac).await.map_err(|error| failed_read(name, error))?
            && !search.is_disabled(number).await.map_err(|error| failed_read(name, error))?
        {
            // By the time in its record, and by the time since it was seen here: the other's clock may be wrong.
            let waits = next.waits(delay).max(delay.saturating_sub(next.state.used.known_for()));
            if waits.is_zero() {
                is_followed = true;
                break;
            }
            youngest.get_or_insert((number, waits));
        }
    }
    if !is_followed {
        return Err(conflict(match youngest {
            Some((number, waits)) => format!(
                "version {version} may still seal on a server that has not seen version {number}: try again in {} s",
                waits.as_secs() + 1
            ),
            None => format!(
                "version {version} is the newest that can seal: 'kms key rotate {name}' makes another, and after {} s it can be retired",
                delay.as_secs() + 1
            ),
        }));
    }
    let marker = EntryName::disabled(name, first.fingerprint(), version);
    let content = format!(r#"{{"at":"{}","by":"{caller}"}}"#, Timestamp::now());
    put_marker(&search, &marker, &content, operation)
        .await
        .map_err(|error| without_markers(error, operation))?;
    match cache.try_key_until(name, Instant::now() + CALL_TIMEOUT).await {
        Ok(key) if key.fingerprint() == first.fingerprint() => {}
        Err(error) if error.kind() != ErrorKind::NotFound => {}
        _ => return Err(without_owner(cache, name, &marker, operation).await),
    }
    note_disabled(cache, name, &first, version, true);
    Ok(())
}

/// Enables a version of a key.
pub async fn enable<S: KeyStore>(cache: &Cache<S>, name: &KeyName, version: u32) -> Result<()> {
    let operation = || format!("enable version {version} of key '{name}'");
    let (first, _) = with_version(cache, name, version, operation).await?;
    let marker = EntryName::disabled(name, first.fingerprint(), version);
    match cache.backend.write(cache.backend.store.delete(&marker)).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(without_markers(error, operation)),
        _ => {
            note_disabled(cache, name, &first, version, false);
            Ok(())
        }
    }
}

/// Reads the first version of a key that has `version`, and the number of its newest.
async fn with_version<S: KeyStore>(
    cache: &Cache<S>,
    name: &KeyName,
    version: u32,
    operation: impl Fn() -> String,
) -> Result<(CachedKey, u32)> {
    let first = cache.try_key_until(name, Instant::now() + CALL_TIMEOUT).await?;
    let before = cache.versions_in_memory(name, &first);
    let found = cache.search(name, &first, before, Instant::now() + CALL_TIMEOUT).await;
    let found = found.map_err(|error| failed_read(name, error))?;
    if let Some(denied) = found.denied {
        return Err(Error::with_source(ErrorKind::Unsupported, operation(), denied));
    }
    let newest = found.versions.map_or(1, |versions| versions.newest());
    if version == 0 || version > newest {
        let why = format!("key '{name}' has no version {version}; the newest is {newest}");
        return Err(Error::with_source(ErrorKind::Conflict, operation(), why));
    }
    Ok((first, newest))
}

fn without_markers(error: Error, operation: impl Fn() -> String) -> Error {
    match error.kind() {
        ErrorKind::Denied => Error::with_source(ErrorKind::Unsupported, operation(), error),
        _ => error,
    }
}

/// Notes in memory whether a version is disabled.
fn note_disabled<S: KeyStore>(
    cache: &Cache<S>,
    name: &KeyName,
    first: &CachedKey,
    version: u32,
    is_disabled: bool,
) {
    let Some(versions) = cache.versions_in_memory(name, first) else { return };
    let later = versions.get(version).map(|version| Arc::clone(&version.state));
    let state = later.or_else(|| (version == 1).then(|| Arc::clone(&versions.first)));
    if let Some(state) = state {
        state.disabled.put(is_disabled, Instant::now());
    }
}
