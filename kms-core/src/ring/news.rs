//! What a shared store tells of the changes that others make.
//!
//! A notice means that a key is to be read again, and never that it is deleted. What nobody tells is found within
//! [`CacheConfig::any`](super::CacheConfig::any), as without notices.

use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::time::Instant;

use tracing::warn;

use super::cache::Cache;
use super::loss::itself;
use super::policy::{CALL_TIMEOUT, PACE};
use super::slot::HeldKey;
use crate::error::{ErrorKind, Result};
use crate::identity::Request;
use crate::name::KeyName;
use crate::single_flight::REFRESH_PAUSE;
use crate::store::{Change, Changes, KeyStore};
use crate::sync::{Semaphore, sleep, spawn, watch};

/// The keys that are read again at once because of notices.
const NOTICED_AT_ONCE: usize = 16;
/// The keys that are read again at once because notices may have been missed.
const MISSED_AT_ONCE: usize = 8;
/// How often a key is read again if the store is away.
const ATTEMPTS: usize = 4;

/// Follows the changes of the store until `ring` closes, which is when the key ring is dropped.
pub async fn follow<S: KeyStore>(
    cache: Weak<Cache<S>>,
    mut changes: Changes,
    mut ring: watch::Receiver<bool>,
) {
    let (missed, receiver) = watch::channel(None);
    spawn(read_all_again(Weak::clone(&cache), receiver));
    let noticed = Arc::new(Semaphore::new(NOTICED_AT_ONCE));
    loop {
        let next = async {
            let permit = Arc::clone(&noticed).acquire_owned().await;
            (poll_fn(|context| changes.as_mut().poll_next(context)).await, permit)
        };
        let (change, permit) = tokio::select! {
            biased;
            _ = ring.wait_for(|is_closed| *is_closed) => return,
            next = next => next,
        };
        let Some(cache) = cache.upgrade() else { return };
        match change {
            Some(Change::Key(name)) => {
                let read = async move {
                    cache.read_again(&name, Instant::now()).await;
                    drop(permit);
                };
                drop(spawn(read));
            }
            Some(Change::Missed) => drop(missed.send_replace(Some(Instant::now()))),
            None => {
                let store = cache.backend.store.capabilities().name;
                warn!(
                    store,
                    "the key store tells no changes any more: they are found when keys are read again"
                );
                return;
            }
        }
    }
}

/// Reads all keys in memory again each time that changes may have been missed.
async fn read_all_again<S: KeyStore>(cache: Weak<Cache<S>>, mut missed: watch::Receiver<Option<Instant>>) {
    let (mut done, at_once) = (None, Arc::new(Semaphore::new(MISSED_AT_ONCE)));
    loop {
        let since = match missed.wait_for(|since| *since != done).await {
            Ok(since) => *since,
            Err(_) => return,
        };
        done = since;
        let Some(names) = cache.upgrade().map(|cache| cache.names_in_memory()) else { return };
        for name in names {
            sleep(PACE).await;
            let permit = Arc::clone(&at_once).acquire_owned().await;
            let Some((cache, since)) = cache.upgrade().zip(since) else { return };
            let read = async move {
                cache.read_again(&name, since).await;
                drop(permit);
            };
            drop(spawn(read));
        }
    }
}

impl<S: KeyStore> Cache<S> {
    fn names_in_memory(&self) -> Vec<KeyName> {
        self.slots.pin().into_iter().map(|(name, _)| name.clone()).collect()
    }

    /// Reads a key that is in memory again, by a read that begins at `after` or later. A few times if the store is away.
    pub(super) async fn read_again(&self, name: &KeyName, after: Instant) {
        for _ in 0..ATTEMPTS {
            match self.read_after(name, after).await {
                Err(error) if error.kind().is_outage() || error.kind() == ErrorKind::Internal => {
                    sleep(REFRESH_PAUSE).await;
                }
                // A refusal is in the log, and the key is gone or has its end.
                _ => return,
            }
        }
    }

    async fn read_after(&self, name: &KeyName, after: Instant) -> Result<()> {
        let request = Request::new(itself(), CALL_TIMEOUT);
        loop {
            let slot = self.slots.pin().get(name).map(Arc::clone);
            let slot = match slot {
                // A read that begins from now on brings what is there.
                None if !self.losses.has(name) => return Ok(()),
                None => self.slot(name),
                Some(slot) => slot,
            };
            let is_read = slot.key().map_or(!self.losses.has(name), |key| key.began() >= after);
            if is_read && slot.under_way().is_none() {
                return Ok(());
            }
            if let Some(outcome) = self.turn(&request, name, &slot, Some(after)).await? {
                return self.read_markers_after(name, &outcome?, after).await;
            }
        }
    }

    /// Reads again which versions are disabled, as far as that is in memory.
    async fn read_markers_after(&self, name: &KeyName, key: &HeldKey, after: Instant) -> Result<()> {
        let Some(versions) = &key.versions else { return Ok(()) };
        for state in versions.states() {
            if state.disabled.get().is_some_and(|held| held.began() < after) {
                let began = Instant::now();
                let search = self.search_of(name, key, began + CALL_TIMEOUT);
                let is_disabled = search.is_disabled(state.number).await?;
                state.disabled.put(is_disabled, began);
            }
        }
        Ok(())
    }
}
