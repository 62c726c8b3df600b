//! The search for the later versions of a key in the store.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::backend::Backend;
use super::key::CachedKey;
use super::uses::AllUses;
use super::versions::{Sealer, State, Version, Versions};
use crate::error::{Error, ErrorKind, Result};
use crate::kms::MAX_VERSIONS;
use crate::name::KeyName;
use crate::store::belonging::EntryMac;
use crate::store::{EntryName, KeyRecord, KeyStore};

/// The later versions of a key, as a search found them.
pub struct Found {
    /// `None` if there is none.
    pub versions: Option<Arc<Versions>>,
    /// The store denies the path of versions.
    pub denied: Option<Error>,
}

/// The entry of a version, read.
pub enum Entry {
    Readable(Arc<Version>),
    /// It counts as there.
    Unreadable(Error),
    Absent,
    Denied(Error),
}

/// Reads the versions of one key.
pub struct Search<'a, S> {
    pub backend: &'a Backend<S>,
    pub name: &'a KeyName,
    pub first: &'a CachedKey,
    pub uses: &'a AllUses,
    pub deadline: Instant,
}

/// A marker, read.
pub enum Marker {
    Absent,
    There,
    /// Somebody made it who does not know the key, or it cannot be read. It has no effect.
    Foreign(Error),
    Denied(Error),
}

/// Whether the store denies the path of versions, as far as is known, and whether that was said.
#[derive(Default)]
pub struct Denied {
    is_denied: AtomicBool,
    is_said: AtomicBool,
}

impl Denied {
    /// Returns whether a key of one version may have others, which the store does not show.
    pub fn hides_versions(&self) -> bool {
        self.is_denied.load(Ordering::Relaxed)
    }
}

