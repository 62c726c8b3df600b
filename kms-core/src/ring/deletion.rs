//! How a key goes, and comes back: delete and restore.
//!
//! A delete with a grace makes the marker `.d` and leaves the entry. A restore removes the marker. A purge removes all that
//! belongs to the key. So that one of the two wins, both first make the marker `.p`, and look at `.d` again.

use std::time::Instant;

use jiff::Timestamp;
use tracing::warn;

use super::cache::{Cache, deleted, failed_read};
use super::change;
use super::entries::{
    last_version, newest_of, put_marker, remove, remove_key, remove_noting, remove_versions, without_owner,
};
use super::key::CachedKey;
use super::markers::{DeletedMarker, UnderWayMarker, json};
use super::policy::CALL_TIMEOUT;
use super::run::{Run, is_under_way, under_way};
use super::search::Search;
use crate::deletion::{Deletion, Resolution};
use crate::error::{Error, ErrorKind, Result};
use crate::identity::Identity;
use crate::name::KeyName;
use crate::store::belonging::Marker;
use crate::store::{EntryName, KeyRecord, KeyStore};
use crate::sync::sleep;

/// Deletes a key of which `key` was read just now, `None` if there was nothing to read.
pub async fn delete<S: KeyStore>(
    cache: &Cache<S>,
    caller: Identity,
    name: &KeyName,
    key: Option<CachedKey>,
) -> Result<Deletion> {
    if let Some(first) = &key {
        let search = cache.search_of(name, first, Instant::now() + CALL_TIMEOUT);
        // A restore has removed `.d` already, and not yet its own marker.
        if let Some(other) = under_way(&search).await? {
            return Err(is_under_way(name, other.as_ref(), Resolution::Restore));
        }
        if !cache.grace.is_zero() {
            return mark_deleted(cache, caller, &search).await;
        }
    }
    delete_at_once(cache, caller, name, key).await?;
    let keeps = cache.backend.store.capabilities().keeps_deleted;
    Ok(if keeps { Deletion::restorable(None) } else { Deletion::for_ever() })
}

async fn mark_deleted<S: KeyStore>(
    cache: &Cache<S>,
    caller: Identity,
    search: &Search<'_, S>,
) -> Result<Deletion> {
    let Search { name, first, .. } = *search;
    let operation = || format!("delete key '{name}'");
    let marker = EntryName::deleted(name, first.fingerprint());
    let now = Timestamp::now();
    let grace = cache.grace.max(cache.config.offline);
    let until = now.checked_add(grace).unwrap_or(Timestamp::MAX);
    let says = DeletedMarker { at: now.to_string(), by: caller.to_string(), until: until.to_string() };
    let made = put_marker(search, &marker, &json(&says)?, operation).await;
    // The key is deleted, or that is not known. No copy in memory is used.
    let held = cache.in_memory(name);
    cache.drop_key(name, Some(first.fingerprint()));
    // A store that fails now may come back without the key, and the delete was none.
    if made.is_err() {
        cache.keep_in_doubt(name, held.clone());
    }
    if !made? {
        return Err(deleted(name));
    }
    match cache.entry_until(name, Instant::now() + CALL_TIMEOUT).await {
        Ok(key) if key.fingerprint() == first.fingerprint() => {}
        Err(error) if error.kind() != ErrorKind::NotFound => {}
        // Another server deleted it for ever, or the store lost it.
        _ => {
            cache.keep_in_doubt(name, held);
            return Err(without_owner(cache, name, &marker, operation).await);
        }
    }
    Ok(Deletion::marked(until))
}

