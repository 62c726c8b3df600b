//! The later versions of one key: which there are, and which of them seals.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::uses::{Use, Uses};
use crate::error::{Error, Result};
use crate::kms::VersionInfo;
use crate::primitives::header::{HEADER_LEN, Header};
use crate::primitives::seal::DataKey;
use crate::primitives::{Fingerprint, SealingKey, SecretBytes};
use crate::single_flight::{REFRESH_PAUSE, SingleFlight};
use crate::store::KeyRecord;
use crate::sync::{ArcSwapOption, Mutex, MutexGuard};

/// A later version of a key, ready for use.
pub struct Version {
    number: u32,
    header: [u8; HEADER_LEN],
    sealing: SealingKey,
    created_at: Option<Timestamp>,
    created_by: String,
    pub state: Arc<State>,
}

/// What is known of a version beside its record.
pub struct State {
    pub number: u32,
    pub used: Arc<Use>,
    /// Whether the version is disabled, as its marker was last read.
    pub disabled: Arc<SingleFlight<bool>>,
}

impl State {
    fn new(number: u32, uses: &Uses) -> Arc<Self> {
        Arc::new(Self { number, used: uses.of(number), disabled: Arc::default() })
    }

    /// Returns whether the version is disabled, if the marker was read lately; `None` if it has to be read.
    pub fn known(&self, now: Instant, any: Duration) -> Option<bool> {
        self.disabled.get().filter(|held| held.age(now) < any).map(|held| **held)
    }
}

impl Version {
    /// Makes the record of version `number` of the key `first` ready for use.
    pub fn new(first: Fingerprint, number: u32, record: KeyRecord, uses: &Uses) -> Self {
        Self {
            number,
            header: Header { first, version: number }.to_bytes(),
            sealing: SealingKey::new(record.key, record.cipher),
            created_at: record.created_at,
            created_by: record.created_by,
            state: State::new(number, uses),
        }
    }

    /// Returns whether the other one has the same key.
    pub fn is_same(&self, other: &Self) -> bool {
        self.sealing.key() == other.sealing.key() && self.sealing.cipher() == other.sealing.cipher()
    }

    /// Returns the record of the version, which has no HMAC key: HMACs stay those of the first version.
    pub fn record(&self) -> KeyRecord {
        KeyRecord {
            key: self.sealing.key().copy(),
            cipher: self.sealing.cipher(),
            hmac_key: None,
            created_at: self.created_at,
            created_by: self.created_by.clone(),
        }
    }

    pub fn info(&self) -> VersionInfo {
        VersionInfo {
            version: self.number,
            cipher: Some(self.sealing.cipher()),
            created_at: self.created_at,
            created_by: self.created_by.clone(),
            fingerprint: Some(self.sealing.fingerprint()),
            unreadable: None,
            is_disabled: false,
            used: None,
        }
    }

    pub fn generate(&self, context: &[u8]) -> Result<DataKey> {
        self.state.used.sealed();
        self.sealing.generate_behind(&self.header, context)
    }

    pub fn seal(&self, plaintext: &[u8], context: &[u8]) -> Result<Vec<u8>> {
        self.state.used.sealed();
        self.sealing.seal_behind(&self.header, plaintext, context)
    }

    /// Opens what follows the header of a ciphertext that names this version.
    pub fn open(&self, sealed: &[u8], context: &[u8]) -> Result<SecretBytes> {
        self.sealing.open_behind(&self.header, sealed, context)
    }

    /// Returns how long this version opens and does not seal yet.
    ///
    /// Each server has seen it by then, or sees it at the first ciphertext. The clock of the server that made it may be
    /// ahead, so this is never more than `delay`.
    pub fn waits(&self, delay: Duration) -> Duration {
        let age = self.created_at.map(|time| Timestamp::now().duration_since(time));
        let age = age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default();
        delay.saturating_sub(age)
    }
}

/// What is known of the later versions of one key. All reads of the key share it.
pub struct Versions {
    pub uses: Arc<Uses>,
    /// The first version, whose record is the key itself.
    pub first: Arc<State>,
    known: Mutex<Known>,
    /// What seals; `None` if version 1 does.
    sealer: ArcSwapOption<Sealer>,
}

#[derive(Default)]
struct Known {
    /// The newest version that is there, readable or not.
    newest: u32,
    places: BTreeMap<u32, Arc<SingleFlight<Arc<Version>>>>,
    /// The versions that are there and could not be read.
    unreadable: BTreeMap<u32, Error>,
    /// The last failed read of a version, for a moment in which it is not read again.
    failed: BTreeMap<u32, (Instant, Error)>,
}