impl<S: KeyStore> Search<'_, S> {
    /// Finds the newest version and what seals. `before` is what an earlier search for this very key found.
    ///
    /// Versions are contiguous. So the search goes on in growing steps, and then halves what is left. With nothing new
    /// it reads one entry, and that of the version that seals: nothing may be sealed under a version that nobody can
    /// read again.
    pub async fn run(
        &self,
        before: Option<Arc<Versions>>,
        delay: Duration,
        known_denied: &Denied,
    ) -> Result<Found> {
        let mut seen = Seen { search: self, entries: BTreeMap::new(), denied: None, mac: OnceCell::new() };
        let start = before.as_ref().map_or(1, |versions| versions.verified());
        // A version that was read once is there, even if its entry is gone: nobody may make it anew.
        let newest_read = before.as_ref().map_or(1, |versions| versions.newest_read());
        let newest = seen.newest_from(start).await?.max(newest_read);
        known_denied.is_denied.store(seen.denied.is_some(), Ordering::Relaxed);
        if newest == 1 {
            if let Some(denied) = &seen.denied
                && !known_denied.is_said.swap(true, Ordering::Relaxed)
            {
                warn!(
                    entry = %EntryName::version(self.name, self.first.fingerprint(), 2),
                    "the key store denies the path of versions, so no key can be rotated: {}", denied.chain()
                );
            }
            if let Some(versions) = &before {
                versions.note(1, &BTreeMap::new(), None);
            }
            return Ok(Found { versions: before, denied: seen.denied });
        }
        if let Some(versions) = before.as_ref().filter(|versions| newest == start && !versions.is_unsettled())
        {
            let seals = versions.sealer().ok().flatten();
            let is_there = match &seals {
                None => true,
                Some(version) => matches!(seen.read(version.state.number).await?, Entry::Readable(_)),
            };
            if is_there && seen.denied.is_none() {
                return Ok(Found { versions: before, denied: None });
            }
        }
        let uses = || self.uses.of(self.name, self.first.fingerprint(), None);
        let versions = before.unwrap_or_else(|| Arc::new(Versions::new(uses())));
        let sealer = seen.sealer(newest, &versions, delay).await?;
        let Seen { entries, denied, .. } = seen;
        let (mut read, now) = (BTreeMap::new(), Instant::now());
        for (number, entry) in entries {
            let error = match entry {
                Entry::Readable(version) => {
                    versions.place(number).put(version, now);
                    None
                }
                Entry::Unreadable(error) => Some(error),
                Entry::Absent if number <= newest => Some(self.missing(number)),
                Entry::Absent | Entry::Denied(_) => continue,
            };
            read.insert(number, error);
        }
        for (number, failure) in versions.note(newest, &read, Some(sealer)) {
            error!(
                key = %self.name, entry = %EntryName::version(self.name, self.first.fingerprint(), number),
                "version {number} of the key is there and cannot be read, so nothing is sealed under it: {}",
                failure.chain()
            );
        }
        Ok(Found { versions: Some(versions), denied })
    }

    /// Creates the error of a version that is gone although a newer one is there.
    pub fn missing(&self, number: u32) -> Error {
        let entry = EntryName::version(self.name, self.first.fingerprint(), number);
        let why = format!("{} is missing; restore it from a backup", self.backend.store.place(&entry));
        Error::with_source(ErrorKind::Corrupt, format!("read version {number} of key '{}'", self.name), why)
    }

    /// Reads the entry of a version.
    ///
    /// # Errors
    ///
    /// An outage, or a refused login: nothing is known of the entry.
    pub async fn read(&self, number: u32, mac: &EntryMac) -> Result<Entry> {
        let entry = EntryName::version(self.name, self.first.fingerprint(), number);
        let read = self.backend.watched(self.deadline, self.backend.store.get(&entry)).await;
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) => {
                return match error.kind() {
                    ErrorKind::NotFound => Ok(Entry::Absent),
                    ErrorKind::Denied => Ok(Entry::Denied(error)),
                    kind if kind.is_outage() || kind == ErrorKind::LoginRefused => Err(error),
                    _ => Ok(Entry::Unreadable(error)),
                };
            }
        };
        let place = || self.backend.store.place(&entry);
        let Some(record) = mac.verify(&entry, bytes.expose()) else {
            let why = "it was made or changed by somebody who does not know the key, so it must be removed or put right";
            let error = Error::with_source(ErrorKind::Corrupt, format!("verify {}", place()), why);
            return Ok(Entry::Unreadable(error));
        };
        Ok(match KeyRecord::decode_at(record, place) {
            Ok(record) => {
                let first = *self.first.fingerprint();
                let second = record.created_at.filter(|_| number == 2);
                let uses = self.uses.of(self.name, &first, second);
                Entry::Readable(Arc::new(Version::new(first, number, record, &uses)))
            }
            Err(error) => Entry::Unreadable(error),
        })
    }
}

impl<S: KeyStore> Search<'_, S> {
    /// Reads the marker that disables a version.
    ///
    /// # Errors
    ///
    /// An outage, or a refused login: nothing is known of the marker.
    pub async fn read_marker(&self, marker: &EntryName, mac: &EntryMac) -> Result<Marker> {
        match self.backend.watched(self.deadline, self.backend.store.get(marker)).await {
            Ok(bytes) if mac.verify(marker, bytes.expose()).is_some() => Ok(Marker::There),
            Ok(_) => {
                let why = "it was made or changed by somebody who does not know the key";
                let operation = format!("verify {}", self.backend.store.place(marker));
                Ok(Marker::Foreign(Error::with_source(ErrorKind::Corrupt, operation, why)))
            }
            Err(error) => match error.kind() {
                ErrorKind::NotFound => Ok(Marker::Absent),
                ErrorKind::Denied => Ok(Marker::Denied(error)),
                kind if kind.is_outage() || kind == ErrorKind::LoginRefused => Err(error),
                _ => Ok(Marker::Foreign(error)),
            },
        }
    }

    /// Returns whether a version is disabled, and tells of a marker that has no effect.
    pub async fn is_disabled(&self, number: u32, mac: &EntryMac) -> Result<bool> {
        let marker = EntryName::disabled(self.name, self.first.fingerprint(), number);
        Ok(match self.read_marker(&marker, mac).await? {
            Marker::There => true,
            Marker::Absent => false,
            Marker::Foreign(error) => {
                error!(key = %self.name, entry = %marker, "a marker has no effect: {}", error.chain());
                false
            }
            Marker::Denied(error) => {
                static SAID: AtomicBool = AtomicBool::new(false);
                if !SAID.swap(true, Ordering::Relaxed) {
                    warn!(entry = %marker, "the key store denies the path of markers, so no version can be disabled: {}", error.chain());
                }
                false
            }
        })
    }
}

