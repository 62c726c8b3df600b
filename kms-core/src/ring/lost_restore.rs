//! How a key that the store lost is written back.

use std::time::{Duration, Instant};

use tracing::warn;

use super::cache::{Cache, failed_read};
use super::entries::{gone_at_once, store_new};
use super::losses::Standing;
use super::policy::CALL_TIMEOUT;
use super::slot::HeldKey;
use crate::error::{Error, ErrorKind, Result};
use crate::name::KeyName;
use crate::primitives::SecretBytes;
use crate::store::belonging::EntryMac;
use crate::store::{EntryName, KeyStore};
use crate::transfer::{StoredKey, Written, former_name};

/// How long all writes of one restore may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes the lost keys of this name back. Returns whether there was one.
///
/// The same call completes what was cut off, and several servers that have the same key may do so at once.
pub async fn restore<S: KeyStore>(cache: &Cache<S>, name: &KeyName) -> Result<bool> {
    // What is in memory may not have been compared with the store since the store lost it.
    cache.is_lost(name).await?;
    let losses = cache.losses.of(name).into_iter().filter(|(_, standing)| *standing != Standing::Unknown);
    let mut was_lost = false;
    for (key, standing) in losses {
        if standing == Standing::Lacks {
            write_versions(cache, name, &key).await?;
            cache.losses.clear(name, key.fingerprint());
            was_lost = true;
            continue;
        }
        let (whole, lacks) = whole(cache, name, &key).await?;
        let kept = write(cache, name, &whole).await?;
        cache.losses.clear(name, key.fingerprint());
        warn!(key = %name, fingerprint = ?key.fingerprint(), "a key that the key store lost was written back as '{kept}'");
        for number in lacks {
            warn!(
                key = %name,
                "version {number} of the key is neither in the key store nor in the memory of this server: restore it from a backup"
            );
        }
        was_lost = true;
    }
    Ok(was_lost)
}

/// Writes the versions back that the store lost while it has the key.
async fn write_versions<S: KeyStore>(cache: &Cache<S>, name: &KeyName, key: &HeldKey) -> Result<()> {
    let mac = EntryMac::of(&key.sealing);
    for number in cache.lost_versions(name, key).await? {
        let version = key.versions.as_ref().and_then(|versions| versions.get(number));
        let Some(version) = version else { continue };
        let operation = || format!("restore version {number} of key '{name}'");
        let entry = EntryName::version(name, key.fingerprint(), number);
        let content = mac.sign(&entry, version.record().encode().expose());
        match store_new(&cache.backend, &entry, &content, operation, |error| failed_read(name, error)).await {
            Ok(Some(_)) => {
                warn!(key = %name, "version {number} of the key, which the key store lost, was written back");
            }
            Ok(None) => return Err(gone_at_once(operation())),
            // Another server has it, too.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes a key under its name, or if another key has that, under the name for a former key. Returns which.
async fn write<S: KeyStore>(cache: &Cache<S>, name: &KeyName, key: &StoredKey) -> Result<KeyName> {
    let (store, operation) = (&cache.backend.store, || format!("restore key '{name}'"));
    let deadline = Instant::now() + PATIENCE;
    if !matches!(cache.backend.watched(deadline, key.write(store)).await?, Written::Other(_)) {
        return Ok(name.clone());
    }
    let kept = former_name(name, &key.fingerprint())?;
    let renamed = key.renamed(&kept)?;
    match cache.backend.watched(deadline, renamed.write(store)).await? {
        Written::Other(other) => {
            let other = hex::encode(other.as_bytes());
            let why = format!("'{name}' and '{kept}' both have other keys, the latter the key {other}");
            Err(Error::with_source(ErrorKind::Conflict, operation(), why))
        }
        Written::Stored | Written::There { .. } => Ok(kept),
    }
}

/// Puts a key together from memory, with what the store has of its versions and markers. Returns the numbers of the versions
/// that are nowhere, too.
async fn whole<S: KeyStore>(
    cache: &Cache<S>,
    name: &KeyName,
    key: &HeldKey,
) -> Result<(StoredKey, Vec<u32>)> {
    let (first, mac) = (key.fingerprint(), EntryMac::of(&key.sealing));
    let mut entries = vec![(name.as_str().to_owned(), key.record().encode())];
    let mut lacks = Vec::new();
    for number in 2..=key.newest() {
        let entry = EntryName::version(name, first, number);
        let stored = read(cache, &entry).await?.filter(|bytes| mac.verify(&entry, bytes.expose()).is_some());
        let in_memory = || {
            let version = key.versions.as_ref()?.get(number)?;
            Some(mac.sign(&entry, version.record().encode().expose()))
        };
        match stored.or_else(in_memory) {
            // What follows a version that is nowhere stays as it is.
            Some(bytes) if lacks.is_empty() => entries.push((entry.as_str().to_owned(), bytes)),
            Some(_) => {}
            None => lacks.push(number),
        }
    }
    let whole_to = lacks.first().map_or(key.newest(), |first| first - 1);
    for number in 1..=whole_to {
        let entry = EntryName::disabled(name, first, number);
        if let Some(bytes) = read(cache, &entry).await?
            && mac.verify(&entry, bytes.expose()).is_some()
        {
            entries.push((entry.as_str().to_owned(), bytes));
        }
    }
    Ok((StoredKey::from_entries(name, entries)?, lacks))
}

/// Reads an entry; `None` if it is not there, or does not hold what was stored.
async fn read<S: KeyStore>(cache: &Cache<S>, entry: &EntryName) -> Result<Option<SecretBytes>> {
    let read = cache.backend.watched(Instant::now() + CALL_TIMEOUT, cache.backend.store.get(entry)).await;
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Ok(None),
        Err(error) => Err(error),
    }
}