/// What seals under a key.
pub struct Sealer {
    /// The versions that seal, each from a moment on. The newest is the last. Before all of them version 1 seals.
    pub versions: Vec<(Instant, Arc<Version>)>,
    /// Why nothing may be sealed.
    pub refused: Option<Error>,
}

impl Versions {
    pub fn new(uses: Arc<Uses>) -> Self {
        let first = State::new(1, &uses);
        Self { uses, first, known: Mutex::default(), sealer: ArcSwapOption::default() }
    }

    /// Returns the number of the newest version.
    pub fn newest(&self) -> u32 {
        self.known().newest.max(1)
    }

    /// Returns the newest version below which none is unreadable.
    pub fn verified(&self) -> u32 {
        let known = self.known();
        known.unreadable.keys().next().map_or(known.newest, |first| first - 1).max(1)
    }

    /// Returns the versions that could not be read and are in memory all the same.
    pub fn unreadable_in_memory(&self) -> Vec<u32> {
        let known = self.known();
        let is_held = |number: &u32| known.places.get(number).is_some_and(|place| place.get().is_some());
        known.unreadable.keys().copied().filter(is_held).collect()
    }

    /// Returns the newest version that was ever read.
    pub fn newest_read(&self) -> u32 {
        let known = self.known();
        let read = known.places.iter().rev().find(|(_, place)| place.get().is_some());
        read.map_or(1, |(number, _)| *number)
    }

    /// Returns why the newest version cannot be read.
    pub fn newest_fails(&self) -> Option<Error> {
        let known = self.known();
        known.unreadable.get(&known.newest).cloned()
    }

    /// Returns whether what seals has to be found out anew.
    pub fn is_unsettled(&self) -> bool {
        self.sealer.load_full().is_none_or(|sealer| sealer.refused.is_some())
    }

    /// Notes which version is the newest, and what seals. `read` has the versions that were read, with the error of each
    /// that is there and could not be. Returns the errors that are new.
    pub fn note(
        &self,
        newest: u32,
        read: &BTreeMap<u32, Option<Error>>,
        sealer: Option<Sealer>,
    ) -> Vec<(u32, Error)> {
        let mut known = self.known();
        let Known { newest: known_newest, unreadable, .. } = &mut *known;
        *known_newest = newest;
        unreadable.retain(|number, _| *number <= newest && !matches!(read.get(number), Some(None)));
        let mut news = Vec::new();
        for (number, error) in read.iter().filter_map(|(number, error)| Some((*number, error.clone()?))) {
            if unreadable.insert(number, error.clone()).is_none() {
                news.push((number, error));
            }
        }
        self.sealer.store(sealer.map(Arc::new));
        news
    }

    /// Returns why a version could not be read a moment ago.
    pub fn failed_lately(&self, number: u32) -> Option<Error> {
        let known = self.known();
        known
            .failed
            .get(&number)
            .filter(|(at, _)| at.elapsed() < REFRESH_PAUSE)
            .map(|(_, error)| error.clone())
    }

    /// Notes that a version could not be read.
    pub fn note_failed(&self, number: u32, error: Error) {
        self.known().failed.insert(number, (Instant::now(), error));
    }

    /// Returns the place of a version, where one read serves all who wait.
    pub fn place(&self, number: u32) -> Arc<SingleFlight<Arc<Version>>> {
        Arc::clone(self.known().places.entry(number).or_default())
    }

    /// Returns a version that is in memory.
    pub fn get(&self, number: u32) -> Option<Arc<Version>> {
        let held = self.known().places.get(&number)?.get()?;
        Some(Arc::clone(held.value()))
    }

    /// Returns what is known of each version in memory beside its record. Version 1 is the first.
    pub fn states(&self) -> Vec<Arc<State>> {
        let known = self.known();
        let later = known.places.values().filter_map(|place| place.get());
        let later = later.map(|version| Arc::clone(&version.value().state));
        [Arc::clone(&self.first)].into_iter().chain(later).collect()
    }

    /// Returns the version that seals now; `None` if version 1 does.
    ///
    /// # Errors
    ///
    /// Why nothing may be sealed.
    pub fn sealer(&self) -> Result<Option<Arc<Version>>> {
        let Some(sealer) = self.sealer.load_full() else { return Ok(None) };
        if let Some(error) = &sealer.refused {
            return Err(error.clone());
        }
        let now = Instant::now();
        let seals = sealer.versions.iter().rev().find(|(from, _)| *from <= now);
        Ok(seals.map(|(_, version)| Arc::clone(version)))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
