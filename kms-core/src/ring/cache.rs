//! The cache of a key ring: which keys are in memory, how they come there, and when they go.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tracing::{debug, error, warn};

use super::config::{CacheConfig, CacheCounters};
use super::former::Former;
use super::gate::{Gate, Pass};
use super::key::CachedKey;
use super::slot::{Due, Slot, Start};
use super::unreadable::Unreadable;
use crate::survey::{self, Survey, Surveyed};
use crate::sync::{AtomicU64, Ordering, SharedMap, sleep, sleep_until, spawn, timeout_at, watch};
use crate::{
    EntryName, Error, ErrorKind, Fingerprint, KeyName, KeyRecord, KeyStore, ListQuery, Page, Request, Result,
    SecretBytes, StoreStatus,
};

/// Backend reads in flight at once, in all and for one identity.
const READS: (usize, usize) = (64, 16);
/// Backend writes in flight at once. They have a gate of their own: a slow create must not hold up reads.
const WRITES: (usize, usize) = (64, 32);
/// How long a request waits for a backend that is not known to be away, when an offline copy is at hand.
const OFFLINE_PATIENCE: Duration = Duration::from_secs(1);
/// Keys that cannot be read and that nobody asks for: how many of them are tried again at one sweep, and after how many
/// pings each.
const TRIED_AGAIN: usize = 8;
const PINGS_UNTIL_TRIED_AGAIN: u32 = 6;
/// How long a backend call may take when no request's deadline bounds it.
const BACKEND_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Cache<S> {
    store: S,
    config: CacheConfig,
    slots: SharedMap<KeyName, Arc<Slot>>,
    reads: Arc<Gate>,
    writes: Arc<Gate>,
    /// Bumped at each step between here and away; odd while the backend is known to be away.
    away: AtomicU64,
    epoch: Instant,
    counters: Counters,
    unreadable: Unreadable,
    former: Former,
    this: Weak<Self>,
}

#[derive(Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    offline_hits: AtomicU64,
    reads: AtomicU64,
    failed_reads: AtomicU64,
}

impl<S: KeyStore> Cache<S> {
    pub fn start(store: S, config: CacheConfig) -> Arc<Self> {
        let cache = Arc::new_cyclic(|this| Self {
            store,
            config,
            slots: SharedMap::new(),
            reads: Gate::new(READS.0, READS.1),
            writes: Gate::new(WRITES.0, WRITES.1),
            away: AtomicU64::new(0),
            epoch: Instant::now(),
            counters: Counters::default(),
            unreadable: Unreadable::default(),
            former: Former::default(),
            this: Weak::clone(this),
        });
        spawn(Self::sweep_for_ever(Arc::downgrade(&cache), config));
        cache
    }

    pub fn store(&self) -> &S {
        &self.store
    }

