//! The notes of removed keys go when nobody can have such a key in memory any more.

use std::sync::Weak;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::{debug, info};

use super::cache::Cache;
use super::policy::CALL_TIMEOUT;
use crate::error::{ErrorKind, Result};
use crate::store::entry::GONE;
use crate::store::gone::GoneNote;
use crate::store::{EntryName, KeyStore};
use crate::sync::{sleep, timeout_at, watch};

/// How long a note is kept at the least.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// The time from the start to the first look.
const FIRST: Duration = Duration::from_secs(900);
/// The time between two looks.
const BETWEEN: Duration = Duration::from_secs(24 * 3600);
/// The pause before each note that is looked at: 20 a second at the most.
const PAUSE: Duration = Duration::from_millis(50);

/// Removes old notes once a day, until the key ring is dropped.
pub async fn clean_for_ever<S: KeyStore>(cache: Weak<Cache<S>>, mut ring: watch::Receiver<bool>) {
    let mut pause = FIRST;
    while timeout_at((Instant::now() + pause).into(), ring.wait_for(|is_closed| *is_closed)).await.is_err() {
        pause = BETWEEN;
        match clean(&cache, Timestamp::now()).await {
            Ok(0) => {}
            Ok(removed) => info!(removed, "old notes of removed keys were removed"),
            // What is left is removed another day.
            Err(error) => {
                debug!(cause = error.as_dyn(), "the notes of removed keys cannot be looked through");
            }
        }
    }
}

/// Removes the notes that were old at `now`. Returns how many. What cannot be read stays.
async fn clean<S: KeyStore>(cache: &Weak<Cache<S>>, now: Timestamp) -> Result<usize> {
    let mut removed = 0;
    for name in segments(cache, GONE).await? {
        let directory = format!("{GONE}{name}/");
        for fingerprint in segments(cache, &directory).await? {
            sleep(PAUSE).await;
            let Some(cache) = cache.upgrade() else { return Ok(removed) };
            let (backend, entry) = (&cache.backend, EntryName::listed(&directory, &fingerprint));
            let kept = KEPT.max(cache.config.offline);
            let read = backend.watched(Instant::now() + CALL_TIMEOUT, backend.store.get(&entry)).await;
            let note = match read {
                Ok(record) => GoneNote::parse(record.expose()),
                Err(error) if error.kind().is_outage() => return Err(error),
                Err(_) => None,
            };
            let until = note.and_then(|note| note.removed_at()).and_then(|at| at.checked_add(kept).ok());
            if until.is_none_or(|until| now < until) {
                continue;
            }
            match backend.write(backend.store.erase(&entry)).await {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(removed)
}

async fn segments<S: KeyStore>(cache: &Weak<Cache<S>>, directory: &str) -> Result<Vec<String>> {
    let Some(cache) = cache.upgrade() else { return Ok(Vec::new()) };
    let backend = &cache.backend;
    backend.watched(Instant::now() + CALL_TIMEOUT, backend.store.segments(directory)).await
}

#[cfg(test)]
#[cfg(not(feature = "model"))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::name::KeyName;
    use crate::primitives::{Fingerprint, SecretBytes};
    use crate::ring::CacheConfig;
    use crate::store::MemoryStore;

    fn note(name: &str) -> EntryName {
        EntryName::gone(&KeyName::new(name).unwrap(), &Fingerprint::from_bytes([7; 16]))
    }

    #[tokio::test]
    async fn a_note_goes_thirty_days_after_the_removal_and_what_cannot_be_read_stays() {
        let now = Timestamp::now();
        let days = |days: u64| now.checked_sub(Duration::from_secs(days * 24 * 3600)).unwrap();
        let store = Arc::new(MemoryStore::noting());
        let says = |at: Timestamp| format!(r#"{{"at":"{at}","by":"an operator"}}"#);
        let notes = [
            ("old", says(days(31))),
            ("young", says(days(29))),
            ("odd", "no note".to_owned()),
            ("future", says(now.checked_add(Duration::from_secs(60)).unwrap())),
        ];
        for (name, content) in &notes {
            store.create(&note(name), &SecretBytes::from(content.as_bytes())).await.unwrap();
        }
        let config = CacheConfig::default();
        let cache = Cache::start(Arc::clone(&store), config, Duration::ZERO);
        assert_eq!(clean(&Arc::downgrade(&cache), now).await.unwrap(), 1);
        let left = store.segments(GONE).await.unwrap();
        assert_eq!(left, ["future", "odd", "young"]);

        // Where keys are served for longer without the store, notes are kept for longer.
        store.create(&note("old"), &SecretBytes::from(says(days(31)).as_bytes())).await.unwrap();
        let offline = config.with_offline(Duration::from_secs(60 * 24 * 3600));
        let patient = Cache::start(Arc::clone(&store), offline, Duration::ZERO);
        assert_eq!(clean(&Arc::downgrade(&patient), now).await.unwrap(), 0);
    }
}
