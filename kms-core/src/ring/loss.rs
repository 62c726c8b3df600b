//! Whether a key that is gone from the store was removed or lost.
//!
//! A store that notes removals leaves a note at once with each. So a key that is gone with neither a note nor the marker of a
//! deletion was lost. A store without such notes cannot say: there a key that is gone is deleted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::cache::{Cache, changed, failed_read};
use super::key::CachedKey;
use super::losses::Standing;
use super::policy::{CALL_TIMEOUT, LOOKED, PACE};
use super::slot::{HeldKey, Slot};
use crate::error::{Error, ErrorKind, Result};
use crate::identity::{Identity, Request};
use crate::name::KeyName;
use crate::primitives::{Fingerprint, SealingKey};
use crate::store::belonging::Marker;
use crate::store::survey;
use crate::store::{EntryName, KeyStore};
use crate::sync::{Ordering, sleep, spawn};
use crate::transfer::former_name;

impl<S: KeyStore> Cache<S> {
    /// Returns whether a key that is gone without a note was lost.
    pub fn notes_removals(&self) -> bool {
        self.backend.store.capabilities().notes_removals
    }

    /// Weighs what a read of a key brought against the keys of this name that are in memory. A lost key is served on.
    pub async fn weigh(&self, name: &KeyName, slot: &Slot, read: Result<CachedKey>) -> Result<CachedKey> {
        if !self.notes_removals() {
            return read;
        }
        let of_replica = read.is_ok() && self.of_replica.has(name);
        let present = match &read {
            Ok(key) => Some(*key.fingerprint()),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Deleted) => None,
            // Nothing is known of the key. One that is lost is in no store, so its absence there changes nothing.
            Err(error) if error.kind().is_outage() => {
                return self.losses.served(name).map_or(read, |lost| Ok(lost.copy()));
            }
            Err(_) => return read,
        };
        let is_absent = read.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound);
        let mut in_memory: Vec<_> = self.losses.of(name).into_iter().map(|(key, _)| key).collect();
        if let Some(held) = slot.key()
            && in_memory.iter().all(|key| key.fingerprint() != held.fingerprint())
        {
            in_memory.push(held);
        }
        let (mut lost, mut undecided) = (Vec::new(), None);
        for key in in_memory {
            if Some(*key.fingerprint()) == present {
                // What a replica has and lacks decides nothing.
                if of_replica {
                    continue;
                }
                if !self.lost_versions(name, &key).await?.is_empty() {
                    self.losses.note(name, &key, Standing::Lacks);
                } else if self.losses.clear(name, key.fingerprint()) {
                    warn!(key = %name, fingerprint = ?key.fingerprint(), "a key that was lost is in the key store again");
                }
                continue;
            }
            match self.is_lost_key(name, &key, is_absent).await {
                Ok(true) => lost.push(key),
                Ok(false) => {
                    self.losses.clear(name, key.fingerprint());
                }
                Err(error) => {
                    self.losses.suspect(name, key);
                    undecided = Some(error);
                }
            }
        }
        // The key that was read last is served, if the name has no other.
        let newest = lost.iter().max_by_key(|key| key.began()).filter(|_| is_absent).map(Arc::clone);
        for key in &lost {
            let standing = match &newest {
                Some(newest) if newest.fingerprint() == key.fingerprint() => Standing::Served,
                Some(newest) => Standing::Displaced(Some(*newest.fingerprint())),
                None => Standing::Displaced(present),
            };
            self.losses.note(name, key, standing);
        }
        match (newest, undecided) {
            (Some(newest), _) => Ok(newest.copy()),
            (None, Some(error)) => Err(failed_read(name, error)),
            (None, None) => read,
        }
    }

    /// Returns whether nobody removed a key that is gone from the store, and it is not kept under its other name either.
    async fn is_lost_key(&self, name: &KeyName, key: &HeldKey, is_absent: bool) -> Result<bool> {
        if self.is_noted(name, key.fingerprint(), Some(&key.sealing)).await? {
            return Ok(false);
        }
        if is_absent {
            // It may have come back, with the note gone, since it was not found.
            return match self.backend.read(name, Instant::now()).await {
                Ok(_) => Err(changed(name)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
                Err(error) => Err(error),
            };
        }
        let kept = former_name(name, key.fingerprint())?;
        let deadline = Instant::now() + CALL_TIMEOUT;
        match self.backend.watched(deadline, survey::read_record(&self.backend.store, &kept)).await {
            Ok(record) => Ok(CachedKey::new(record).fingerprint() != key.fingerprint()),
            Err(error) if error.kind().is_outage() => Err(error),
            Err(_) => Ok(true),
        }
    }

    /// Returns the versions of a key that are in memory and gone from the store, where the key itself is.
    pub async fn lost_versions(&self, name: &KeyName, key: &HeldKey) -> Result<Vec<u32>> {
        let unreadable = key.versions.as_ref().map_or(Vec::new(), |versions| versions.unreadable_in_memory());
        let mut lost = Vec::new();
        for number in unreadable {
            let entry = EntryName::version(name, key.fingerprint(), number);
            let read = self.backend.watched(Instant::now() + CALL_TIMEOUT, self.backend.store.get(&entry));
            match read.await {
                Err(error) if error.kind() == ErrorKind::NotFound => lost.push(number),
                Err(error) if error.kind().is_outage() => return Err(failed_read(name, error)),
                _ => {}
            }
        }
        Ok(lost)
    }

    /// Returns whether the store says that a key was removed or deleted. Without the key, any marker of a deletion counts.
    ///
    /// # Errors
    ///
    /// The notes cannot be read, so nobody knows.
    pub async fn is_noted(
        &self,
        name: &KeyName,
        first: &Fingerprint,
        key: Option<&SealingKey>,
    ) -> Result<bool> {
        let (gone, deleted) = (EntryName::gone(name, first), EntryName::deleted(name, first));
        let (store, deadline) = (&self.backend.store, Instant::now() + CALL_TIMEOUT);
        let (note, marker) = tokio::join!(
            self.backend.watched(deadline, store.get(&gone)),
            self.backend.watched(deadline, store.get(&deleted))
        );
        let unknown = match note {
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            // Whoever can write to the store can make such a note. It must not take a key away.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                error!(key = %name, entry = %gone, cause = error.as_dyn(), "a note of a removed key has no effect");
                None
            }
            Err(error) => Some(error),
        };
        let is_marked = match key {
            None => marker.is_ok(),
            Some(key) => match Marker::of_read(&deleted, marker, key, || store.place(&deleted))? {
                Marker::There(_) => true,
                Marker::Absent | Marker::Foreign(_) => false,
                Marker::Denied(error) => return Err(error),
            },
        };
        // A marker suffices, whatever the note says.
        match unknown.filter(|_| !is_marked) {
            Some(error) => Err(error),
            None => Ok(is_marked),
        }
    }

    /// Returns whether the store lost the key of this name, and this server has it. What is in memory is compared with the
    /// store first.
    pub async fn is_lost(&self, name: &KeyName) -> Result<bool> {
        let in_memory = self.slots.pin().get(name).is_some_and(|slot| slot.key().is_some());
        if !self.notes_removals() || !(in_memory || self.losses.has(name)) {
            return Ok(false);
        }
        match self.backend.read(name, Instant::now()).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind().is_outage() => return Err(failed_read(name, error)),
            _ => return Ok(false),
        }
        let request = Request::new(itself(), CALL_TIMEOUT);
        match self.fetch(&request, name, Some(request.received)).await {
            Ok(_) => Ok(self.losses.served(name).is_some()),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Deleted) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns the key of this name that is in memory, however old it is.
    pub fn in_memory(&self, name: &KeyName) -> Option<HeldKey> {
        self.slots.pin().get(name).and_then(|slot| slot.key())
    }

    /// Keeps a key that leaves memory although the store did not say that it is removed.
    pub fn keep_in_doubt(&self, name: &KeyName, key: Option<HeldKey>) {
        if let Some(key) = key.filter(|_| self.notes_removals()) {
            self.losses.suspect(name, key);
        }
    }

    /// Returns how lately a key was read that leaves memory because its time is over. `None` if that has no bound, and if keys
    /// are not kept in memory at all.
    pub fn looks_first(&self) -> Option<Duration> {
        let any = self.config.any;
        (self.notes_removals() && !any.is_zero()).then(|| (any / 2).clamp(LOOKED_LEAST, LOOKED))
    }

    /// Reads keys again whose time is over, so that those leave memory that the store has.
    pub fn look(&self, names: Vec<KeyName>) {
        // While the store is away, there is nothing to see.
        if names.is_empty() || self.backend.away.is_away() || self.is_looking.swap(true, Ordering::Relaxed) {
            return;
        }
        let weak = self.this.clone();
        drop(spawn(async move {
            for name in names {
                sleep(PACE).await;
                let Some(cache) = weak.upgrade() else { return };
                if let Some(slot) = cache.slots.pin().get(&name).map(Arc::clone) {
                    cache.refresh(&name, &slot, Instant::now());
                }
            }
            if let Some(cache) = weak.upgrade() {
                cache.is_looking.store(false, Ordering::Relaxed);
            }
        }));
    }

    /// Reads a few of the keys that were found missing again, and repeats in the log what is lost.
    pub fn look_after_losses(&self, most: usize, pause: Duration, now: Instant) {
        self.losses.tell_again(now);
        for name in self.losses.due(most, pause, now) {
            self.refresh(&name, &self.slot(&name), now);
        }
    }
}

/// The least of [`LOOKED`]: longer than the shortest time between two sweeps.
const LOOKED_LEAST: Duration = Duration::from_millis(60);

/// Returns the identity of what the key ring does by itself.
pub fn itself() -> Identity {
    Identity::of_program("the key ring")
}

/// Creates the error of a key that cannot be made, since the store lost the key of its name.
pub fn taken(name: &KeyName) -> Error {
    let why = format!(
        "the key store lost the key, and this server has it: 'kms key restore {name}' writes it back"
    );
    Error::with_source(ErrorKind::AlreadyExists, format!("create key '{name}'"), why)
}
