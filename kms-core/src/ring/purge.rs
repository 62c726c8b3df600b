//! How a deleted key goes for ever.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::cache::{Cache, failed_read};
use super::entries::{exists, last_version, newest_of, remove, remove_key, remove_versions};
use super::key::CachedKey;
use super::markers::DeletedMarker;
use super::policy::{APART, CALL_TIMEOUT};
use super::run::{Run, is_under_way, under_way};
use crate::deletion::{Purge, Purged, Resolution};
use crate::error::{Error, ErrorKind, Result};
use crate::identity::Identity;
use crate::name::KeyName;
use crate::primitives::{Fingerprint, SecretBytes};
use crate::store::{EntryName, KeyStore};
use crate::sync::{sleep, sleep_until};

/// The content of the marker of a purge whose key is gone.
const UNSIGNED: &[u8] = b"a purge of what is left";

/// Removes a deleted key for ever, or what is left of one.
pub async fn purge<S: KeyStore>(
    cache: &Cache<S>,
    caller: Identity,
    name: &KeyName,
    purge: &Purge,
) -> Result<Purged> {
    match cache.entry_until(name, Instant::now() + CALL_TIMEOUT).await {
        Ok(first) => match purge.fingerprint.filter(|wanted| wanted != first.fingerprint()) {
            Some(gone) => purge_rest(cache, name, gone, purge).await,
            None => purge_whole(cache, caller, name, &first, purge).await,
        },
        Err(error) if error.kind() == ErrorKind::Deleted => {
            let why = "the key was deleted in the key store itself, which keeps it: restore it first, or remove it there";
            Err(Error::with_source(ErrorKind::Conflict, format!("purge key '{name}'"), why))
        }
        Err(error) => match purge.fingerprint.filter(|_| error.kind() == ErrorKind::NotFound) {
            Some(gone) => purge_rest(cache, name, gone, purge).await,
            None => Err(error),
        },
    }
}

async fn purge_whole<S: KeyStore>(
    cache: &Cache<S>,
    caller: Identity,
    name: &KeyName,
    first: &CachedKey,
    purge: &Purge,
) -> Result<Purged> {
    let conflict = |why: String| Error::with_source(ErrorKind::Conflict, format!("purge key '{name}'"), why);
    let search = cache.search_of(name, first, Instant::now() + CALL_TIMEOUT);
    let Some(content) = search.deletion().await.map_err(|error| failed_read(name, error))? else {
        return Err(match under_way(&search).await? {
            Some(other) => is_under_way(name, other.as_ref(), Resolution::Restore),
            None => conflict(format!("key is not deleted: 'kms key rm {name}' comes first")),
        });
    };
    may_be_purged(cache, &content, purge.now).map_err(conflict)?;
    let run = Run::begin(cache, &search, caller, Resolution::Purge, purge.resume).await?;
    // It may have been restored meanwhile, and even deleted again.
    let refused = match run.deletion(cache, &search).await? {
        Some(content) => may_be_purged(cache, &content, purge.now).err(),
        None => Some("key is not deleted: it was restored meanwhile".to_owned()),
    };
    if let Some(why) = refused {
        run.end(cache, &search).await;
        return Err(conflict(why));
    }
    let newest = newest_of(cache, name, first).await?;
    run.is_mine(cache, &search).await?;
    // Nothing but this very key is removed.
    match cache.entry_until(name, Instant::now() + CALL_TIMEOUT).await {
        Ok(there) if there.fingerprint() != first.fingerprint() => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(_) => remove_key(cache, caller, name, first.fingerprint()).await?,
    }
    cache.drop_key(name, Some(first.fingerprint()));
    cache.report.unreadable.clear(name);
    cache.uses.forget(name, first.fingerprint());
    cache.losses.clear(name, first.fingerprint());
    let versions = remove_rest(cache, name, first.fingerprint(), newest).await?;
    Ok(Purged::new(*first.fingerprint(), versions))
}

