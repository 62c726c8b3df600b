//! The cache of a key ring: which keys are in memory, how they get there, and when they go.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;

use super::backend::Backend;
use super::config::CacheConfig;
use super::counters::Counters;
use super::creators::Creators;
use super::gate::Pass;
use super::key::CachedKey;
use super::lookups::Lookups;
use super::losses::Losses;
use super::names::Names;
use super::policy::{self, APART, CALL_TIMEOUT, OFFLINE_PATIENCE, refresh_age};
use super::report::Report;
use super::search::as_far_as_known;
use super::slot::{Due, HeldKey, Refused, Slot};
use super::uses::AllUses;
use crate::error::{Error, ErrorKind, Result};
use crate::identity::Request;
use crate::listing::{ListQuery, Page};
use crate::name::KeyName;
use crate::primitives::Fingerprint;
use crate::single_flight::{Flight, Outcome, Turn};
use crate::status::StoreStatus;
use crate::store::survey::{self, Surveyed};
use crate::store::{EntryName, KeyRecord, KeyStore};
use crate::sync::{AtomicBool, SharedMap, sleep, sleep_until, spawn, timeout_at, watch};

pub struct Cache<S> {
    pub backend: Arc<Backend<S>>,
    pub(super) config: CacheConfig,
    /// How long a deleted key can be restored. Zero if it cannot.
    pub(super) grace: Duration,
    pub(super) slots: SharedMap<KeyName, Arc<Slot>>,
    epoch: Instant,
    creators: Creators,
    pub counters: Counters,
    pub report: Report,
    pub uses: AllUses,
    pub(super) lookups: Lookups,
    pub losses: Losses,
    pub(super) is_looking: AtomicBool,
    /// Closed with the cache: tasks that wait for something else end then.
    pub(super) ring: watch::Sender<bool>,
    /// The keys whose later versions the store denies, so that there may be some.
    pub(super) hidden: Names,
    /// The keys of which a replica gave a part at the last read, so that a newer key may have their name.
    pub(super) of_replica: Names,
    pub(super) this: Weak<Self>,
}

impl<S: KeyStore> Cache<S> {
    pub fn start(store: S, config: CacheConfig, grace: Duration) -> Arc<Self> {
        let cache = Arc::new_cyclic(|this| Self {
            backend: Backend::new(store, config.ping),
            config,
            grace,
            slots: SharedMap::new(),
            epoch: Instant::now(),
            creators: Creators::default(),
            counters: Counters::default(),
            report: Report::default(),
            uses: AllUses::new(config.any.max(config.offline)),
            lookups: Lookups::default(),
            losses: Losses::default(),
            is_looking: AtomicBool::new(false),
            ring: watch::channel(false).0,
            hidden: Names::new(),
            of_replica: Names::new(),
            this: Weak::clone(this),
        });
        spawn(Self::sweep_for_ever(Arc::downgrade(&cache), config));
        cache
    }

    /// Returns the key from memory, or reads it, to seal or open something with it.
    pub async fn key_to_use(&self, request: &Request, name: &KeyName) -> Result<HeldKey> {
        self.find_key(request, name, true).await
    }

    /// Returns the key from memory, or reads it.
    pub async fn key(&self, request: &Request, name: &KeyName) -> Result<HeldKey> {
        self.find_key(request, name, false).await
    }