    pub fn counters(&self) -> CacheCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheCounters {
            hits: read(&self.counters.hits),
            misses: read(&self.counters.misses),
            offline_hits: read(&self.counters.offline_hits),
            reads: read(&self.counters.reads),
            failed_reads: read(&self.counters.failed_reads),
        }
    }

    /// Finds the key in memory, or reads it.
    pub async fn key(&self, request: &Request, name: &KeyName) -> Result<Arc<CachedKey>> {
        let now = Instant::now();
        let mut offline_copy = None;
        if let Some(slot) = self.slots.pin().get(name) {
            if let Some(key) = slot.fresh(now, &self.config) {
                count(&self.counters.hits);
                slot.touch(self.millis(now));
                if key.age(now) >= refresh_age(self.config.any) {
                    self.refresh(name, slot, now);
                }
                return Ok(key);
            }
            offline_copy = slot.offline_copy(now, &self.config).map(|key| (Arc::clone(slot), key));
        }
        match offline_copy {
            None => {
                count(&self.counters.misses);
                // Boxed, as what is rare is: a hit shall not carry the room for a wait.
                Box::pin(self.fetch(request, name, None)).await
            }
            Some((slot, key)) => Box::pin(self.key_or_offline_copy(request, name, &slot, key)).await,
        }
    }

    /// Returns the key as read from the store by a read that began after `moment`.
    pub async fn key_read_after(
        &self,
        request: &Request,
        name: &KeyName,
        moment: Instant,
    ) -> Result<Arc<CachedKey>> {
        self.fetch(request, name, Some(moment)).await
    }

    /// Reads the entry of a key past the cache, without a look at what is in it; returns when the read began too.
    ///
    /// The caller holds a pass.
    pub async fn read_entry(&self, name: &KeyName) -> Result<(SecretBytes, Instant)> {
        let (entry, began) = (EntryName::from(name), Instant::now());
        let read = self.watched(began + BACKEND_TIMEOUT, self.store.get(&entry)).await;
        read.map(|record| (record, began)).map_err(|error| {
            let error = failed_read(name, error);
            self.learn(name, Some(&error));
            error
        })
    }

    /// Makes sure, past the cache, that a key can be read.
    pub async fn try_key_past(self: &Arc<Self>, request: &Request, name: &KeyName) -> Result<Fingerprint> {
        let (deadline, name) = (request.deadline, name.clone());
        self.bounded_read(request, |cache| async move { cache.try_key_until(&name, deadline).await }).await
    }

    /// Reads every key of the store, and learns which of them cannot be read.
    pub async fn survey(&self) -> Result<Survey> {
        survey::walk(self).await
    }

    /// Makes a reading call, which ends itself at the request's deadline, within the bounds and in a task of its own.
    pub async fn bounded_read<T: Send + 'static, F>(
        self: &Arc<Self>,
        request: &Request,
        call: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.reads.run(request, call(Arc::clone(self))).await
    }

    /// Has an effect within the bounds, in a task of its own: once it has begun it is followed to its end.
    pub async fn effect<T: Send + 'static, F>(
        self: &Arc<Self>,
        request: &Request,
        effect: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.writes.run(request, effect(Arc::clone(self))).await
    }

    /// Makes a writing call to the store.
    pub async fn write(&self, call: impl Future<Output = Result<()>>) -> Result<()> {
        self.watched(Instant::now() + BACKEND_TIMEOUT, call).await
    }

    /// Lists keys, until `deadline` at the latest.
    pub async fn list_until(&self, query: &ListQuery<'_>, deadline: Instant) -> Result<Page> {
        self.watched(deadline, self.store.list(query)).await
    }

    async fn try_key_until(&self, name: &KeyName, deadline: Instant) -> Result<Fingerprint> {
        let read = self.watched(deadline, survey::read_record(&self.store, name)).await;
        let fingerprint = |record| *CachedKey::new(record, Instant::now()).fingerprint();
        let outcome = read.map(fingerprint).map_err(|error| failed_read(name, error));
        self.learn(name, outcome.as_ref().err());
        outcome
    }

    /// Returns the place where a key that is about to be created will be taken in.
    ///
    /// A delete gives the name another place, so that what it overtakes does not come back.
    pub fn place(&self, name: &KeyName) -> Arc<Slot> {
        let slot = self.slot(name);
        slot.touch(self.millis(Instant::now()));
        slot
    }

    /// Takes in a key that was created just now, and read back.
    pub fn publish_new(&self, name: &KeyName, place: &Slot, key: CachedKey) {
        let fingerprint = *key.fingerprint();
        if let Some(before) = place.publish_new(Arc::new(key)).filter(|before| *before != fingerprint) {
            self.former.note(name, before);
        }
        self.former.arrived(name, &fingerprint);
        // The name may have another place by now, and a read there may have begun before the key was made.
        if let Some(slot) = self.slots.pin().get(name).filter(|slot| !std::ptr::eq(Arc::as_ptr(slot), place))
        {
            slot.outdate();
        }
        self.unreadable.clear(name);
    }

    /// Notes that a key is known to be gone from the store.
    pub fn note_gone(&self, name: &KeyName) {
        self.unreadable.clear(name);
    }

    /// Lends what is known of keys that had the name of another one.
    pub fn former(&self) -> &Former {
        &self.former
    }

    /// Drops a key at once, whatever read of it is under way.
    pub fn forget(&self, name: &KeyName) {
        let slots = self.slots.pin();
        if let Some(before) = slots.remove(name).and_then(|slot| slot.forget()) {
            self.former.note(name, before);
        }
    }

    pub async fn status(&self) -> Result<StoreStatus> {
        let began = Instant::now();
        let answer = self.watched(began + BACKEND_TIMEOUT, self.store.status()).await;
        match answer {
            Err(error) if error.kind().is_outage() && !self.config.offline.is_zero() => {
                Ok(self.with_unreadable(StoreStatus::offline(began.elapsed(), error.chain().to_string())))
            }
            answer => answer.map(|status| self.with_unreadable(status)),
        }
    }

    fn with_unreadable(&self, status: StoreStatus) -> StoreStatus {
        match self.unreadable.describe() {
            None => status,
            Some(why) => status.degraded(why),
        }
    }

    /// Serves a key whose time is over: read anew if the backend answers, else as it is.
    async fn key_or_offline_copy(
        &self,
        request: &Request,
        name: &KeyName,
        slot: &Arc<Slot>,
        copy: Arc<CachedKey>,
    ) -> Result<Arc<CachedKey>> {
        let now = Instant::now();
        if self.is_away() {
            self.refresh(name, slot, now);
        } else {
            let patience = request.deadline.min(now + OFFLINE_PATIENCE);
            match timeout_at(patience.into(), self.fetch(request, name, None)).await {
                Ok(Ok(key)) => return Ok(key),
                Ok(Err(error)) if !error.kind().is_outage() => return Err(error),
                Ok(Err(_)) => {}
                Err(_) => self.note_away(&Error::new(ErrorKind::Timeout, format!("read key '{name}'"))),
            }
        }
        count(&self.counters.offline_hits);
        slot.touch(self.millis(now));
        Ok(copy)
    }

    /// Waits for a read of the key, one that serves all who wait for it.
    async fn fetch(
        &self,
        request: &Request,
        name: &KeyName,
        after: Option<Instant>,
    ) -> Result<Arc<CachedKey>> {
        loop {
            let slot = self.slot(name);
            slot.touch(self.millis(Instant::now()));
            let mut read = slot.joinable(after);
            if read.is_none() {
                let pass = self.reads.pass(request).await?;
                let arrived_meanwhile = match after {
                    None => slot.fresh(Instant::now(), &self.config),
                    Some(moment) => slot.key().filter(|key| key.read_after(moment)),
                };
                if let Some(key) = arrived_meanwhile {
                    return Ok(key);
                }
                match slot.start(after) {
                    Start::Join(running) => read = Some(running),
                    Start::Go(sender, began, epoch) => {
                        read = Some(sender.subscribe());
                        self.spawn_read(name.clone(), Arc::clone(&slot), sender, began, epoch, pass);
                    }
                    Start::NotBefore(moment) => {
                        drop(pass);
                        wait_until(moment, request, name).await?;
                        continue;
                    }
                    Start::Elsewhere => {
                        self.take_away(name, &slot);
                        continue;
                    }
                    Start::After(mut running) => {
                        drop(pass);
                        let _ = outcome(&mut running, request, name).await?;
                        continue;
                    }
                }
            }
            if let Some(mut read) = read {
                match outcome(&mut read, request, name).await? {
                    Err(error) if error.kind() == ErrorKind::Abandoned => {}
                    outcome => return outcome,
                }
            }
        }
    }

    /// Reads a key again in the background, unless that is under way or failed a moment ago.
    fn refresh(&self, name: &KeyName, slot: &Arc<Slot>, now: Instant) {
        if !slot.may_refresh(now) {
            return;
        }
        let Some(pass) = self.reads.try_background_pass() else { return };
        if let Start::Go(sender, began, epoch) = slot.start(None) {
            self.spawn_read(name.clone(), Arc::clone(slot), sender, began, epoch, pass);
        }
    }

    fn spawn_read(
        &self,
        name: KeyName,
        slot: Arc<Slot>,
        sender: watch::Sender<Option<Result<Arc<CachedKey>>>>,
        began: Instant,
        epoch: u64,
        pass: Pass,
    ) {
        let Some(this) = self.this.upgrade() else { return };
        spawn(async move {
            let result = this.read_key(&name, began).await;
            let is_stale = this.finish(&name, &slot, epoch, &result);
            drop(pass);
            // What was read before the key was created or deleted here is no answer: who waits for it asks again.
            let stale = || Error::new(ErrorKind::Abandoned, format!("read key '{name}'"));
            sender.send_replace(Some(if is_stale { Err(stale()) } else { result }));
        });
    }

    async fn read_key(&self, name: &KeyName, began: Instant) -> Result<Arc<CachedKey>> {
        count(&self.counters.reads);
        let entry = EntryName::from(name);
        let record = self.watched(began + BACKEND_TIMEOUT, self.store.get(&entry)).await;
        let key = record
            .and_then(|record| KeyRecord::decode_at(record.expose(), || self.store.place(&entry)))
            .map(|record| Arc::new(CachedKey::new(record, began)))
            .map_err(|error| failed_read(name, error));
        if let Err(error) = &key
            && error.kind() != ErrorKind::NotFound
        {
            count(&self.counters.failed_reads);
        }
        key
    }

    /// Takes in how a read of a key went, for what the status and the log say of keys that are there and cannot be read.
    ///
    /// Returns whether that is so of this one.
    fn learn(&self, name: &KeyName, failure: Option<&Error>) -> bool {
        match failure {
            // The backend as a whole is away or refuses us, which says nothing of what is in it.
            Some(error) if error.kind().is_outage() || error.kind() == ErrorKind::LoginRefused => false,
            Some(error) if error.kind() != ErrorKind::NotFound => {
                if self.unreadable.note(name, error.kind(), Instant::now()) {
                    error!(key = %name, "key is there and cannot be read: {}", error.chain());
                }
                true
            }
            _ => {
                self.unreadable.clear(name);
                false
            }
        }
    }

    /// Brings the outcome of a read into the slot. True if it tells nothing any more.
    fn finish(&self, name: &KeyName, slot: &Arc<Slot>, epoch: u64, result: &Result<Arc<CachedKey>>) -> bool {
        let finished = slot.finish(epoch, result);
        let is_unreadable = !finished.is_stale && self.learn(name, result.as_ref().err());
        let before = match (finished.dropped, result) {
            (Some(dropped), _) => {
                self.former.note(name, dropped);
                Some(dropped)
            }
            (None, Ok(key)) if !finished.is_stale => self.former.arrived(name, key.fingerprint()),
            (None, _) => None,
        };
        match (result, before) {
            (Ok(key), Some(before)) => error!(
                key = %name, fingerprint = ?key.fingerprint(), fingerprint_before = ?before,
                "key was replaced in the store by another one; what was sealed under the old one is lost unless it is restored"
            ),
            (Err(error), Some(_)) if !is_unreadable => {
                warn!(key = %name, "key is gone from the store: {}", error.chain());
            }
            (Err(error), None) if !is_unreadable && slot.key().is_some() => {
                warn!(key = %name, "key could not be read again; the copy in memory is used while it may: {}", error.chain());
            }
            _ => {}
        }
        if slot.retire() {
            self.take_away(name, slot);
        }
        finished.is_stale
    }

    /// Takes a slot that was given up away from its name, unless that has another by now.
    fn take_away(&self, name: &KeyName, slot: &Arc<Slot>) {
        let _ = self.slots.pin().remove_if(name, |_, current| Arc::ptr_eq(current, slot));
    }

    fn slot(&self, name: &KeyName) -> Arc<Slot> {
        let slots = self.slots.pin();
        if let Some(slot) = slots.get(name) {
            return Arc::clone(slot);
        }
        Arc::clone(slots.get_or_insert_with(name.clone(), Arc::default))
    }

    /// Runs a backend call with a deadline, and learns from it whether the backend is away.
    async fn watched<T>(&self, deadline: Instant, call: impl Future<Output = Result<T>>) -> Result<T> {
        let result = match timeout_at(deadline.into(), call).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(ErrorKind::Timeout, "wait for the key store")),
        };
        match &result {
            Err(error) if error.kind().is_outage() => self.note_away(error),
            Err(error) if matches!(error.kind(), ErrorKind::Internal) => {}
            _ => self.note_here(),
        }
        result
    }

    fn is_away(&self) -> bool {
        !self.away.load(Ordering::Relaxed).is_multiple_of(2)
    }

    fn note_here(&self) {
        let away = self.away.load(Ordering::Relaxed);
        if !away.is_multiple_of(2)
            && self.away.compare_exchange(away, away + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            warn!(store = self.store.capabilities().name, "key store is back");
        }
    }

    fn note_away(&self, why: &Error) {
        let away = self.away.load(Ordering::Relaxed);
        if away.is_multiple_of(2)
            && self.away.compare_exchange(away, away + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            error!(store = self.store.capabilities().name, "key store cannot be used: {}", why.chain());
            spawn(Self::watch_until_back(Weak::clone(&self.this), away + 1, self.config.ping));
        }
    }

    async fn watch_until_back(this: Weak<Self>, away: u64, ping: Duration) {
        let mut pause = ping.min(Duration::from_millis(500));
        loop {
            sleep(pause).await;
            let Some(cache) = this.upgrade() else { return };
            if cache.away.load(Ordering::Relaxed) != away {
                return;
            }
            if let Err(error) = cache.watched(Instant::now() + BACKEND_TIMEOUT, cache.store.status()).await {
                debug!("key store is still away: {}", error.chain());
            }
            pause = (pause * 2).min(ping);
        }
    }

    async fn sweep_for_ever(this: Weak<Self>, config: CacheConfig) {
        let shortest = config.any.min(config.unused);
        let pause = (shortest / 4).clamp(Duration::from_millis(50), Duration::from_secs(5));
        loop {
            sleep(pause).await;
            let Some(cache) = this.upgrade() else { return };
            cache.sweep();
        }
    }

    /// Ends what is over, and renews in time what is in use.
    fn sweep(&self) {
        let now = Instant::now();
        let slots = self.slots.pin();
        for (name, slot) in &slots {
            let idle = Duration::from_millis(self.millis(now).saturating_sub(slot.used()));
            match slot.due(now, idle, &self.config) {
                Due::Refresh => self.refresh(name, slot, now),
                Due::Gone(ended) => {
                    if let Some(fingerprint) = ended {
                        self.former.note_ended(name, fingerprint);
                    }
                    if slot.retire() {
                        self.take_away(name, slot);
                    }
                }
                Due::Nothing => {}
            }
        }
        drop(slots);
        // Nobody may ask for a key that was mended, and the status would speak of it for ever.
        let pause = self.config.ping.saturating_mul(PINGS_UNTIL_TRIED_AGAIN);
        for name in self.unreadable.due(TRIED_AGAIN, pause, now) {
            self.refresh(&name, &self.slot(&name), now);
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }
}

