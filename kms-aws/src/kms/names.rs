//! What each key's name stands for: looked up when needed, believed for a while, renewed before it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_kms::types::KeyState;
use jiff::Timestamp;
use kms_core::cache::Unreadable;
use kms_core::cache::policy::{self, CALL_TIMEOUT, OFFLINE_PATIENCE, SWEEP_PAUSE, TRIED_AGAIN, refresh_age};
use kms_core::single_flight::{Held, SingleFlight};
use kms_core::{Error, ErrorKind, KeyName, Request, Result};

use super::backend::{Backend, wanted};
use super::cmk::Cmk;
use super::lifecycle::{describe, not_seen};
use super::view::View;
use crate::client::look_again;

/// How long a name, or a working key, stays in memory that nobody uses.
const IDLE: Duration = Duration::from_secs(3600);
/// The most opened working keys in memory.
const MOST_OPENED: usize = 16_384;
/// The most names in memory for which AWS has given no answer that can be kept.
const MOST_UNKNOWN: usize = 10_000;

/// All names in use.
pub struct Names {
    backend: Arc<Backend>,
    /// Keys that are there and cannot be used.
    pub unreadable: Unreadable,
    slots: papaya::HashMap<KeyName, Arc<Slot>>,
}

/// The place of one name.
#[derive(Default)]
struct Slot {
    flight: Arc<SingleFlight<View>>,
    /// When it was used last, in milliseconds since the start.
    used: AtomicU64,
}

