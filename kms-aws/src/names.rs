//! What each key's name stands for: looked up when needed, believed for a while, renewed before it ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_kms::types::KeyState;
use jiff::Timestamp;
use kms_core::{CacheCounters, Error, ErrorKind, Gate, KeyName, Request, Result, Unreadable};

use crate::cell::{Cell, Held};
use crate::client::{CALL_TIMEOUT, Upstream};
use crate::cmk::{Aliases, CONSISTENCY, Cmk, View, describe, look_again, not_seen};
use crate::config::AwsConfig;

/// Calls to AWS in flight at once, in all and for one identity.
const CALLS: (usize, usize) = (64, 16);
/// How long a request waits for AWS when a stale answer may serve.
const OFFLINE_PATIENCE: Duration = Duration::from_secs(1);
/// How long a name, or a working key, stays in memory that nobody uses.
const IDLE: Duration = Duration::from_secs(3600);
/// The most opened working keys in memory.
const MOST_OPENED: usize = 16_384;
/// The most names in memory of which AWS has told nothing that can be kept.
const MOST_UNKNOWN: usize = 10_000;
/// Keys that cannot be used and that nobody asks for, which are looked at again each time the memory is tidied.
const TRIED_AGAIN: usize = 8;
/// How long a key that cannot be used, and that nobody asks for, is left alone.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// How often the memory is tidied.
const TIDY: Duration = Duration::from_secs(5);

/// All names in use, and how AWS is asked.
pub struct Names {
    pub config: AwsConfig,
    pub upstream: Upstream,
    pub aliases: Aliases,
    pub gate: Arc<Gate>,
    /// Keys that are there and cannot be used.
    pub unreadable: Unreadable,
    pub counters: Counters,
    slots: papaya::HashMap<KeyName, Arc<Slot>>,
    /// CMKs made here so recently that their aliases may not be seen everywhere.
    made: Mutex<HashMap<KeyName, (String, Instant)>>,
    /// CMKs deleted here so recently that AWS may still show them as enabled.
    deleted: Mutex<HashMap<String, Instant>>,
    epoch: Instant,
}

/// What is counted since the start: by the names that requests use, and of what AWS was asked for them.
#[derive(Default)]
pub struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    offline_hits: AtomicU64,
    reads: AtomicU64,
    failed_reads: AtomicU64,
}

impl Counters {
    /// Counts that AWS was asked what a name stands for, or for a working key.
    pub fn read(&self, failure: Option<&Error>) {
        count(&self.reads);
        if failure.is_some_and(|error| !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotAuthentic))
        {
            count(&self.failed_reads);
        }
    }

    /// Returns the numbers.
    pub fn numbers(&self) -> CacheCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut numbers = CacheCounters::default();
        numbers.hits = read(&self.hits);
        numbers.misses = read(&self.misses);
        numbers.offline_hits = read(&self.offline_hits);
        numbers.reads = read(&self.reads);
        numbers.failed_reads = read(&self.failed_reads);
        numbers
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[derive(Default)]
struct Slot {
    cell: Arc<Cell<View>>,
    used: AtomicU64,
}

