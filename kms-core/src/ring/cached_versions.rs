//! The later versions of the keys in the cache: how they get there, and whether they may be used.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::error;

use super::cache::{Cache, failed_read};
use super::key::CachedKey;
use super::policy::{CALL_TIMEOUT, OFFLINE_PATIENCE, refresh_age};
use super::search::{self, Entry, Found, Search};
use super::slot::HeldKey;
use super::versions::{State, Version, Versions};
use crate::error::{Error, ErrorKind, Result};
use crate::identity::Request;
use crate::name::KeyName;
use crate::single_flight::Wanted;
use crate::store::KeyStore;
use crate::store::belonging::EntryMac;

impl<S: KeyStore> Cache<S> {
    /// Returns what is known of the later versions of the key whose first version is `first`.
    pub fn versions_in_memory(&self, name: &KeyName, first: &CachedKey) -> Option<Arc<Versions>> {
        self.slots.pin().get(name).and_then(|slot| slot.versions_of(first))
    }

    /// Reads a version that is newer than all that are known. `None` if there is none.
    ///
    /// A version before it may be lost, and this one opens all the same. Each identity has few such reads a second.
    pub async fn stray(
        &self,
        request: &Request,
        name: &KeyName,
        key: &HeldKey,
        number: u32,
    ) -> Result<Option<Arc<Version>>> {
        if self.hidden.has(name) {
            let why =
                "the ciphertext names a version of the key, and the key store denies the path of versions";
            return Err(Error::with_source(ErrorKind::Denied, format!("read key '{name}'"), why));
        }
        if !self.lookups.admit(name, request.identity) {
            let why = "too many ciphertexts that name a version which is not there";
            return Err(Error::with_source(ErrorKind::Throttled, format!("read key '{name}'"), why));
        }
        let _pass = self.backend.reads.pass(request).await?;
        let search = self.search_of(name, key, Instant::now() + CALL_TIMEOUT);
        let mac = EntryMac::of(&key.sealing);
        let entry = search.read(number, &mac).await;
        match entry.map_err(|error| failed_read(name, error))? {
            Entry::Absent => {
                let next = search.read(number + 1, &mac).await.map_err(|error| failed_read(name, error))?;
                // A version has successors only if it was there.
                if matches!(next, Entry::Readable(_)) {
                    Err(failed_read(name, search.missing(number)))
                } else {
                    Ok(None)
                }
            }
            Entry::Readable(version) => {
                error!(key = %name, "version {number} is there, and one before it is lost; restore it from a backup");
                Ok(Some(version))
            }
            Entry::Unreadable(error) | Entry::Denied(error) | Entry::Unknown(error) => {
                Err(failed_read(name, error))
            }
        }
    }

    /// Returns how old a version has to be before the one before it seals on no server any more.
    pub fn retire_delay(&self) -> Duration {
        (self.config.any * 2).max(self.config.any + self.config.offline)
    }

    /// Returns how long a new version only opens.
    pub fn delay(&self) -> Duration {
        self.config.any
    }

    /// Searches for the later versions of a key, to change it. A replica does not know all of them.
    pub async fn search(
        &self,
        name: &KeyName,
        first: &CachedKey,
        before: Option<Arc<Versions>>,
        deadline: Instant,
    ) -> Result<Found> {
        let found = self.search_of(name, first, deadline).run(before, self.config.any).await?;
        found.unknown.clone().map_or(Ok(found), Err)
    }