    async fn find_key(&self, request: &Request, name: &KeyName, is_use: bool) -> Result<HeldKey> {
        let now = Instant::now();
        let mut offline_copy = None;
        if let Some(slot) = self.slots.pin().get(name) {
            if let Some(key) = slot.fresh(now, &self.config) {
                self.counters.hits.add();
                slot.touch(self.millis(now));
                if is_use {
                    slot.note_use(self.seconds(now));
                }
                if key.age(now) >= refresh_age(self.config.any) {
                    self.refresh(name, slot, now);
                }
                return Ok(key);
            }
            offline_copy = slot.offline_copy(now, &self.config).map(|key| (Arc::clone(slot), key));
        }
        let key = match offline_copy {
            None => {
                self.counters.misses.add();
                // Boxed, because it is rare: the future of a hit has no room for a wait in it.
                Box::pin(self.fetch(request, name, None)).await
            }
            Some((slot, key)) => Box::pin(self.key_or_offline_copy(request, name, &slot, key)).await,
        };
        if is_use
            && key.is_ok()
            && let Some(slot) = self.slots.pin().get(name)
        {
            slot.note_use(self.seconds(now));
        }
        key
    }

    /// Returns when the key was used last, as far as this is remembered.
    pub fn last_use(&self, name: &KeyName) -> Option<Timestamp> {
        let in_slot = self.slots.pin().get(name).and_then(|slot| slot.last_use());
        let seconds = in_slot.or_else(|| self.report.former.last_use(name))?;
        let ago = self.epoch.elapsed().saturating_sub(Duration::from_secs(seconds.into()));
        Timestamp::now().checked_sub(ago).ok()
    }

    /// Reads the first version of a key past the cache.
    pub async fn try_key_past(self: &Arc<Self>, request: &Request, name: &KeyName) -> Result<CachedKey> {
        let (cache, name, deadline) = (Arc::clone(self), name.clone(), request.deadline);
        let read = async move { cache.try_key_until(&name, deadline).await };
        self.backend.reads.run(request, read).await
    }

    pub async fn try_key_until(&self, name: &KeyName, deadline: Instant) -> Result<CachedKey> {
        let began = Instant::now();
        let key = self.entry_until(name, deadline).await?;
        match self.search_of(name, &key, deadline).deletion().await {
            Ok(None) if began.elapsed() <= APART => Ok(key),
            Ok(None) => {
                let again = self.entry_until(name, Instant::now() + CALL_TIMEOUT).await?;
                if again.fingerprint() == key.fingerprint() { Ok(key) } else { Err(changed(name)) }
            }
            Ok(Some(_)) => Err(deleted(name)),
            Err(error) => Err(failed_read(name, error)),
        }
    }

    /// Reads the first version of a key past the cache, whether the key is deleted or not.
    pub async fn entry_until(&self, name: &KeyName, deadline: Instant) -> Result<CachedKey> {
        let read = self.backend.watched(deadline, survey::read_record(&self.backend.store, name)).await;
        let outcome = read.map(CachedKey::new).map_err(|error| failed_read(name, error));
        self.report.learn(name, outcome.as_ref().err());
        outcome
    }

    /// Makes a record ready for use.
    pub fn ready(&self, record: KeyRecord) -> CachedKey {
        let mut key = CachedKey::new(record);
        key.created_by = self.creators.shared(key.created_by);
        key
    }

    /// Returns the slot for a key that is about to be created.
    ///
    /// A delete gives the name another slot. So a create that a delete overtakes does not bring the key back.
    pub fn place(&self, name: &KeyName) -> Arc<Slot> {
        let slot = self.slot(name);
        slot.touch(self.millis(Instant::now()));
        slot
    }

    /// Takes in a key that was created just now. It was read back by a read that began at `began`.
    pub fn publish_new(&self, name: &KeyName, place: &Slot, key: CachedKey, began: Instant) {
        let fingerprint = *key.fingerprint();
        let before = place.publish_new(key, began);
        self.report.created(name, &fingerprint, before.as_ref().map(|before| *before.fingerprint()));
        self.keep_in_doubt(name, before.filter(|before| *before.fingerprint() != fingerprint));
        // The name may have another slot by now, and a read there may have begun before the key was created.
        if let Some(slot) = self.slots.pin().get(name).filter(|slot| !std::ptr::eq(Arc::as_ptr(slot), place))
        {
            slot.outdate();
        }
    }

