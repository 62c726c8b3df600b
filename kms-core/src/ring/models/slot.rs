//! The place of one key: what is under way, and what it may bring.

use std::sync::Arc;
use std::time::Duration;

use shuttle::thread;

use super::super::slot::{Slot, Start};
use super::{CacheConfig, check, key};
use crate::sync::{AtomicUsize, Ordering};

const OLD: Duration = Duration::from_secs(400);

#[test]
fn one_read_at_a_time_begins() {
    check(|| async {
        let slot = Arc::new(Slot::default());
        let running = Arc::new(AtomicUsize::new(0));
        let readers = [0, 1, 2].map(|_| {
            let (slot, running) = (Arc::clone(&slot), Arc::clone(&running));
            thread::spawn(move || {
                if let Start::Go(sender, _, epoch) = slot.start(None) {
                    assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two reads at once");
                    thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                    let outcome = Ok(key(Duration::ZERO));
                    slot.finish(epoch, &outcome);
                    sender.send_replace(Some(outcome));
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
        let Start::Go(_sender, _, epoch) = slot.start(None) else { unreachable!("nothing is under way") };
        let reader = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || slot.finish(epoch, &Ok(key(Duration::ZERO))).is_stale)
        };
        slot.forget();
        assert!(slot.key().is_none(), "deleted");
        let is_stale = reader.join().unwrap();
        assert!(slot.key().is_none(), "deleted; the read was stale: {is_stale}");

        let slot = Arc::new(Slot::default());
        let Start::Go(_sender, _, epoch) = slot.start(None) else { unreachable!("nothing is under way") };
        let reader = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || slot.finish(epoch, &Ok(key(Duration::ZERO))).is_stale)
        };
        let created = key(Duration::ZERO);
        slot.publish_new(Arc::clone(&created));
        reader.join().unwrap();
        assert!(Arc::ptr_eq(&slot.key().unwrap(), &created), "the key that was created is the one");
    });
}

#[test]
fn a_key_that_was_read_anew_does_not_end_with_the_old_one() {
    check(|| async {
        for offline in [Duration::ZERO, 2 * OLD] {
            let config = CacheConfig { offline, ..CacheConfig::default() };
            let slot = Arc::new(Slot::default());
            slot.publish_new(key(OLD));
            let Start::Go(_sender, _, epoch) = slot.start(None) else { unreachable!("nothing is under way") };
            let sweep = {
                let slot = Arc::clone(&slot);
                thread::spawn(move || {
                    slot.due(std::time::Instant::now(), Duration::ZERO, &config);
                })
            };
            slot.finish(epoch, &Ok(key(Duration::ZERO)));
            sweep.join().unwrap();
            assert!(slot.fresh(std::time::Instant::now(), &config).is_some());
        }
    });
}
