//! The keys that the store lost, and that are in memory here.
//!
//! What is kept here may be the last copy of a key. So nothing but the store decides when it goes: the key is there again, or
//! a note says that somebody removed it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::slot::HeldKey;
use super::versions::Versions;
use crate::error::{Error, ErrorKind};
use crate::name::KeyName;
use crate::primitives::Fingerprint;
use crate::status::StoreStatus;
use crate::sync::{AtomicUsize, Mutex, MutexGuard, Ordering};
use crate::transfer::former_name;

/// How long the log does not repeat the same loss.
const PAUSE: Duration = Duration::from_secs(300);
/// The most names that the status shows.
const TOLD: usize = 3;

/// What is known of a key that was found missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its notes could not be read yet, so nobody knows whether it was removed.
    Unknown,
    /// It is lost, and served.
    Served,
    /// It is lost, and another key has its name. That key is served, and has this fingerprint if it can be read.
    Displaced(Option<Fingerprint>),
    /// The key is in the store, and later versions of it are lost.
    Lacks,
}

/// Remembers the keys that were found missing, with the keys themselves.
#[derive(Default)]
pub struct Losses {
    /// The number of names. Whoever reads a key looks here first, so no lock is taken while there are none.
    count: AtomicUsize,
    names: Mutex<BTreeMap<KeyName, Vec<Loss>>>,
}

struct Loss {
    key: HeldKey,
    standing: Standing,
    told: Option<Instant>,
    tried: Instant,
}

impl Losses {
    /// Returns whether a key of this name was found missing.
    pub fn has(&self, name: &KeyName) -> bool {
        !self.is_empty() && self.lock().contains_key(name)
    }

    /// Returns the keys of this name that were found missing, and what is known of each.
    pub fn of(&self, name: &KeyName) -> Vec<(HeldKey, Standing)> {
        if self.is_empty() {
            return Vec::new();
        }
        let names = self.lock();
        let losses = names.get(name).into_iter().flatten();
        losses.map(|loss| (Arc::clone(&loss.key), loss.standing)).collect()
    }

    /// Returns the lost key that is served under this name.
    pub fn served(&self, name: &KeyName) -> Option<HeldKey> {
        let mut losses = self.of(name).into_iter();
        losses.find(|(_, standing)| *standing == Standing::Served).map(|(key, _)| key)
    }

    /// Returns the later versions of a key of which some are lost.
    pub fn versions_of(&self, name: &KeyName, first: &Fingerprint) -> Option<Arc<Versions>> {
        let mut losses = self.of(name).into_iter();
        losses.find(|(key, _)| key.fingerprint() == first).and_then(|(key, _)| key.versions.clone())
    }

    /// Returns the names under which lost keys are served.
    pub fn served_names(&self) -> Vec<KeyName> {
        if self.is_empty() {
            return Vec::new();
        }
        let names = self.lock();
        let is_served = |losses: &[Loss]| losses.iter().any(|loss| loss.standing == Standing::Served);
        names.iter().filter(|(_, losses)| is_served(losses)).map(|(name, _)| name.clone()).collect()
    }

    /// Keeps a key of which nobody knows whether it was removed.
    pub fn suspect(&self, name: &KeyName, key: HeldKey) {
        let mut names = self.lock();
        let losses = names.entry(name.clone()).or_default();
        if losses.iter().all(|loss| loss.key.fingerprint() != key.fingerprint()) {
            losses.push(Loss { key, standing: Standing::Unknown, told: None, tried: Instant::now() });
        }
        self.count.store(names.len(), Ordering::Release);
    }

    /// Keeps a key that the store lost, and says so in the log.
    pub fn note(&self, name: &KeyName, key: &HeldKey, standing: Standing) {
        self.suspect(name, Arc::clone(key));
        let mut names = self.lock();
        let losses = names.get_mut(name).into_iter().flatten();
        for loss in losses.filter(|loss| loss.key.fingerprint() == key.fingerprint()) {
            loss.tried = Instant::now();
            if loss.standing != standing {
                (loss.standing, loss.told) = (standing, Some(loss.tried));
                tell(name, loss);
            }
        }
    }