    /// Drops a key at once. A read of it that is under way brings nothing.
    pub fn forget(&self, name: &KeyName) {
        let slots = self.slots.pin();
        if let Some(before) = slots.remove(name).and_then(|slot| slot.forget()) {
            self.report.former.note(name, before);
        }
    }

    /// Drops a key that was deleted here.
    pub fn drop_key(&self, name: &KeyName, fingerprint: Option<&Fingerprint>) {
        // What is in memory may be another key, which the store lost.
        let other = self.in_memory(name).filter(|held| Some(held.fingerprint()) != fingerprint);
        self.keep_in_doubt(name, other);
        self.forget(name);
        if let Some(fingerprint) = fingerprint {
            self.report.former.note(name, *fingerprint);
        }
    }

    pub async fn status(&self) -> Result<StoreStatus> {
        let began = Instant::now();
        let status = match self.backend.status().await {
            Err(error) if error.kind().is_outage() && !self.config.offline.is_zero() => {
                StoreStatus::offline(began.elapsed(), error.chain().to_string())
            }
            answer => answer?,
        };
        Ok(self.losses.add_to(self.report.unreadable.add_to(status)))
    }

    /// Serves a key whose time is over: reads it again, or serves the copy while the backend is away.
    async fn key_or_offline_copy(
        &self,
        request: &Request,
        name: &KeyName,
        slot: &Arc<Slot>,
        copy: HeldKey,
    ) -> Result<HeldKey> {
        let now = Instant::now();
        if self.backend.away.is_away() {
            self.refresh(name, slot, now);
        } else {
            let patience = request.deadline.min(now + OFFLINE_PATIENCE);
            match timeout_at(patience.into(), self.fetch(request, name, None)).await {
                Ok(Ok(key)) => return Ok(key),
                Ok(Err(error)) if !error.kind().is_outage() => return Err(error),
                Ok(Err(_)) => {}
                Err(_) => {
                    self.backend.note_away(&Error::new(ErrorKind::Timeout, format!("read key '{name}'")));
                }
            }
        }
        self.counters.offline_hits.add();
        slot.touch(self.millis(now));
        Ok(copy)
    }

    /// Waits for a read of the key that began at `after` or later. One read serves all who wait for it.
    pub async fn fetch(&self, request: &Request, name: &KeyName, after: Option<Instant>) -> Result<HeldKey> {
        loop {
            let slot = self.slot(name);
            slot.touch(self.millis(Instant::now()));
            if let Some(outcome) = self.turn(request, name, &slot, after).await? {
                return outcome;
            }
        }
    }

    /// Waits for a read as [`fetch`](Self::fetch) does. `None` if the caller has to look at the place of the name again.
    pub(super) async fn turn(
        &self,
        request: &Request,
        name: &KeyName,
        slot: &Arc<Slot>,
        after: Option<Instant>,
    ) -> Result<Option<Outcome<CachedKey>>> {
        let waiting = if let Some(waiting) = slot.under_way() {
            waiting
        } else {
            let pass = self.backend.reads.pass(request).await?;
            match slot.start(after, &self.config) {
                Turn::Take(key) => return Ok(Some(Ok(key))),
                Turn::Wait(waiting) => waiting,
                Turn::Fetch(flight) => {
                    let waiting = flight.waiting();
                    self.begin_read(name, slot, flight, pass);
                    waiting
                }
                Turn::Refused(Refused::Until(moment)) => {
                    drop(pass);
                    wait_until(moment, request, name).await?;
                    return Ok(None);
                }
                Turn::Refused(Refused::Elsewhere) => {
                    self.take_away(name, slot);
                    return Ok(None);
                }
            }
        };
        waiting.outcome(after, request.deadline, || format!("read key '{name}'")).await
    }

