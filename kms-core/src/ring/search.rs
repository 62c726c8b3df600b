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
use crate::name::KeyName;
use crate::store::belonging::{EntryMac, Marker};
use crate::store::entry::MAX_VERSIONS;
use crate::store::{EntryName, KeyRecord, KeyStore};

/// The later versions of a key, as a search found them.
pub struct Found {
    /// `None` if there is none.
    pub versions: Option<Arc<Versions>>,
    /// The store denies the path of versions.
    pub denied: Option<Error>,
    /// A replica answered, which may lack the newest versions.
    pub unknown: Option<Error>,
}

/// The entry of a version, read.
pub enum Entry {
    Readable(Arc<Version>),
    /// It counts as there.
    Unreadable(Error),
    Absent,
    Denied(Error),
    /// A replica does not have it, so nobody knows whether it is there.
    Unknown(Error),
}

/// Reads the versions of one key.
pub struct Search<'a, S> {
    pub backend: &'a Backend<S>,
    pub name: &'a KeyName,
    pub first: &'a CachedKey,
    pub uses: &'a AllUses,
    pub deadline: Instant,
}

/// The most versions that may be there and unreadable before a search gives up. Whoever can write to the store can make
/// any number of them.
const MOST_DAMAGED: usize = 8;

// Whether it was said that the store denies a path. Once suffices, whatever the key.
static SAID_OF_VERSIONS: AtomicBool = AtomicBool::new(false);
static SAID_OF_MARKERS: AtomicBool = AtomicBool::new(false);
static SAID_OF_DELETIONS: AtomicBool = AtomicBool::new(false);

impl<S: KeyStore> Search<'_, S> {
    /// Finds the newest version and what seals. `before` is what an earlier search for this very key found.
    ///
    /// Versions are contiguous. So the search goes on in growing steps, and then halves what is left. With nothing new
    /// it reads one entry, and that of the version that seals: nothing may be sealed under a version that nobody can
    /// read again.
    pub async fn run(&self, mut before: Option<Arc<Versions>>, delay: Duration) -> Result<Found> {
        let mut entries = BTreeMap::new();
        loop {
            let mut seen = Seen::new(self, before.clone(), entries);
            let found = seen.find(delay).await?;
            if !seen.is_replaced {
                return Ok(Found { unknown: seen.unknown, ..found });
            }
            error!(
                key = %self.name,
                "a version of the key was replaced in the store by another one; what was sealed under the old one is lost \
                 unless it is restored"
            );
            (before, entries) = (None, seen.entries);
        }
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
                    ErrorKind::Behind => Ok(Entry::Unknown(error)),
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
    /// Reads a marker of the key.
    ///
    /// # Errors
    ///
    /// An outage, or a refused login: nothing is known of the marker.
    pub async fn read_marker(&self, marker: &EntryName) -> Result<Marker> {
        let read = self.backend.watched(self.deadline, self.backend.store.get(marker)).await;
        Marker::of_read(marker, read, &self.first.sealing, || self.backend.store.place(marker))
    }

    /// Reads the marker that says that the key is deleted, and tells of one that has no effect.
    pub async fn deletion(&self) -> Result<Option<Vec<u8>>> {
        let marker = EntryName::deleted(self.name, self.first.fingerprint());
        let read = self.read_marker(&marker).await?;
        Ok(self.effect(&marker, read, &SAID_OF_DELETIONS, "no key is kept for a time after a delete"))
    }

    /// Returns what a marker says if it has an effect, and else tells why it has none.
    fn effect(&self, marker: &EntryName, read: Marker, said: &AtomicBool, lacks: &str) -> Option<Vec<u8>> {
        match read {
            Marker::There(content) => Some(content),
            Marker::Absent => None,
            Marker::Foreign(error) => {
                error!(key = %self.name, entry = %marker, cause = error.as_dyn(), "a marker has no effect");
                None
            }
            Marker::Denied(error) => {
                if !said.swap(true, Ordering::Relaxed) {
                    warn!(entry = %marker, cause = error.as_dyn(), "the key store denies the path of markers, so {lacks}");
                }
                None
            }
        }
    }

    /// Returns whether a version is disabled, and tells of a marker that has no effect.
    pub async fn is_disabled(&self, number: u32) -> Result<bool> {
        let marker = EntryName::disabled(self.name, self.first.fingerprint(), number);
        let read = self.read_marker(&marker).await?;
        Ok(self.effect(&marker, read, &SAID_OF_MARKERS, "no version can be disabled").is_some())
    }
}

