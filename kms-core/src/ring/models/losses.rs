//! Reads, creates and sweeps beside a loss or a removal of the key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shuttle::future::spawn;

use super::fixtures::{name, request};
use super::store::Store;
use super::{CacheConfig, Ring, check, over};
use crate::error::ErrorKind;
use crate::kms::Kms as _;

/// Begins reads that begin now or later, as requests and notices do.
fn reader(ring: &Ring, who: &'static str) -> shuttle::future::JoinHandle<()> {
    let ring = Arc::clone(ring);
    spawn(async move {
        let request = request(who);
        let _ = ring.cache.fetch(&request, &name(), Some(request.received)).await;
        ring.cache.read_again(&name(), Instant::now()).await;
    })
}

#[test]
fn a_lost_key_is_served_and_nothing_takes_its_place() {
    // Each sweep finds that the key is out of use.
    let unused = CacheConfig::default().with_unused(Duration::ZERO);
    for config in [CacheConfig::default(), unused] {
        check(move || async move {
            let (ring, store) = over(Store::noting(), config);
            let there = store.replace();
            let client = request("client");
            let held = ring.cache.fetch(&client, &name(), None).await.unwrap();
            ring.cache.losses.suspect(&name(), held);
            store.lose();
            let readers = ["a", "b"].map(|who| reader(&ring, who));
            let create = spawn({
                let ring = Arc::clone(&ring);
                async move { ring.create(&request("creator"), &name()).await }
            });
            let created = create.await.unwrap();
            assert_eq!(created.unwrap_err().kind(), ErrorKind::AlreadyExists);
            for reader in readers {
                reader.await.unwrap();
            }
            assert_eq!(ring.served(&client).await.unwrap(), there);
            assert_eq!(store.fingerprint(), None);
        });
    }
}

#[test]
fn a_removal_is_never_taken_for_a_loss() {
    check(|| async {
        let (ring, store) = over(Store::noting(), CacheConfig::default());
        store.replace();
        ring.served(&request("client")).await.unwrap();
        let readers = ["a", "b"].map(|who| reader(&ring, who));
        store.remove_noting();
        ring.cache.read_again(&name(), Instant::now()).await;
        assert_eq!(ring.served(&request("c")).await.unwrap_err().kind(), ErrorKind::NotFound);
        for reader in readers {
            reader.await.unwrap();
        }
        assert!(!ring.cache.losses.has(&name()));
        assert_eq!(ring.served(&request("c")).await.unwrap_err().kind(), ErrorKind::NotFound);
    });
}