    /// Gives up a key that is in the store again, or that somebody removed. Returns whether it counted as lost.
    pub fn clear(&self, name: &KeyName, fingerprint: &Fingerprint) -> bool {
        if self.is_empty() {
            return false;
        }
        let mut names = self.lock();
        let Some(losses) = names.get_mut(name) else { return false };
        let mut was_lost = false;
        losses.retain(|loss| {
            let goes = loss.key.fingerprint() == fingerprint;
            was_lost |= goes && loss.standing != Standing::Unknown;
            !goes
        });
        if losses.is_empty() {
            names.remove(name);
        }
        self.count.store(names.len(), Ordering::Release);
        was_lost
    }

    /// Returns up to `most` names that nobody has tried to read for `pause`. Notes that they are tried now.
    pub fn due(&self, most: usize, pause: Duration, now: Instant) -> Vec<KeyName> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut names = self.lock();
        let is_due =
            |losses: &[Loss]| losses.iter().all(|loss| now.saturating_duration_since(loss.tried) >= pause);
        let due = names.iter_mut().filter(|(_, losses)| is_due(losses)).take(most);
        due.map(|(name, losses)| {
            for loss in losses.iter_mut() {
                loss.tried = now;
            }
            name.clone()
        })
        .collect()
    }

    /// Repeats in the log what is lost still.
    pub fn tell_again(&self, now: Instant) {
        if self.is_empty() {
            return;
        }
        for (name, losses) in &mut *self.lock() {
            for loss in losses {
                if loss.told.is_some_and(|told| now.saturating_duration_since(told) >= PAUSE) {
                    loss.told = Some(now);
                    tell(name, loss);
                }
            }
        }
    }

    /// Returns the status, degraded by the keys that are lost.
    pub fn add_to(&self, status: StoreStatus) -> StoreStatus {
        match self.describe() {
            None => status,
            Some(why) => status.degraded(why),
        }
    }

    /// Returns the number of lost keys and a few names as text; `None` if there are none.
    fn describe(&self) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let names = self.lock();
        let is_lost = |losses: &[Loss]| losses.iter().any(|loss| loss.standing != Standing::Unknown);
        let lost: Vec<_> = names.iter().filter(|(_, losses)| is_lost(losses)).map(|(name, _)| name).collect();
        let mut text = match lost.len() {
            0 => return None,
            1 => "the key store lost 1 key that this server has in memory: ".to_owned(),
            count => format!("the key store lost {count} keys that this server has in memory: "),
        };
        for (index, name) in lost.iter().take(TOLD).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let _ = write!(text, "{comma}{name}"); // a String takes everything
        }
        if lost.len() > TOLD {
            let _ = write!(text, " and {} more", lost.len() - TOLD);
        }
        text.push_str(" (do not restart this server before 'kms key restore' wrote them back)");
        Some(text)
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<KeyName, Vec<Loss>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(name: &KeyName, loss: &Loss) {
    let fingerprint = loss.key.fingerprint();
    match loss.standing {
        Standing::Unknown => warn!(key = %name, ?fingerprint, "whether the key was removed is not known yet"),
        Standing::Served => error!(
            key = %name, ?fingerprint,
            "the key store lost the key: it is gone, and nobody removed it. This server has it in memory and serves it. Do not \
             restart this server before 'kms key restore {name}' has written it back"
        ),
        Standing::Lacks => error!(
            key = %name, ?fingerprint,
            "the key store lost versions of the key, which this server has in memory. Do not restart this server before \
             'kms key restore {name}' has written them back"
        ),
        Standing::Displaced(other) => {
            let kept = former_name(name, fingerprint);
            let kept = kept.map_or_else(|_| "another name".to_owned(), |kept| format!("'{kept}'"));
            error!(
                key = %name, ?fingerprint, fingerprint_now = ?other,
                "the key store lost the key, and another one has its name. This server has the lost key in memory and does not \
                 serve it. Do not restart this server before 'kms key restore {name}' has written it under {kept}"
            );
        }
    }
}

/// Creates the error of what cannot be done with a lost key before it was written back.
pub fn lost(name: &KeyName) -> Error {
    let why = format!("the key store lost the key: 'kms key restore {name}' writes it back first");
    Error::with_source(ErrorKind::Conflict, format!("use key '{name}'"), why)
}