/// Deletes a key for ever: its first version, and then the later ones from the newest down.
async fn delete_at_once<S: KeyStore>(
    cache: &Cache<S>,
    caller: Identity,
    name: &KeyName,
    key: Option<CachedKey>,
) -> Result<()> {
    let newest = match &key {
        None => 1,
        Some(first) => {
            let newest = newest_of(cache, name, first).await?;
            let newest = last_version(cache, name, first.fingerprint(), newest).await?;
            // A server with a grace may have said meanwhile that it is kept.
            let search = cache.search_of(name, first, Instant::now() + CALL_TIMEOUT);
            if search.deletion().await.map_err(|error| failed_read(name, error))?.is_some() {
                return Err(self::deleted(name));
            }
            newest
        }
    };
    let store = &cache.backend.store;
    let deleted = match &key {
        Some(first) if store.capabilities().notes_removals => {
            remove_noting(cache, caller, name, first.fingerprint()).await
        }
        // Where nothing is noted, the backend may keep what it deletes.
        _ => cache.backend.write(store.delete(&EntryName::from(name))).await,
    };
    // Whatever the outcome, the cached key is no longer known to be in the store. It may have lost it just now.
    if deleted.is_err() {
        cache.keep_in_doubt(name, cache.in_memory(name));
    }
    cache.drop_key(name, key.as_ref().map(CachedKey::fingerprint));
    if deleted.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::NotFound) {
        cache.report.unreadable.clear(name);
    }
    deleted?;
    let Some(first) = key.as_ref().map(CachedKey::fingerprint).filter(|_| newest > 1) else { return Ok(()) };
    if store.capabilities().keeps_deleted {
        // The backend can restore the entry, and then the versions are needed.
        warn!(
            key = %name, "the versions of the key stay for a restore; once the key store has erased the key, what removes \
            them is 'kms key purge {name} --fingerprint {}'", hex::encode(first.as_bytes())
        );
        return Ok(());
    }
    cache.uses.forget(name, first);
    cache.losses.clear(name, first);
    if let Err(error) = remove_versions(cache, name, first, newest).await {
        warn!(
            key = %name, "the key was deleted, and not all that belongs to it: {}; what removes that is \
            'kms key purge {name} --fingerprint {}'", error.chain(), hex::encode(first.as_bytes())
        );
    }
    Ok(())
}

/// Restores a deleted key.
pub async fn restore<S: KeyStore>(
    cache: &Cache<S>,
    caller: Identity,
    name: &KeyName,
    resume: bool,
) -> Result<()> {
    let operation = || format!("restore key '{name}'");
    let conflict = |why: String| Error::with_source(ErrorKind::Conflict, operation(), why);
    let mut was_away = false;
    let first = match cache.entry_until(name, Instant::now() + CALL_TIMEOUT).await {
        Err(error) if error.kind() == ErrorKind::Deleted => {
            let store = &cache.backend.store;
            cache
                .backend
                .write(store.restore(&EntryName::from(name)))
                .await
                .map_err(|error| Error::with_source(error.kind(), operation(), error))?;
            was_away = true;
            sleep(store.capabilities().settle).await;
            cache.entry_until(name, Instant::now() + CALL_TIMEOUT).await?
        }
        first => first?,
    };
    let search = cache.search_of(name, &first, Instant::now() + CALL_TIMEOUT);
    if search.deletion().await.map_err(|error| failed_read(name, error))?.is_none() {
        return match under_way(&search).await? {
            Some(_) if resume => remove(cache, &EntryName::under_way(name, first.fingerprint())).await,
            Some(other) => Err(is_under_way(name, other.as_ref(), Resolution::Restore)),
            None if was_away => Ok(()),
            None => Err(conflict("key is not deleted".to_owned())),
        };
    }
    let run = Run::begin(cache, &search, caller, Resolution::Restore, resume).await?;
    if run.deletion(cache, &search).await?.is_none() {
        run.end(cache, &search).await;
        return match cache.entry_until(name, Instant::now() + CALL_TIMEOUT).await {
            Ok(_) => Err(conflict("key is not deleted: it was restored meanwhile".to_owned())),
            Err(error) => Err(error),
        };
    }
    // A purge that was thought dead may have gone on.
    match cache.entry_until(name, Instant::now() + CALL_TIMEOUT).await {
        Ok(there) if there.fingerprint() == first.fingerprint() => {}
        there => {
            let is_gone = there.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::NotFound);
            if is_gone {
                run.end(cache, &search).await;
            }
            there?;
            return Err(conflict("another key has this name by now".to_owned()));
        }
    }
    run.is_mine(cache, &search).await?;
    remove(cache, &EntryName::deleted(name, first.fingerprint())).await?;
    // Whoever took the place of this run meanwhile may remove the key.
    run.is_mine(cache, &search).await?;
    run.end(cache, &search).await;
    Ok(())
}