    /// Returns the reader of what belongs to a key.
    pub fn search_of<'a>(
        &'a self,
        name: &'a KeyName,
        first: &'a CachedKey,
        deadline: Instant,
    ) -> Search<'a, S> {
        Search { backend: &self.backend, name, first, uses: &self.uses, deadline }
    }

    /// Fails if a version is disabled, as far as its marker was read lately. Returns whether it was.
    pub fn check_in_memory(&self, name: &KeyName, key: &HeldKey, state: &State) -> Result<bool> {
        let now = Instant::now();
        let Some(is_disabled) = state.known(now, self.config.any) else { return Ok(false) };
        if state.disabled.get().is_some_and(|held| held.age(now) >= refresh_age(self.config.any))
            && let Some((this, pass)) = self.this.upgrade().zip(self.backend.reads.try_background_pass())
        {
            let (name, key, number) = (name.clone(), Arc::clone(key), state.number);
            state.disabled.refresh(|| async move {
                let is_disabled = this.read_disabled(&name, &key, number).await;
                drop(pass);
                is_disabled
            });
        }
        if is_disabled { Err(search::disabled(name, state.number)) } else { Ok(true) }
    }

    /// Fails if a version is disabled. Its marker is read at most once in [`CacheConfig::any`]; while the store is away, what
    /// was read last counts.
    pub async fn check(&self, request: &Request, name: &KeyName, key: &HeldKey, state: &State) -> Result<()> {
        let Some(this) = self.this.upgrade() else { return Ok(()) };
        let (any, now, last) = (self.config.any, Instant::now(), state.disabled.get());
        let read = || {
            let (this, name, key, number) = (Arc::clone(&this), name.clone(), Arc::clone(key), state.number);
            async move { this.read_disabled(&name, &key, number).await }
        };
        let held = match last {
            Some(last) if self.backend.away.is_away() => last,
            last => {
                // What was read last may serve, so it is not worth a long wait.
                let patience = last.as_ref().map_or(request.deadline, |_| now + OFFLINE_PATIENCE);
                let wanted = Wanted {
                    after: None,
                    deadline: request.deadline.min(patience),
                    operation: "read whether a version of a key is disabled",
                };
                let pass = || self.backend.reads.pass(request);
                match (state.disabled.fetch(wanted, |held| held.age(now) < any, pass, read).await, last) {
                    (Err(error), Some(last)) if error.kind().is_outage() => {
                        if error.kind() == ErrorKind::Timeout {
                            self.backend.note_away(&error);
                        }
                        last
                    }
                    (held, _) => held?,
                }
            }
        };
        if **held { Err(search::disabled(name, state.number)) } else { Ok(()) }
    }

    async fn read_disabled(&self, name: &KeyName, key: &HeldKey, number: u32) -> Result<bool> {
        let search = self.search_of(name, key, Instant::now() + CALL_TIMEOUT);
        search::as_far_as_known(search.is_disabled(number).await).map_err(|error| failed_read(name, error))
    }

    /// Returns a version that is there, from memory or from the store. One read serves all who wait for it.
    pub async fn version(
        &self,
        request: &Request,
        name: &KeyName,
        key: &HeldKey,
        number: u32,
    ) -> Result<Arc<Version>> {
        let absent = || Error::new(ErrorKind::Internal, format!("read version {number} of key '{name}'"));
        let (versions, this) = key.versions.as_ref().zip(self.this.upgrade()).ok_or_else(absent)?;
        let wanted = Wanted { after: None, deadline: request.deadline, operation: "read a version of a key" };
        let read = || {
            let (this, name, key) = (Arc::clone(&this), name.clone(), Arc::clone(key));
            async move { this.read_version(&name, &key, number).await }
        };
        let place = versions.place(number);
        if let Some(error) = versions.failed_lately(number).filter(|_| place.get().is_none()) {
            return Err(error);
        }
        let held = place.fetch(wanted, |_| true, || self.backend.reads.pass(request), read).await;
        let held = held.inspect_err(|error| {
            if !error.kind().is_outage() {
                versions.note_failed(number, error.clone());
            }
        })?;
        Ok(Arc::clone(held.value()))
    }

    async fn read_version(&self, name: &KeyName, key: &HeldKey, number: u32) -> Result<Arc<Version>> {
        let search = self.search_of(name, key, Instant::now() + CALL_TIMEOUT);
        let entry = search.read(number, &EntryMac::of(&key.sealing)).await;
        match entry.map_err(|error| failed_read(name, error))? {
            Entry::Readable(version) => Ok(version),
            Entry::Unreadable(error) | Entry::Denied(error) | Entry::Unknown(error) => {
                Err(failed_read(name, error))
            }
            Entry::Absent => Err(search.missing(number)),
        }
    }
}