#[async_trait]
impl<S: KeyStore> Surveyed for Cache<S> {
    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.list_until(query, Instant::now() + BACKEND_TIMEOUT).await
    }

    async fn try_key(&self, name: &KeyName) -> Result<()> {
        self.try_key_until(name, Instant::now() + BACKEND_TIMEOUT).await.map(drop)
    }
}

/// Makes the error of a failed read of a key, which is the only answer that can be believed, or a fault.
fn failed_read(name: &KeyName, error: Error) -> Error {
    let kind = match error.kind() {
        kind @ (ErrorKind::NotFound | ErrorKind::Unsupported) => kind,
        // A read of a store has nothing to say of a client's ciphertext or request.
        kind if kind.is_answer() => ErrorKind::Internal,
        kind => kind,
    };
    Error::with_source(kind, format!("read key '{name}'"), error)
}

/// The age at which a key in use is read again.
pub fn refresh_age(any: Duration) -> Duration {
    any / 5 * 4
}

type Outcome = Result<Arc<CachedKey>>;

/// Waits for the outcome of a read, inside the request's deadline.
async fn outcome(
    read: &mut watch::Receiver<Option<Outcome>>,
    request: &Request,
    name: &KeyName,
) -> Result<Outcome> {
    let ended = timeout_at(request.deadline.into(), read.wait_for(Option::is_some)).await;
    match ended {
        Ok(Ok(outcome)) => match &*outcome {
            Some(outcome) => Ok(outcome.clone()),
            None => Err(Error::new(ErrorKind::Internal, format!("read key '{name}'"))),
        },
        Ok(Err(_)) => {
            Err(Error::with_source(ErrorKind::Internal, format!("read key '{name}'"), "the read was ended"))
        }
        Err(_) => Err(Error::new(ErrorKind::Timeout, format!("read key '{name}'"))),
    }
}

async fn wait_until(moment: Instant, request: &Request, name: &KeyName) -> Result<()> {
    if moment >= request.deadline {
        let detail = "too many reads of this key for ciphertexts that are not authentic";
        return Err(Error::with_source(ErrorKind::Throttled, format!("read key '{name}'"), detail));
    }
    sleep_until(moment.into()).await;
    Ok(())
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