/// Stores the record of a key that somebody brings, and takes the key into the cache.
pub async fn import<S: KeyStore>(
    cache: &Cache<S>,
    caller: Identity,
    name: &KeyName,
    record: KeyRecord,
) -> Result<()> {
    let encoded = record.encode();
    let key = CachedKey::new(record);
    if let Some(error) = left_of(cache, name, &key).await?
        && let Err(read) = cache.backend.read_back(&EntryName::from(name)).await
        && read.kind() == ErrorKind::NotFound
    {
        return Err(error);
    }
    // Where there is an entry, the create finds the name taken.
    let gone = EntryName::gone(name, key.fingerprint());
    change::create(cache, name, KeyRecord::decode(encoded.expose())?, Some(&gone)).await?;
    // A purge of the same key may have gone on since the look, and would take the versions of this one. A mark of a deletion
    // is of this key: there was none.
    let Some(error) = is_purged(cache, name, &key).await? else { return Ok(()) };
    cache.drop_key(name, Some(key.fingerprint()));
    // Nothing but what was stored here is removed.
    match cache.backend.read_back(&EntryName::from(name)).await {
        Ok((stored, _)) if stored == encoded => remove_key(cache, caller, name, key.fingerprint()).await?,
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed_read(name, error)),
    }
    Err(error)
}

/// Returns the error of an import of a key that is being purged.
async fn is_purged<S: KeyStore>(cache: &Cache<S>, name: &KeyName, key: &CachedKey) -> Result<Option<Error>> {
    let run = EntryName::under_way(name, key.fingerprint());
    let search = cache.search_of(name, key, Instant::now() + CALL_TIMEOUT);
    match search.read_marker(&run).await.map_err(|error| failed_read(name, error))? {
        Marker::Absent | Marker::Denied(_) => return Ok(None),
        Marker::There(content)
            if UnderWayMarker::parse(&content).is_some_and(|run| run.what == Resolution::Restore) =>
        {
            return Ok(None);
        }
        // A purge whose key is gone already cannot sign its marker.
        Marker::There(_) | Marker::Foreign(_) => {}
    }
    let why = format!(
        "a key with these bytes is being purged, or its purge was cut off: \
         'kms key purge {name} --fingerprint {} --resume' removes what is left of it for ever. If nobody began a purge, \
         remove {} instead",
        hex::encode(key.fingerprint().as_bytes()),
        cache.backend.store.place(&run)
    );
    Ok(Some(Error::with_source(ErrorKind::Conflict, format!("import key '{name}'"), why)))
}

/// Returns why a key with these bytes cannot be imported, although its entry is gone: it is deleted, or being purged.
async fn left_of<S: KeyStore>(cache: &Cache<S>, name: &KeyName, key: &CachedKey) -> Result<Option<Error>> {
    if let Some(error) = is_purged(cache, name, key).await? {
        return Ok(Some(error));
    }
    let search = cache.search_of(name, key, Instant::now() + CALL_TIMEOUT);
    let is_deleted = search.deletion().await.map_err(|error| failed_read(name, error))?.is_some();
    Ok(is_deleted.then(|| {
        let why = format!(
            "a key with these bytes was deleted, and its entry is gone although no purge began. To keep its versions, \
             remove {} and import again; 'kms key purge {name} --fingerprint {}' removes them for ever",
            cache.backend.store.place(&EntryName::deleted(name, key.fingerprint())),
            hex::encode(key.fingerprint().as_bytes())
        );
        Error::with_source(ErrorKind::Conflict, format!("import key '{name}'"), why)
    }))
}
