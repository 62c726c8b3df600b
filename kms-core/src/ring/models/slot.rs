//! The place of one key: which reads begin there, and which of them bring a key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shuttle::thread;

use super::super::key::CachedKey;
use super::super::slot::Slot;
use super::fixtures::key;
use super::{CacheConfig, check};
use crate::single_flight::{Flight, Turn};
use crate::sync::{AtomicUsize, Ordering};

const OLD: Duration = Duration::from_secs(400);

/// Begins the first read of a slot.
fn start(slot: &Slot) -> Flight<CachedKey> {
    let Turn::Fetch(read) = slot.start(None, &CacheConfig::default()) else {
        unreachable!("nothing is under way")
    };
    read
}

#[test]
fn one_read_at_a_time_begins() {
    check(|| async {
        let slot = Arc::new(Slot::default());
        let running = Arc::new(AtomicUsize::new(0));
        let readers = [0, 1, 2].map(|_| {
            let (slot, running) = (Arc::clone(&slot), Arc::clone(&running));
            thread::spawn(move || {
                if let Turn::Fetch(read) = slot.start(None, &CacheConfig::default()) {
                    assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two reads at once");
                    thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                    let finished = slot.finish(&read, Ok(key()));
                    read.announce(finished.map(|finished| finished.outcome));
                }
            })
        });
        for reader in readers {
            reader.join().unwrap();
        }
        assert!(slot.key().is_some());
    });
}

#[test]
fn a_read_older_than_a_create_or_a_delete_brings_nothing() {
    check(|| async {
        let slot = Arc::new(Slot::default());
        let read = start(&slot);
        let reader = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || slot.finish(&read, Ok(key())).is_none())
        };
        slot.forget();
        assert!(slot.key().is_none(), "deleted");
        let is_stale = reader.join().unwrap();
        assert!(slot.key().is_none(), "deleted; the read was stale: {is_stale}");

        let slot = Arc::new(Slot::default());
        let read = start(&slot);
        let reader = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || slot.finish(&read, Ok(key())).is_none())
        };
        let created = key();
        let fingerprint = *created.fingerprint();
        slot.publish_new(created, Instant::now());
        reader.join().unwrap();
        assert_eq!(*slot.key().unwrap().fingerprint(), fingerprint, "the key that was created is the one");
    });
}

#[test]
fn a_key_that_was_read_anew_does_not_end_with_the_old_one() {
    check(|| async {
        for offline in [Duration::ZERO, 2 * OLD] {
            let config = CacheConfig { offline, ..CacheConfig::default() };
            let slot = Arc::new(Slot::default());
            slot.publish_new(key(), Instant::now().checked_sub(OLD).unwrap());
            let read = start(&slot);
            let sweep = {
                let slot = Arc::clone(&slot);
                thread::spawn(move || {
                    slot.due(Instant::now(), Duration::ZERO, &config, None);
                })
            };
            slot.finish(&read, Ok(key()));
            sweep.join().unwrap();
            assert!(slot.fresh(Instant::now(), &config).is_some());
        }
    });
}