/// What a search has read so far.
struct Seen<'a, S> {
    search: &'a Search<'a, S>,
    before: Option<Arc<Versions>>,
    entries: BTreeMap<u32, Entry>,
    denied: Option<Error>,
    unknown: Option<Error>,
    /// Whether an entry holds another key than the one in memory.
    is_replaced: bool,
    mac: OnceCell<EntryMac>,
}

impl<'a, S: KeyStore> Seen<'a, S> {
    fn new(search: &'a Search<'a, S>, before: Option<Arc<Versions>>, entries: BTreeMap<u32, Entry>) -> Self {
        Self {
            search,
            before,
            entries,
            denied: None,
            unknown: None,
            is_replaced: false,
            mac: OnceCell::new(),
        }
    }

    async fn find(&mut self, delay: Duration) -> Result<Found> {
        let Search { name, first, uses, .. } = *self.search;
        let before = self.before.clone();
        let start = before.as_ref().map_or(1, |versions| versions.verified());
        // A version that was read once is there, even if its entry is gone: nobody may make it anew.
        let newest_read = before.as_ref().map_or(1, |versions| versions.newest_read());
        let newest = self.newest_from(start).await?.max(newest_read);
        if self.denied.is_some() {
            uses.doubt();
        }
        if newest == 1 {
            return Ok(self.only_the_first(before));
        }
        if let Some(versions) = before.as_ref().filter(|versions| newest == start && !versions.is_unsettled())
        {
            let is_there = match versions.sealer().ok().flatten() {
                None => true,
                Some(version) => matches!(self.read(version.state.number).await?, Entry::Readable(_)),
            };
            if is_there && self.denied.is_none() {
                return Ok(Found { versions: before, denied: None, unknown: None });
            }
        }
        let versions =
            before.unwrap_or_else(|| Arc::new(Versions::new(uses.of(name, first.fingerprint(), None))));
        let sealer = self.sealer(newest, &versions, delay).await?;
        if self.is_replaced {
            return Ok(Found { versions: None, denied: None, unknown: None });
        }
        let (mut read, now) = (BTreeMap::new(), Instant::now());
        for (number, entry) in &self.entries {
            let error = match entry {
                Entry::Readable(version) => {
                    if versions.get(*number).is_none() {
                        versions.place(*number).put(Arc::clone(version), now);
                    }
                    None
                }
                Entry::Unreadable(error) => Some(error.clone()),
                Entry::Absent if *number <= newest => Some(self.search.missing(*number)),
                Entry::Absent | Entry::Denied(_) | Entry::Unknown(_) => continue,
            };
            read.insert(*number, error);
        }
        for (number, failure) in versions.note(newest, &read, Some(sealer)) {
            error!(
                key = %name, entry = %EntryName::version(name, first.fingerprint(), number),
                "version {number} of the key cannot be read, so nothing is sealed under it: {}", failure.chain()
            );
        }
        Ok(Found { versions: Some(versions), denied: self.denied.clone(), unknown: None })
    }

    /// Returns what is found if the store shows no later version.
    fn only_the_first(&self, before: Option<Arc<Versions>>) -> Found {
        let Search { name, first, uses, .. } = *self.search;
        let denied = self.denied.clone();
        let Some(why) = &denied else {
            if let Some(versions) = &before {
                versions.note(1, &BTreeMap::new(), None);
            }
            return Found { versions: before, denied, unknown: None };
        };
        if !SAID_OF_VERSIONS.swap(true, Ordering::Relaxed) {
            let entry = EntryName::version(name, first.fingerprint(), 2);
            warn!(%entry, cause = why.as_dyn(), "the key store denies the path of versions, so no key can be rotated");
        }
        if before.is_none() && !uses.know(name, first.fingerprint()) {
            return Found { versions: None, denied, unknown: None };
        }
        // A later version was seen, and may seal on other servers.
        let versions =
            before.unwrap_or_else(|| Arc::new(Versions::new(uses.of(name, first.fingerprint(), None))));
        let sealer = Sealer { versions: Vec::new(), refused: Some(why.clone()) };
        versions.note(1, &BTreeMap::new(), Some(sealer));
        Found { versions: Some(versions), denied, unknown: None }
    }