    /// Reads a key again in the background, unless that is under way or failed a moment ago.
    pub(super) fn refresh(&self, name: &KeyName, slot: &Arc<Slot>, now: Instant) {
        let Some(pass) = self.backend.reads.try_background_pass() else { return };
        // A sweep refreshes many keys, so none of these reads is done in its task.
        if let Some(flight) = slot.start_refresh(now)
            && let Some(read) = self.read(name, slot, flight, pass)
        {
            spawn(read);
        }
    }

    /// Begins a read for which a request waits. It may be done when this returns.
    fn begin_read(&self, name: &KeyName, slot: &Arc<Slot>, flight: Flight<CachedKey>, pass: Pass) {
        let Some(mut read) = self.read(name, slot, flight, pass) else { return };
        // A task would cost more than such a read. What its first poll noted is noted anew by the task's.
        let is_done = self.backend.store.capabilities().reads_at_once
            && read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        if !is_done {
            spawn(read);
        }
    }

    fn read(
        &self,
        name: &KeyName,
        slot: &Arc<Slot>,
        flight: Flight<CachedKey>,
        pass: Pass,
    ) -> Option<Pin<Box<impl Future<Output = ()> + Send + use<S>>>> {
        let (this, name, slot) = (self.this.upgrade()?, name.clone(), Arc::clone(slot));
        Some(Box::pin(async move {
            let result = this.read_key(&name, &slot, flight.began).await;
            let outcome = this.finish(&name, &slot, &flight, result);
            drop(pass);
            flight.announce(outcome);
        }))
    }

    async fn read_key(&self, name: &KeyName, slot: &Slot, began: Instant) -> Result<CachedKey> {
        self.counters.reads.add();
        let read = async {
            let looked = Instant::now();
            let record = self.backend.read(name, began).await?;
            let place = || self.backend.store.place(&EntryName::from(name));
            let mut key = self.ready(KeyRecord::decode_at(record.expose(), place)?);
            let before = slot.versions_of(&key).or_else(|| self.losses.versions_of(name, key.fingerprint()));
            let search = self.search_of(name, &key, began + CALL_TIMEOUT);
            // Both at once: a cold request waits for each read.
            let (deletion, found) = tokio::join!(search.deletion(), search.run(before, self.config.any));
            let is_of_replica = deletion.as_ref().is_err_and(|error| error.kind() == ErrorKind::Behind);
            if as_far_as_known(deletion)?.is_some() {
                return Err(deleted(name));
            }
            // A purge removes the entry and then the marker: a slow look may have seen the one before and the other after.
            if looked.elapsed() > APART && self.backend.read(name, Instant::now()).await? != record {
                return Err(changed(name));
            }
            let found = found?;
            key.versions = found.versions;
            self.hidden.note(name, found.denied.is_some());
            self.of_replica.note(name, is_of_replica || found.unknown.is_some());
            Ok(key)
        };
        let read = read.await.map_err(|error| failed_read(name, error));
        self.weigh(name, slot, read).await.inspect_err(|error| self.counters.read_failed(error))
    }

    /// Takes the outcome of a read into the slot, and logs it. Returns `None` if the read is outdated.
    fn finish(
        &self,
        name: &KeyName,
        slot: &Arc<Slot>,
        read: &Flight<CachedKey>,
        result: Result<CachedKey>,
    ) -> Option<Outcome<CachedKey>> {
        let finished = slot.finish(read, result);
        if let Some(finished) = &finished {
            if let Some(dropped) = &finished.dropped {
                self.uses.forget(name, dropped);
            }
            self.report.finished(name, finished, slot.key().is_some());
        }
        if slot.retire() {
            self.take_away(name, slot);
        }
        finished.map(|finished| finished.outcome)
    }

    /// Removes a slot that was given up from the map, unless the name has another slot by now.
    fn take_away(&self, name: &KeyName, slot: &Arc<Slot>) {
        if let Some(used) = slot.last_use() {
            self.report.former.note_use(name, used);
        }
        let _ = self.slots.pin().remove_if(name, |_, current| Arc::ptr_eq(current, slot));
    }