/// What a search has read so far.
struct Seen<'a, S> {
    search: &'a Search<'a, S>,
    entries: BTreeMap<u32, Entry>,
    denied: Option<Error>,
    mac: OnceCell<EntryMac>,
}

impl<S: KeyStore> Seen<'_, S> {
    /// Returns the newest version, given that `low` is there.
    async fn newest_from(&mut self, mut low: u32) -> Result<u32> {
        let (mut step, mut high) = (1, MAX_VERSIONS + 1);
        while high > low + step && self.is_there(low + step).await? {
            low += step;
            step *= 2;
        }
        high = high.min(low + step);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.is_there(middle).await? { low = middle } else { high = middle }
        }
        Ok(low)
    }

    async fn is_there(&mut self, number: u32) -> Result<bool> {
        Ok(match self.read(number).await? {
            Entry::Readable(_) | Entry::Unreadable(_) => true,
            Entry::Absent | Entry::Denied(_) => false,
        })
    }

    /// Finds out what seals: the newest version that is old enough and can be read, and later those that are newer.
    async fn sealer(&mut self, newest: u32, known: &Versions, delay: Duration) -> Result<Sealer> {
        let mut versions = Vec::new();
        for number in (2..=newest).rev() {
            let version: Arc<Version> = match (self.entries.contains_key(&number), known.get(number)) {
                (false, Some(version)) => version,
                _ => match self.read(number).await? {
                    Entry::Readable(version) => Arc::clone(version),
                    _ => continue,
                },
            };
            let waits = version.waits(delay);
            // A version that does not seal yet cannot be disabled.
            if waits.is_zero() && self.is_disabled(&version.state).await? {
                continue;
            }
            versions.push((Instant::now() + waits, version));
            if waits.is_zero() {
                break;
            }
        }
        versions.reverse();
        let mut refused = self.denied.clone();
        let old_enough = versions.first().is_some_and(|(from, _)| *from <= Instant::now());
        if !old_enough && self.is_disabled(&known.first).await? {
            // Version 1 seals no more. So the oldest of the others does at once.
            match versions.first_mut() {
                Some((from, _)) => *from = Instant::now(),
                None => refused = Some(disabled(self.search.name, 1)),
            }
        }
        Ok(Sealer { versions, refused })
    }

    async fn is_disabled(&mut self, state: &State) -> Result<bool> {
        let (mac, now) = (self.mac.get_or_init(|| EntryMac::of(&self.search.first.sealing)), Instant::now());
        let is_disabled = self.search.is_disabled(state.number, mac).await?;
        state.disabled.put(is_disabled, now);
        Ok(is_disabled)
    }

    async fn read(&mut self, number: u32) -> Result<&Entry> {
        if !self.entries.contains_key(&number) {
            let mac = self.mac.get_or_init(|| EntryMac::of(&self.search.first.sealing));
            let entry = self.search.read(number, mac).await?;
            if let Entry::Denied(error) = &entry {
                self.denied = Some(error.clone());
            }
            self.entries.insert(number, entry);
        }
        Ok(&self.entries[&number])
    }
}

/// Creates the error of what needs a version that is disabled.
pub fn disabled(name: &KeyName, number: u32) -> Error {
    let why = format!("key version is disabled; 'kms key enable {name} --version {number}' brings it back");
    Error::with_source(ErrorKind::Conflict, format!("use version {number} of key '{name}'"), why)
}