impl Names {
    /// Starts without any name; what is in memory is tidied for as long as this is there.
    pub fn start(config: AwsConfig, upstream: Upstream) -> Arc<Self> {
        let names = Arc::new(Self {
            aliases: Aliases::new(&config.prefix),
            config,
            upstream,
            gate: Gate::new(CALLS.0, CALLS.1),
            unreadable: Unreadable::default(),
            counters: Counters::default(),
            slots: papaya::HashMap::new(),
            made: Mutex::default(),
            deleted: Mutex::default(),
            epoch: Instant::now(),
        });
        let this = Arc::downgrade(&names);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(TIDY).await;
                let Some(names) = this.upgrade() else { return };
                names.tidy();
                // Nobody may ask for a key that was mended, and the status would speak of it for ever.
                for name in names.unreadable.due(TRIED_AGAIN, TRY_AGAIN_AFTER, Instant::now()) {
                    let slot = names.slot(&name);
                    slot.cell.refresh(|| Arc::clone(&names).look_up(name));
                }
            }
        });
        names
    }

    /// Finds what `name` stands for, in memory or by asking.
    pub async fn view(self: &Arc<Self>, request: &Request, name: &KeyName) -> Result<Arc<Held<View>>> {
        let held = self.slots.pin().get(name).and_then(|slot| {
            slot.used.store(self.millis(), Ordering::Relaxed);
            let held = slot.cell.get()?;
            if held.began.elapsed() >= self.config.any / 5 * 4 {
                let (names, name) = (Arc::clone(self), name.clone());
                slot.cell.refresh(|| names.look_up(name));
            }
            Some(held)
        });
        let stale = match held {
            Some(held) if held.began.elapsed() < self.config.any => {
                count(&self.counters.hits);
                return Ok(held);
            }
            Some(held) if held.began.elapsed() < self.config.offline => Some(held),
            _ => None,
        };
        match stale {
            None => {
                count(&self.counters.misses);
                self.view_after(request, name, None).await
            }
            Some(stale) if self.upstream.is_away() => {
                count(&self.counters.offline_hits);
                Ok(stale)
            }
            Some(stale) => {
                let deadline = request.deadline.min(Instant::now() + OFFLINE_PATIENCE);
                let request = request.clone().until(deadline);
                match self.view_after(&request, name, None).await {
                    Err(error) if error.kind().is_outage() => {
                        count(&self.counters.offline_hits);
                        Ok(stale)
                    }
                    outcome => {
                        count(&self.counters.misses);
                        outcome
                    }
                }
            }
        }
    }

    /// Finds what `name` stands for by an answer that was asked for at `after` or later.
    pub async fn view_after(
        self: &Arc<Self>,
        request: &Request,
        name: &KeyName,
        after: Option<Instant>,
    ) -> Result<Arc<Held<View>>> {
        let slot = self.slot(name);
        let any = self.config.any;
        let fresh = move |held: &Held<View>| match after {
            Some(after) => held.began >= after,
            None => held.began.elapsed() < any,
        };
        let fetch = || Arc::clone(self).look_up(name.clone());
        slot.cell.fetch_with_leave((&self.gate, request), after, fresh, fetch).await
    }

    /// Returns what is in memory for `name`, however old.
    pub fn known(&self, name: &KeyName) -> Option<Arc<Cmk>> {
        let held = self.slots.pin().get(name).and_then(|slot| slot.cell.get())?;
        Some(Arc::clone(&held.value.cmk))
    }

    /// Takes in a CMK that was made here.
    pub fn note_made(&self, name: &KeyName, view: View) -> Arc<Cmk> {
        let cmk = Arc::clone(&view.cmk);
        if self.is_deleted(&cmk.id) {
            // A delete was faster.
            return cmk;
        }
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.retain(|_, (_, since)| since.elapsed() < CONSISTENCY);
        made.insert(name.clone(), (cmk.id.clone(), Instant::now()));
        drop(made);
        self.slot(name).cell.put(view, Instant::now());
        cmk
    }

    /// Takes in that a CMK was deleted here: it is not used from now on, whatever AWS still shows.
    pub fn note_deleted(&self, cmk: &Arc<Cmk>, until: Option<Timestamp>) {
        let mut deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        deleted.retain(|_, since| since.elapsed() < CONSISTENCY);
        deleted.insert(cmk.id.clone(), Instant::now());
        drop(deleted);
        // A look that began before the deletion may yet bring the CMK as enabled: by this it is not usable all the same.
        cmk.set_deleted(true);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.get(&cmk.name).is_some_and(|(id, _)| *id == cmk.id) {
            made.remove(&cmk.name);
        }
        drop(made);
        self.slot(&cmk.name).cell.put(View::pending(Arc::clone(cmk), until), Instant::now());
        cmk.wipe();
    }

    /// Tells whether a CMK was made here a moment ago, so that AWS may not know it everywhere yet.
    pub fn is_new(&self, cmk: &Cmk) -> bool {
        self.made_id(&cmk.name).is_some_and(|id| id == cmk.id)
    }

    /// Returns the milliseconds since the start.
    pub fn millis(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn look_up(self: Arc<Self>, name: KeyName) -> Result<View> {
        let outcome = Arc::clone(&self).look(name.clone()).await;
        self.counters.read(outcome.as_ref().err());
        match &outcome {
            // A deletion is no fault.
            Ok(view) if view.is_pending() => self.unreadable.clear(&name),
            Ok(view) => self.learn(&name, view.usable().err().as_ref()),
            Err(error) => self.learn(&name, Some(error)),
        }
        outcome
    }

    /// Takes in how a use of a key went, for what the status and the log say of keys that are there and cannot be used.
    pub fn learn(&self, name: &KeyName, failure: Option<&Error>) {
        use ErrorKind::{Corrupt, Denied, Disabled, NotFound};
        match failure.map(|error| (error, error.kind())) {
            None | Some((_, NotFound)) => self.unreadable.clear(name),
            Some((error, kind @ (Disabled | Denied | Corrupt))) => {
                if self.unreadable.note(name, kind, Instant::now()) {
                    tracing::error!(key = %name, "key is there and cannot be used: {}", error.chain());
                }
            }
            // AWS as a whole is away or refuses us, or it is about the ciphertext.
            Some(_) => {}
        }
    }

    async fn look(self: Arc<Self>, name: KeyName) -> Result<View> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        let answer = loop {
            let answer = describe(&self.upstream, deadline, &self.aliases.key(&name)).await;
            let is_missing = answer.as_ref().is_err_and(|failure| failure.kind == ErrorKind::NotFound);
            let Some(made) = self.made_id(&name).filter(|_| is_missing) else { break answer };
            // The alias is not seen yet, but the CMK is ours to name.
            match describe(&self.upstream, deadline, &made).await {
                Err(failure) if failure.kind == ErrorKind::NotFound => {
                    if !look_again(deadline).await {
                        break Err(not_seen(failure));
                    }
                }
                answer => break answer,
            }
        };
        match answer {
            Ok(metadata) => {
                let known = self.known(&name);
                let mut view = View::new(&name, &metadata, known.as_ref());
                if let Some(known) = known.filter(|known| known.id != view.cmk.id) {
                    tracing::error!(
                        key = %name, before = known.arn, now = view.cmk.arn,
                        "the key's alias stands for another CMK now: what was sealed under the one before does not open"
                    );
                    known.wipe();
                }
                self.believe_deletion(&mut view);
                if view.unusable().is_some() {
                    view.cmk.wipe();
                }
                Ok(view)
            }
            Err(failure) => {
                if failure.kind == ErrorKind::NotFound {
                    if let Some(known) = self.known(&name) {
                        known.wipe();
                    }
                    self.forget(&name);
                    return Err(not_found(&name));
                }
                Err(failure.into_error(format!("look up key '{name}'")))
            }
        }
    }

    /// Puts what was done here a moment ago above what AWS shows, which may be older.
    fn believe_deletion(&self, view: &mut View) {
        let id = &view.cmk.id;
        if view.state == KeyState::Disabled && self.is_deleted(id) {
            // Only a CMK can be deleted here that is enabled, so this is the state after a deletion that was cancelled.
            self.deleted.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        }
        if self.is_deleted(id) {
            view.state = KeyState::PendingDeletion;
            view.cmk.set_deleted(true);
        } else if view.cmk.is_deleted() {
            view.cmk.set_deleted(false);
        }
    }

    /// Returns the CMK that was made here for a name a moment ago.
    pub fn made_id(&self, name: &KeyName) -> Option<String> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.get(name).filter(|(_, since)| since.elapsed() < CONSISTENCY).map(|(id, _)| id.clone())
    }

    /// Tells whether a CMK was deleted here a moment ago, so that AWS may still show it as enabled.
    fn is_deleted(&self, id: &str) -> bool {
        let deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        deleted.get(id).is_some_and(|since| since.elapsed() < CONSISTENCY)
    }

    /// Forgets a CMK of which it is not known whether it was deleted.
    pub fn doubt(&self, cmk: &Cmk) {
        self.forget(&cmk.name);
        cmk.wipe();
    }

    fn slot(&self, name: &KeyName) -> Arc<Slot> {
        let slots = self.slots.pin();
        let slot = Arc::clone(slots.get_or_insert_with(name.clone(), Arc::default));
        slot.used.store(self.millis(), Ordering::Relaxed);
        slot
    }

    fn forget(&self, name: &KeyName) {
        let slots = self.slots.pin();
        if let Some(slot) = slots.get(name) {
            slot.cell.clear();
        }
        slots.remove(name);
    }

    /// Drops what nobody used for long, and of very many working keys those used longest ago.
    fn tidy(&self) {
        let idle = u64::try_from(IDLE.as_millis()).unwrap_or(u64::MAX);
        let too_old = |used: &AtomicU64| self.millis().saturating_sub(used.load(Ordering::Relaxed)) >= idle;
        let (mut opened, mut unknown) = (Vec::new(), Vec::new());
        for (name, slot) in &self.slots.pin() {
            let cmk = slot.cell.get().map(|held| Arc::clone(&held.value.cmk));
            match cmk {
                Some(cmk) if too_old(&slot.used) => {
                    cmk.wipe();
                    self.forget(name);
                }
                Some(cmk) => {
                    // What is sealed under an old working key is opened by its blob; here it only lies about.
                    let sealing = cmk.sealing.get();
                    if sealing.is_some_and(|held| {
                        held.began.elapsed() >= self.config.reuse.max_age.max(self.config.offline)
                    }) {
                        cmk.sealing.clear();
                    }
                    let next = cmk.next.get();
                    if next.is_some_and(|held| {
                        held.began.elapsed() >= self.config.reuse.max_age + held.value.lead
                    }) {
                        cmk.next.clear();
                    }
                    for (blob, entry) in &cmk.opened.pin() {
                        opened.push((entry.used.load(Ordering::Relaxed), Arc::clone(&cmk), blob.clone()));
                    }
                }
                None if too_old(&slot.used) => self.forget(name),
                None => unknown.push((slot.used.load(Ordering::Relaxed), name.clone())),
            }
        }
        unknown.sort_unstable_by_key(|(used, _)| *used);
        let excess = unknown.len().saturating_sub(MOST_UNKNOWN);
        unknown.iter().take(excess).for_each(|(_, name)| self.forget(name));
        opened.sort_unstable_by_key(|(used, ..)| *used);
        let excess = opened.len().saturating_sub(MOST_OPENED);
        let now = self.millis();
        for (place, (used, cmk, blob)) in opened.into_iter().enumerate() {
            let goes = place < excess || now.saturating_sub(used) >= idle;
            if goes && let Some(entry) = cmk.opened.pin().remove(&blob) {
                entry.cell.clear();
            }
        }
    }
}

