//! The keys that exist and cannot be read, for the log and the status.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::error::ErrorKind;
use crate::name::KeyName;
use crate::status::StoreStatus;
use crate::sync::{AtomicUsize, Mutex, MutexGuard, Ordering};

/// The most names that are remembered.
const MOST: usize = 1024;
/// The most names that the status shows.
const TOLD: usize = 3;
/// How long the log does not repeat the same failure of the same key.
const PAUSE: Duration = Duration::from_secs(60);

/// Remembers the keys whose last read failed because of their content in the store.
#[derive(Default)]
pub struct Unreadable {
    /// The number of names. Reads that succeed look here first, so they take no lock while there are none.
    count: AtomicUsize,
    names: Mutex<Names>,
}

#[derive(Default)]
struct Names {
    known: BTreeMap<KeyName, Noted>,
    /// There were more than can be remembered.
    more: bool,
}

struct Noted {
    kind: ErrorKind,
    told: Instant,
    tried: Instant,
}

impl Unreadable {
    /// Notes that a key could not be read. Returns whether the log should say so.
    pub fn note(&self, name: &KeyName, kind: ErrorKind, now: Instant) -> bool {
        let mut names = self.lock();
        let is_full = names.known.len() >= MOST;
        if let Some(noted) = names.known.get_mut(name) {
            let tell = noted.kind != kind || now.saturating_duration_since(noted.told) >= PAUSE;
            let told = if tell { now } else { noted.told };
            *noted = Noted { kind, told, tried: now };
            return tell;
        }
        if is_full {
            names.more = true;
            return false;
        }
        names.known.insert(name.clone(), Noted { kind, told: now, tried: now });
        self.count.store(names.known.len(), Ordering::Release);
        true
    }

    /// Forgets a key that was read, or that is known to be gone.
    pub fn clear(&self, name: &KeyName) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut names = self.lock();
        if names.known.remove(name).is_some() {
            // Keys that found no room are noted when they are read again.
            names.more = false;
            self.count.store(names.known.len(), Ordering::Release);
        }
    }

    /// Returns up to `most` keys that nobody has tried to read for `pause`. Notes that they are tried now.
    pub fn due(&self, most: usize, pause: Duration, now: Instant) -> Vec<KeyName> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut names = self.lock();
        let due =
            names.known.iter_mut().filter(|(_, noted)| now.saturating_duration_since(noted.tried) >= pause);
        due.take(most)
            .map(|(name, noted)| {
                noted.tried = now;
                name.clone()
            })
            .collect()
    }

    /// Returns their number and a few names as text; `None` if there are none.
    pub fn describe(&self) -> Option<String> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let names = self.lock();
        let count = names.known.len();
        let mut text = match (count, names.more) {
            (0, _) => return None,
            (1, false) => "1 key cannot be read: ".to_owned(),
            (_, false) => format!("{count} keys cannot be read: "),
            (_, true) => format!("more than {count} keys cannot be read: "),
        };
        for (index, name) in names.known.keys().take(TOLD).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let _ = write!(text, "{comma}{name}");
        }
        if count > TOLD {
            let _ = write!(text, " and {} more", count - TOLD);
        }
        Some(text)
    }

    /// Returns the status, degraded by the keys that cannot be read.
    pub fn add_to(&self, status: StoreStatus) -> StoreStatus {
        match self.describe() {
            None => status,
            Some(why) => status.degraded(why),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[cfg(not(feature = "model"))]
mod tests {
    use super::*;

    fn name(n: usize) -> KeyName {
        KeyName::new(format!("key-{n:04}")).unwrap()
    }

    #[test]
    fn a_few_are_named_and_the_rest_is_counted() {
        let (unreadable, now) = (Unreadable::default(), Instant::now());
        assert_eq!(unreadable.describe(), None);
        let mut told = Vec::new();
        for n in 0..5 {
            unreadable.note(&name(n), ErrorKind::Corrupt, now);
            told.push(unreadable.describe().unwrap());
        }
        assert_eq!(told[0], "1 key cannot be read: key-0000");
        assert_eq!(told[1], "2 keys cannot be read: key-0000, key-0001");
        assert_eq!(told[4], "5 keys cannot be read: key-0000, key-0001, key-0002 and 2 more");
        (0..5).for_each(|n| unreadable.clear(&name(n)));
        assert_eq!(unreadable.describe(), None);
    }

    #[test]
    fn the_same_of_the_same_key_is_told_once_a_minute() {
        let (unreadable, now) = (Unreadable::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert!(unreadable.note(&name(1), ErrorKind::Corrupt, now));
        assert!(!unreadable.note(&name(1), ErrorKind::Corrupt, now + 59 * second));
        assert!(unreadable.note(&name(2), ErrorKind::Corrupt, now + 59 * second), "another key");
        assert!(unreadable.note(&name(1), ErrorKind::Denied, now + 59 * second), "another reason");
        assert!(unreadable.note(&name(1), ErrorKind::Denied, now + 119 * second));
        unreadable.clear(&name(1));
        assert!(unreadable.note(&name(1), ErrorKind::Denied, now + 120 * second), "it was well in between");
    }

    #[test]
    fn what_nobody_asks_for_is_tried_now_and_then() {
        let (unreadable, now) = (Unreadable::default(), Instant::now());
        (0..3).for_each(|n| {
            unreadable.note(&name(n), ErrorKind::Corrupt, now);
        });
        assert!(unreadable.due(2, PAUSE, now).is_empty());
        let later = now + PAUSE;
        assert_eq!(unreadable.due(2, PAUSE, later), [name(0), name(1)]);
        assert_eq!(unreadable.due(2, PAUSE, later), [name(2)]);
        assert!(unreadable.due(2, PAUSE, later).is_empty());
    }

    #[test]
    fn their_number_is_bounded() {
        let (unreadable, now) = (Unreadable::default(), Instant::now());
        (0..MOST + 10).for_each(|n| {
            unreadable.note(&name(n), ErrorKind::Corrupt, now);
        });
        assert_eq!(unreadable.lock().known.len(), MOST);
        assert!(unreadable.describe().unwrap().starts_with("more than 1024 keys cannot be read: key-0000, "));
        unreadable.clear(&name(0));
        assert!(unreadable.describe().unwrap().starts_with("1023 keys"));
    }
}
