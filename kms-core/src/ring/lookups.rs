//! Bounds the reads whose only reason is a ciphertext that names a version nobody knows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::identity::Identity;
use crate::name::KeyName;
use crate::sync::Mutex;

/// The most such reads of one key for one identity in a [`WINDOW`].
const MOST: usize = 10;
const WINDOW: Duration = Duration::from_secs(1);

/// When the last reads began.
#[derive(Default)]
pub struct Lookups(Mutex<BTreeMap<(KeyName, Identity), VecDeque<Instant>>>);

impl Lookups {
    /// Counts a read that begins now, unless there were too many.
    pub fn admit(&self, name: &KeyName, identity: Identity) -> bool {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, began| began.back().is_some_and(|last| now.duration_since(*last) < WINDOW));
        let began = all.entry((name.clone(), identity)).or_default();
        while began.front().is_some_and(|first| now.duration_since(*first) >= WINDOW) {
            began.pop_front();
        }
        let is_admitted = began.len() < MOST;
        if is_admitted {
            began.push_back(now);
        }
        is_admitted
    }
}