impl Names {
    /// Starts without any name. The memory is swept for as long as this is there.
    pub fn start(backend: Arc<Backend>) -> Arc<Self> {
        let slots = papaya::HashMap::new();
        let names = Arc::new(Self { backend, unreadable: Unreadable::default(), slots });
        let this = Arc::downgrade(&names);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP_PAUSE).await;
                let Some(names) = this.upgrade() else { return };
                names.sweep();
                // Nobody may ask for a key that was mended, and the status would speak of it for ever.
                let pause = policy::try_again_after(policy::PING);
                for name in names.unreadable.due(TRIED_AGAIN, pause, Instant::now()) {
                    let slot = names.slot(&name);
                    slot.flight.refresh(|| Arc::clone(&names).look_up(name));
                }
            }
        });
        names
    }

    /// Returns how many names have a place in memory now.
    pub fn cached(&self) -> usize {
        self.slots.pin().len()
    }

    /// Returns the CMK that `name` stands for; fails with `Disabled` or `Deleted` if it cannot be used.
    pub async fn usable(self: &Arc<Self>, request: &Request, name: &KeyName) -> Result<Arc<Cmk>> {
        self.view(request, name).await?.usable().map(Arc::clone)
    }

    /// Returns what `name` stands for, from memory or by asking.
    pub async fn view(self: &Arc<Self>, request: &Request, name: &KeyName) -> Result<Arc<Held<View>>> {
        let (config, counters) = (&self.backend.config, &self.backend.counters);
        let held = self.slots.pin().get(name).and_then(|slot| {
            self.backend.touch(&slot.used);
            let held = slot.flight.get()?;
            if held.began().elapsed() >= refresh_age(config.any) {
                let (names, name) = (Arc::clone(self), name.clone());
                slot.flight.refresh(|| names.look_up(name));
            }
            Some(held)
        });
        let stale = match held {
            Some(held) if held.began().elapsed() < config.any => {
                counters.hits.add();
                return Ok(held);
            }
            Some(held) if held.began().elapsed() < config.offline => held,
            _ => {
                counters.misses.add();
                return self.view_after(request, name, None).await;
            }
        };
        if !self.backend.upstream.is_away() {
            let deadline = request.deadline.min(Instant::now() + OFFLINE_PATIENCE);
            let request = request.clone().until(deadline);
            let outcome = self.view_after(&request, name, None).await;
            if !outcome.as_ref().is_err_and(|error| error.kind().is_outage()) {
                counters.misses.add();
                return outcome;
            }
        }
        counters.offline_hits.add();
        Ok(stale)
    }

    /// Returns what `name` stands for by an answer that was asked for at `after` or later.
    pub async fn view_after(
        self: &Arc<Self>,
        request: &Request,
        name: &KeyName,
        after: Option<Instant>,
    ) -> Result<Arc<Held<View>>> {
        let any = self.backend.config.any;
        let is_fresh = move |held: &Held<View>| held.began().elapsed() < any;
        let leave = || self.backend.gate.pass(request);
        let look_up = || Arc::clone(self).look_up(name.clone());
        self.slot(name).flight.fetch(wanted(request, after), is_fresh, leave, look_up).await
    }

    /// Returns the CMK that is in memory for `name`, however old.
    pub fn known(&self, name: &KeyName) -> Option<Arc<Cmk>> {
        let held = self.slots.pin().get(name).and_then(|slot| slot.flight.get())?;
        Some(Arc::clone(&held.cmk))
    }

    /// Takes in a CMK that was made here.
    pub fn note_made(&self, name: &KeyName, view: View) -> Arc<Cmk> {
        let cmk = Arc::clone(&view.cmk);
        // A delete may have been faster.
        if self.backend.deleted.get(&cmk.id).is_none() {
            self.backend.made.note(name.clone(), cmk.id.clone());
            self.slot(name).flight.put(view, Instant::now());
        }
        cmk
    }

    /// Takes in that a CMK was deleted here. It is not used from now on, whatever AWS still shows.
    pub fn note_deleted(&self, cmk: &Arc<Cmk>, until: Option<Timestamp>) {
        let Backend { made, deleted, .. } = &*self.backend;
        deleted.note(cmk.id.clone(), ());
        if made.get(&cmk.name).is_some_and(|made| made == cmk.id) {
            made.forget(&cmk.name);
        }
        // Whoever has an older view of the CMK does not use it either.
        cmk.set_deleted(true);
        self.slot(&cmk.name).flight.put(View::pending(Arc::clone(cmk), until), Instant::now());
        cmk.wipe();
    }

    /// Takes in that the deletion of a CMK was cancelled here.
    pub fn note_restored(&self, cmk: &Cmk) {
        self.backend.deleted.forget(&cmk.id);
        cmk.set_deleted(false);
        self.forget(&cmk.name);
    }

    /// Forgets a CMK of which it is not known whether it was deleted.
    pub fn doubt(&self, cmk: &Cmk) {
        self.forget(&cmk.name);
        cmk.wipe();
    }

    /// Takes in how a use of a key went, for what the status and the log say of keys that are there and cannot be used.
    pub fn learn(&self, name: &KeyName, failure: Option<&Error>) {
        use ErrorKind::{Corrupt, Denied, Disabled, NotFound};
        match failure.map(|error| (error, error.kind())) {
            None | Some((_, NotFound)) => self.unreadable.clear(name),
            Some((error, kind @ (Disabled | Denied | Corrupt))) => {
                if self.unreadable.note(name, kind, Instant::now()) {
                    tracing::error!(key = %name, cause = error.as_dyn(), "key is there and cannot be used");
                }
            }
            // AWS as a whole is away or refuses us, or it is about the ciphertext.
            Some(_) => {}
        }
    }

    /// Asks AWS what `name` stands for, and learns from the answer.
    async fn look_up(self: Arc<Self>, name: KeyName) -> Result<View> {
        let outcome = self.look(&name).await;
        self.backend.count_read(&outcome);
        match &outcome {
            // A deletion is no fault.
            Ok(view) if view.is_pending() => self.unreadable.clear(&name),
            Ok(view) => self.learn(&name, view.usable().err().as_ref()),
            Err(error) => self.learn(&name, Some(error)),
        }
        outcome
    }

    async fn look(&self, name: &KeyName) -> Result<View> {
        let Backend { upstream, aliases, made, .. } = &*self.backend;
        let deadline = Instant::now() + CALL_TIMEOUT;
        let answer = loop {
            let answer = describe(upstream, deadline, &aliases.key(name)).await;
            let is_missing = answer.as_ref().is_err_and(|failure| failure.kind == ErrorKind::NotFound);
            let Some(made) = made.get(name).filter(|_| is_missing) else { break answer };
            // The alias is not seen yet, but the CMK is ours to name.
            match describe(upstream, deadline, &made).await {
                Err(failure) if failure.kind == ErrorKind::NotFound => {
                    if !look_again(deadline).await {
                        break Err(not_seen(failure));
                    }
                }
                answer => break answer,
            }
        };
        let metadata = match answer {
            Ok(metadata) => metadata,
            Err(failure) if failure.kind == ErrorKind::NotFound => {
                if let Some(known) = self.known(name) {
                    known.wipe();
                }
                self.forget(name);
                return Err(Error::new(ErrorKind::NotFound, format!("look up key '{name}'")));
            }
            Err(failure) => return Err(failure.into_error(format!("look up key '{name}'"))),
        };
        let known = self.known(name);
        let mut view = View::new(name, &metadata, known.as_ref());
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

    /// Puts what was done here a moment ago above what AWS shows, which may be older.
    fn believe_deletion(&self, view: &mut View) {
        let (id, deleted) = (&view.cmk.id, &self.backend.deleted);
        if view.state == KeyState::Disabled {
            // Only a CMK that is enabled can be deleted here, so its deletion was cancelled.
            deleted.forget(id);
        }
        if deleted.get(id).is_some() {
            view.state = KeyState::PendingDeletion;
            view.cmk.set_deleted(true);
        } else if view.cmk.is_deleted() {
            view.cmk.set_deleted(false);
        }
    }

    fn slot(&self, name: &KeyName) -> Arc<Slot> {
        let slots = self.slots.pin();
        let slot = Arc::clone(slots.get_or_insert_with(name.clone(), Arc::default));
        self.backend.touch(&slot.used);
        slot
    }

    fn forget(&self, name: &KeyName) {
        if let Some(slot) = self.slots.pin().remove(name) {
            slot.flight.clear();
        }
    }

    /// Drops what nobody used for long. Where there are very many working keys, drops those used longest ago.
    fn sweep(&self) {
        let config = &self.backend.config;
        let (now, idle) = (self.backend.millis(), u64::try_from(IDLE.as_millis()).unwrap_or(u64::MAX));
        let is_idle = |used: u64| now.saturating_sub(used) >= idle;
        let (mut opened, mut unknown) = (Vec::new(), Vec::new());
        for (name, slot) in &self.slots.pin() {
            let used = slot.used.load(Ordering::Relaxed);
            let cmk = slot.flight.get().map(|held| Arc::clone(&held.cmk));
            match cmk {
                Some(cmk) if is_idle(used) => self.doubt(&cmk),
                Some(cmk) => {
                    cmk.drop_ended(config.reuse, config.offline);
                    for (blob, entry) in &cmk.opened.pin() {
                        opened.push((entry.used.load(Ordering::Relaxed), Arc::clone(&cmk), blob.clone()));
                    }
                }
                None if is_idle(used) => self.forget(name),
                None => unknown.push((used, name.clone())),
            }
        }
        unknown.sort_unstable_by_key(|(used, _)| *used);
        let excess = unknown.len().saturating_sub(MOST_UNKNOWN);
        unknown.iter().take(excess).for_each(|(_, name)| self.forget(name));
        opened.sort_unstable_by_key(|(used, ..)| *used);
        let excess = opened.len().saturating_sub(MOST_OPENED);
        for (place, (used, cmk, blob)) in opened.into_iter().enumerate() {
            let goes = place < excess || is_idle(used);
            if goes && let Some(entry) = cmk.opened.pin().remove(&blob) {
                entry.flight.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kms_core::Identity;

    use super::*;
    use crate::client::{Upstream, load};
    use crate::config::{AwsConnection, Credentials};
    use crate::kms::config::AwsConfig;

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
        Names::start(Backend::new(AwsConfig::new(connection), upstream))
    }

    #[tokio::test]
    async fn names_of_which_nothing_is_known_have_a_bound() {
        let names = names().await;
        let name = |n: usize| KeyName::new(format!("unknown-{n}")).unwrap();
        for n in 0..MOST_UNKNOWN + 500 {
            // Used one after the other.
            names.slot(&name(n)).used.store(n as u64, Ordering::Relaxed);
        }
        names.sweep();
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
        let counted = names.backend.counters.numbers(names.cached());
        assert_eq!((counted.hits, counted.misses), (0, 1));
        assert_eq!((counted.reads, counted.failed_reads), (1, 1));
    }
}
