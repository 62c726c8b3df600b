//! The single flight by itself: one fetch for all who wait, also when some leave or a value is put in meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shuttle::future::{JoinHandle, spawn};

use super::check;
use super::fixtures::FAR;
use crate::error::{Error, ErrorKind, Result};
use crate::single_flight::{SingleFlight, Wanted};
use crate::sync::{AtomicU64, Ordering, sleep};

/// A source whose value is the number of changes that it has seen.
#[derive(Default)]
struct Source {
    changes: AtomicU64,
    fetching: AtomicU64,
    fetches: AtomicU64,
    failures: AtomicU64,
}

impl Source {
    async fn fetch(self: Arc<Self>) -> Result<u64> {
        assert_eq!(self.fetching.fetch_add(1, Ordering::SeqCst), 0, "two fetches at once");
        sleep(Duration::ZERO).await;
        let seen = self.changes.load(Ordering::SeqCst);
        let fails = self.fetches.fetch_add(1, Ordering::SeqCst) < self.failures.load(Ordering::SeqCst);
        sleep(Duration::ZERO).await;
        self.fetching.fetch_sub(1, Ordering::SeqCst);
        if fails { Err(Error::new(ErrorKind::Unreachable, "fetch")) } else { Ok(seen) }
    }
}

type Flight = Arc<SingleFlight<u64>>;

async fn get(flight: &Flight, source: &Arc<Source>, after: Option<Instant>) -> Result<u64> {
    let wanted = Wanted { after, deadline: Instant::now() + FAR, operation: "fetch" };
    let fetch = || Arc::clone(source).fetch();
    flight.fetch(wanted, |_| true, async || Ok(()), fetch).await.map(|held| **held)
}

fn getter(flight: &Flight, source: &Arc<Source>) -> JoinHandle<Result<u64>> {
    let (flight, source) = (Arc::clone(flight), Arc::clone(source));
    spawn(async move { get(&flight, &source, None).await })
}

fn new() -> (Flight, Arc<Source>) {
    (Arc::default(), Arc::default())
}

#[test]
fn one_fetch_serves_all_and_goes_on_when_whoever_began_it_leaves() {
    check(|| async {
        let (flight, source) = new();
        let impatient = getter(&flight, &source);
        let waiting = [getter(&flight, &source), getter(&flight, &source)];
        impatient.abort();
        for getter in waiting {
            assert_eq!(getter.await.unwrap().unwrap(), 0);
        }
        assert_eq!(source.fetches.load(Ordering::SeqCst), 1);
        assert_eq!(flight.get().map(|held| **held), Some(0));
    });
}

#[test]
fn a_failed_fetch_is_not_kept() {
    check(|| async {
        let (flight, source) = new();
        source.failures.store(1, Ordering::SeqCst);
        for getter in [getter(&flight, &source), getter(&flight, &source)] {
            let _ = getter.await.unwrap();
        }
        assert_eq!(get(&flight, &source, None).await.unwrap(), 0);
        assert_eq!(source.fetches.load(Ordering::SeqCst), 2, "one that failed, and one");
    });
}

#[test]
fn a_fetch_that_was_asked_for_began_late_enough() {
    check(|| async {
        let (flight, source) = new();
        let early = getter(&flight, &source);
        flight.refresh(|| Arc::clone(&source).fetch());
        source.changes.store(1, Ordering::SeqCst);
        assert_eq!(get(&flight, &source, Some(Instant::now())).await.unwrap(), 1);
        early.await.unwrap().unwrap();
        assert_eq!(flight.get().map(|held| **held), Some(1), "an older fetch brings the old value back");
    });
}

#[test]
fn a_value_that_is_put_in_outdates_what_is_fetched() {
    check(|| async {
        let (flight, source) = new();
        let getters = [getter(&flight, &source), getter(&flight, &source)];
        source.changes.store(7, Ordering::SeqCst);
        flight.put(7, Instant::now());
        for getter in getters {
            assert!([0, 7].contains(&getter.await.unwrap().unwrap()));
        }
        assert_eq!(get(&flight, &source, None).await.unwrap(), 7);
    });
}
