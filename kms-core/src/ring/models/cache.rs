//! Reads of a key beside creates and deletes of it.

use std::sync::Arc;
use std::time::Instant;

use shuttle::future::spawn;

use super::fixtures::{name, request};
use super::{CacheConfig, Ring, check, ring};
use crate::error::ErrorKind;
use crate::kms::Kms as _;
use crate::sync::Ordering;

/// Starts a client that asks for the key twice. Any outcome is right.
fn reader(ring: &Ring, who: &'static str) -> shuttle::future::JoinHandle<()> {
    let ring = Arc::clone(ring);
    spawn(async move {
        for _ in 0..2 {
            let _ = ring.served(&request(who)).await;
        }
    })
}

#[test]
fn all_who_wait_for_a_key_are_served_by_one_read_at_a_time() {
    check(|| async {
        let (ring, store) = ring(CacheConfig::default());
        let there = store.replace();
        let clients = ["a", "b", "c"].map(|who| {
            let ring = Arc::clone(&ring);
            spawn(async move { ring.served(&request(who)).await })
        });
        for client in clients {
            assert_eq!(client.await.unwrap().unwrap(), there);
        }
        assert_eq!(store.most_reading.load(Ordering::SeqCst), 1);
        let hits = ring.counters().hits;
        ring.served(&request("a")).await.unwrap();
        assert_eq!(ring.counters().hits, hits + 1, "what was read is in memory");
    });
}

#[test]
fn a_key_whose_delete_was_answered_is_gone() {
    check(|| async {
        let (ring, store) = ring(CacheConfig::default());
        store.replace();
        let readers = ["a", "b"].map(|who| reader(&ring, who));
        ring.delete(&request("admin"), &name()).await.unwrap();
        assert_eq!(ring.served(&request("c")).await.unwrap_err().kind(), ErrorKind::NotFound);
        for reader in readers {
            reader.await.unwrap();
        }
        assert_eq!(ring.served(&request("c")).await.unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn a_key_whose_create_was_answered_is_there() {
    check(|| async {
        let (ring, store) = ring(CacheConfig::default());
        let readers = ["a", "b"].map(|who| reader(&ring, who));
        ring.create(&request("admin"), &name()).await.unwrap();
        assert_eq!(ring.served(&request("c")).await.ok(), store.fingerprint());
        for reader in readers {
            reader.await.unwrap();
        }
        assert_eq!(ring.served(&request("c")).await.ok(), store.fingerprint());
    });
}

#[test]
fn creates_and_deletes_at_once_leave_what_is_in_the_store() {
    check(|| async {
        let (ring, store) = ring(CacheConfig::default());
        let create = |ring: Ring| async move { ring.create(&request("a"), &name()).await };
        let delete = |ring: Ring| async move { ring.delete(&request("b"), &name()).await };
        let creates = [spawn(create(Arc::clone(&ring))), spawn(create(Arc::clone(&ring)))];
        let delete = spawn(delete(Arc::clone(&ring)));
        let reader = reader(&ring, "c");
        let mut done = 0;
        for create in creates {
            done += usize::from(create.await.unwrap().is_ok());
        }
        let was_deleted = delete.await.unwrap().is_ok();
        reader.await.unwrap();
        assert!(
            done <= 1 + usize::from(was_deleted),
            "no two creates of one name are said to have been done"
        );
        assert_eq!(ring.served(&request("d")).await.ok(), store.fingerprint());
    });
}

#[test]
fn a_read_that_was_asked_for_began_after_the_request() {
    check(|| async {
        let (ring, store) = ring(CacheConfig::default());
        store.replace();
        let readers = ["a", "b"].map(|who| reader(&ring, who));
        let now = store.replace();
        let request = request("c");
        let read = ring.cache.fetch(&request, &name(), Some(request.received)).await.unwrap();
        assert_eq!(*read.fingerprint(), now);
        for reader in readers {
            reader.await.unwrap();
        }
        assert_eq!(ring.served(&request).await.unwrap(), now, "an older read brings the old key back");
    });
}

#[test]
fn what_a_notice_told_is_not_served_as_it_was_before() {
    check(|| async {
        let (ring, store) = ring(CacheConfig::default());
        store.replace();
        let readers = ["a", "b"].map(|who| reader(&ring, who));
        let now = store.replace();
        ring.cache.read_again(&name(), Instant::now()).await;
        assert_eq!(ring.served(&request("c")).await.unwrap(), now);
        for reader in readers {
            reader.await.unwrap();
        }
        assert_eq!(ring.served(&request("c")).await.unwrap(), now, "an older read brings the old key back");
    });
}