    pub(super) fn slot(&self, name: &KeyName) -> Arc<Slot> {
        let slots = self.slots.pin();
        if let Some(slot) = slots.get(name) {
            return Arc::clone(slot);
        }
        Arc::clone(slots.get_or_insert_with(name.clone(), Arc::default))
    }

    async fn sweep_for_ever(this: Weak<Self>, config: CacheConfig) {
        let shortest = config.any.min(config.unused);
        let pause = (shortest / 4).clamp(Duration::from_millis(50), policy::SWEEP_PAUSE);
        loop {
            sleep(pause).await;
            let Some(cache) = this.upgrade() else { return };
            cache.sweep();
        }
    }

    /// Ends keys whose time is over, and reads keys in use again before they end.
    fn sweep(&self) {
        let now = Instant::now();
        let (look, mut to_look) = (self.looks_first(), Vec::new());
        let slots = self.slots.pin();
        for (name, slot) in &slots {
            let idle = Duration::from_millis(self.millis(now).saturating_sub(slot.used()));
            match slot.due(now, idle, &self.config, look) {
                Due::Refresh => self.refresh(name, slot, now),
                Due::Look => to_look.push(name.clone()),
                Due::Gone(ended) => {
                    if let Some(fingerprint) = ended {
                        self.report.former.note_ended(name, fingerprint);
                    }
                    if slot.retire() {
                        self.take_away(name, slot);
                    }
                }
                Due::Nothing => {}
            }
        }
        drop(slots);
        self.look(to_look);
        // A key that was mended may have no client that asks for it. Without another try the status would show it for
        // ever.
        let pause = policy::try_again_after(self.config.ping);
        for name in self.report.unreadable.due(policy::TRIED_AGAIN, pause, now) {
            self.refresh(&name, &self.slot(&name), now);
        }
        self.look_after_losses(policy::TRIED_AGAIN, pause, now);
    }

    fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.epoch).as_secs()).unwrap_or(u32::MAX)
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }
}

#[async_trait]
impl<S: KeyStore> Surveyed for Cache<S> {
    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.backend.list_until(query, Instant::now() + CALL_TIMEOUT).await
    }

    async fn try_key(&self, name: &KeyName) -> Result<()> {
        let first = self.try_key_until(name, Instant::now() + CALL_TIMEOUT).await?;
        let versions = survey::read_versions(&self.backend.store, name, &first.sealing).await;
        versions.map_err(|error| failed_read(name, error))
    }
}

/// Converts the error of a failed read of a key.
pub fn failed_read(name: &KeyName, error: Error) -> Error {
    let kind = match error.kind() {
        kind @ (ErrorKind::NotFound | ErrorKind::Deleted | ErrorKind::Unsupported) => kind,
        // The store knows nothing of a client's ciphertext or request, so such an answer is a fault.
        kind if kind.is_answer() => ErrorKind::Internal,
        kind => kind,
    };
    Error::with_source(kind, format!("read key '{name}'"), error)
}

/// Creates the error of a key that is not the same any more at the end of a slow read.
pub fn changed(name: &KeyName) -> Error {
    let why = "the key changed while it was read; try again";
    Error::with_source(ErrorKind::Internal, format!("read key '{name}'"), why)
}

/// Creates the error of what needs a key that is deleted.
pub fn deleted(name: &KeyName) -> Error {
    Error::with_source(
        ErrorKind::Deleted,
        format!("use key '{name}'"),
        format!("'kms key restore {name}' brings it back"),
    )
}

async fn wait_until(moment: Instant, request: &Request, name: &KeyName) -> Result<()> {
    if moment >= request.deadline {
        let detail = "too many reads of this key for ciphertexts that are not authentic";
        return Err(Error::with_source(ErrorKind::Throttled, format!("read key '{name}'"), detail));
    }
    sleep_until(moment.into()).await;
    Ok(())
}