/// Removes what belongs to a key whose entry was removed just now. Returns the number of its newest version.
async fn remove_rest<S: KeyStore>(
    cache: &Cache<S>,
    name: &KeyName,
    first: &Fingerprint,
    newest: u32,
) -> Result<u32> {
    // Whoever saw the entry has to see that it is deleted, however slow he or the store is.
    let seen = Instant::now() + APART * 3 / 2 + cache.backend.store.capabilities().settle;
    // A rotation may have made one more since the versions were counted.
    let newest = last_version(cache, name, first, newest).await?;
    remove_versions(cache, name, first, newest).await?;
    sleep_until(seen.into()).await;
    remove(cache, &EntryName::deleted(name, first)).await?;
    remove(cache, &EntryName::under_way(name, first)).await?;
    cache.drop_key(name, Some(first));
    Ok(newest)
}

/// Fails with words for the client if a purge comes too early.
fn may_be_purged<S>(cache: &Cache<S>, content: &[u8], now: bool) -> std::result::Result<(), String> {
    let marker = DeletedMarker::parse(content);
    let times = marker.as_ref().and_then(|marker| Some((marker.deleted_at()?, marker.kept_until()?)));
    let Some((at, until)) = times else {
        return Err("the marker of its deletion is of a later release, which has to purge it".to_owned());
    };
    let after = |time: Duration| at.checked_add(time).unwrap_or(Timestamp::MAX);
    let (present, unused) = (Timestamp::now(), after(cache.config.any));
    if present < unused {
        return Err(format!("other servers may still use the key: try again after {unused:.0}"));
    }
    let kept = until.max(after(cache.config.offline));
    if present < kept && !now {
        return Err(format!("the key is kept until {kept:.0}; '--now' purges it before"));
    }
    Ok(())
}

/// Removes what a purge or a delete that was cut off left behind. The key with the fingerprint is gone.
async fn purge_rest<S: KeyStore>(
    cache: &Cache<S>,
    name: &KeyName,
    first: Fingerprint,
    purge: &Purge,
) -> Result<Purged> {
    let operation = || format!("purge key '{name}'");
    let marker = EntryName::under_way(name, &first);
    // What is there was made by the run that is to be resumed, or by somebody else: nobody can tell any more.
    let is_under_way = exists(cache, &marker).await?;
    let another = || {
        let why = format!(
            "another purge of it is under way, or was cut off: 'kms key purge {name} --fingerprint {} --resume' \
             goes on once its server is dead",
            hex::encode(first.as_bytes())
        );
        Error::with_source(ErrorKind::Conflict, operation(), why)
    };
    if is_under_way && !purge.resume {
        return Err(another());
    }
    let lost = || {
        let why = format!(
            "nobody removed the key, so the key store lost its entry, and what is left is a part of it: restore the key \
             ('kms key restore {name}' on a server that has it in memory, or from a backup); '--now' removes what is left"
        );
        Error::with_source(ErrorKind::Conflict, operation(), why)
    };
    let is_lost_here = cache.losses.of(name).iter().any(|(key, _)| *key.fingerprint() == first);
    let is_lost = is_lost_here
        || cache.notes_removals()
            && !is_under_way
            && !purge.now
            && !cache.is_noted(name, &first, None).await?;
    if is_lost {
        return Err(lost());
    }
    let newest = last_version(cache, name, &first, 1).await?;
    let mut is_something = is_under_way || newest > 1;
    for entry in [EntryName::disabled(name, &first, 1), EntryName::deleted(name, &first)] {
        is_something = is_something || matches!(exists(cache, &entry).await, Ok(true));
    }
    if !is_something {
        return Err(Error::with_source(
            ErrorKind::NotFound,
            operation(),
            "nothing is left of a key with this fingerprint",
        ));
    }
    if !is_under_way {
        // The key that would sign it is gone. It keeps an import of the same bytes away all the same.
        let says = SecretBytes::from(UNSIGNED);
        let made = cache.backend.write(cache.backend.store.create(&marker, &says)).await;
        made.map_err(|error| if error.kind() == ErrorKind::AlreadyExists { another() } else { error })?;
        sleep(cache.backend.store.capabilities().settle).await;
    }
    // An import may have been faster.
    match cache.entry_until(name, Instant::now() + CALL_TIMEOUT).await {
        Ok(there) if *there.fingerprint() == first => {
            if !is_under_way {
                remove(cache, &marker).await?;
            }
            let why = "an import of the same key came at this moment, and nothing was removed: look with 'kms key ls', and \
                       try again";
            return Err(Error::with_source(ErrorKind::Conflict, operation(), why));
        }
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let versions = remove_rest(cache, name, &first, newest).await?;
    Ok(Purged::new(first, versions))
}