/// Makes the error that tells that there is no such key.
pub fn not_found(name: &KeyName) -> Error {
    Error::new(ErrorKind::NotFound, format!("look up key '{name}'"))
}

#[cfg(test)]
mod tests {
    use kms_core::Identity;

    use super::*;
    use crate::client::load;
    use crate::config::{AwsConnection, Credentials};

    /// Names behind an address where nobody answers.
    async fn names() -> Arc<Names> {
        let credentials =
            Credentials { access_key: "id".to_owned(), secret_key: "secret".to_owned().into(), token: None };
        let connection = AwsConnection {
            endpoint: Some("http://127.0.0.1:1".to_owned()),
            region: Some("eu-central-1".to_owned()),
            credentials: Some(credentials),
        };
        let upstream = Upstream::new(&load(&connection).await.unwrap());
        Names::start(AwsConfig::new(connection), upstream)
    }

    #[tokio::test]
    async fn names_of_which_nothing_is_known_have_a_bound() {
        let names = names().await;
        let name = |n: usize| KeyName::new(format!("unknown-{n}")).unwrap();
        for n in 0..MOST_UNKNOWN + 500 {
            // Used one after the other.
            names.slot(&name(n)).used.store(n as u64, Ordering::Relaxed);
        }
        names.tidy();
        assert_eq!(names.slots.pin().len(), MOST_UNKNOWN);
        assert!(names.slots.pin().get(&name(499)).is_none(), "those used longest ago go");
        assert!(names.slots.pin().get(&name(500)).is_some());
    }

    #[tokio::test]
    async fn what_is_asked_of_aws_is_counted() {
        let names = names().await;
        let request = Request::new(Identity::of_public_key(b"test"), Duration::from_secs(15));
        let name = KeyName::new("a").unwrap();
        assert!(names.view(&request, &name).await.is_err());
        let counted = names.counters.numbers();
        assert_eq!((counted.hits, counted.misses), (0, 1));
        assert_eq!((counted.reads, counted.failed_reads), (1, 1));
    }
}