    /// Returns the newest version, given that `low` is there.
    ///
    /// Only versions that somebody made who knows the key lead further. What is there and unreadable right behind them
    /// counts as there, up to a bound.
    async fn newest_from(&mut self, mut low: u32) -> Result<u32> {
        let mut damaged = 0;
        loop {
            low = self.readable_from(low).await?;
            let mut next = low + 1;
            while next <= MAX_VERSIONS
                && damaged < MOST_DAMAGED
                && matches!(self.read(next).await?, Entry::Unreadable(_))
            {
                damaged += 1;
                next += 1;
            }
            let goes_on = next > low + 1
                && next <= MAX_VERSIONS
                && matches!(self.read(next).await?, Entry::Readable(_));
            if !goes_on {
                return Ok(next - 1);
            }
            low = next;
        }
    }

    /// Returns a readable version from `low` on whose successor is not.
    async fn readable_from(&mut self, mut low: u32) -> Result<u32> {
        let mut step = 1;
        while low + step <= MAX_VERSIONS && matches!(self.read(low + step).await?, Entry::Readable(_)) {
            low += step;
            step *= 2;
        }
        let mut high = (low + step).min(MAX_VERSIONS + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let is_readable = matches!(self.read(middle).await?, Entry::Readable(_));
            if is_readable { low = middle } else { high = middle }
        }
        Ok(low)
    }

    /// Finds out what seals: the newest version that is old enough and can be read, and later those that are newer.
    ///
    /// Each of them is read now, whatever is in memory.
    async fn sealer(&mut self, newest: u32, known: &Versions, delay: Duration) -> Result<Sealer> {
        let (mut versions, mut damaged) = (Vec::new(), 0);
        for number in (2..=newest).rev() {
            let Entry::Readable(version) = self.read(number).await? else {
                damaged += 1;
                if damaged > MOST_DAMAGED {
                    break;
                }
                continue;
            };
            let version = known.get(number).unwrap_or_else(|| Arc::clone(version));
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
        let now = Instant::now();
        let is_disabled = as_far_as_known(self.search.is_disabled(state.number).await)?;
        state.disabled.put(is_disabled, now);
        Ok(is_disabled)
    }

    async fn read(&mut self, number: u32) -> Result<&Entry> {
        if !self.entries.contains_key(&number) {
            let mac = self.mac.get_or_init(|| EntryMac::of(&self.search.first.sealing));
            let entry = self.search.read(number, mac).await?;
            self.entries.insert(number, entry);
        }
        let entry = &self.entries[&number];
        match entry {
            Entry::Denied(error) => self.denied = Some(error.clone()),
            Entry::Unknown(error) => self.unknown = Some(error.clone()),
            Entry::Readable(version) => {
                let held = self.before.as_ref().and_then(|versions| versions.get(number));
                self.is_replaced |= held.is_some_and(|held| !held.is_same(version));
            }
            Entry::Unreadable(_) | Entry::Absent => {}
        }
        Ok(entry)
    }
}

/// Takes a marker that a replica does not have for absent: whoever allows reads from replicas accepts that what was marked
/// lately is served. What is changed needs the whole truth.
pub fn as_far_as_known<T: Default>(read: Result<T>) -> Result<T> {
    match read {
        Err(error) if error.kind() == ErrorKind::Behind => Ok(T::default()),
        read => read,
    }
}

/// Creates the error of what needs a version that is disabled.
pub fn disabled(name: &KeyName, number: u32) -> Error {
    let why = format!("key version is disabled; 'kms key enable {name} --version {number}' brings it back");
    Error::with_source(ErrorKind::Conflict, format!("use version {number} of key '{name}'"), why)
}
