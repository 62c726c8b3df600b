//! The bounds on backend calls.

use std::sync::Arc;
use std::time::Duration;

use shuttle::future::{spawn, yield_now};

use super::super::gate::Gate;
use super::check;
use super::fixtures::request;
use crate::error::ErrorKind;
use crate::identity::{Identity, Request};
use crate::sync::{AtomicUsize, Ordering};

const ALL: usize = 2;

/// The number of calls that are under way, in all and of one client, and of those that are done.
#[derive(Default)]
struct Calls {
    all: AtomicUsize,
    of_one: AtomicUsize,
    done: AtomicUsize,
}

impl Calls {
    async fn make(&self, of_one: bool) {
        assert!(self.all.fetch_add(1, Ordering::SeqCst) < ALL, "too many calls");
        if of_one {
            assert_eq!(self.of_one.fetch_add(1, Ordering::SeqCst), 0, "two calls of one client");
        }
        yield_now().await;
        if of_one {
            self.of_one.fetch_sub(1, Ordering::SeqCst);
        }
        self.all.fetch_sub(1, Ordering::SeqCst);
        self.done.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn calls_are_bounded_and_all_of_them_end() {
    check(|| async {
        let (gate, calls) = (Gate::new(ALL, 1), Arc::new(Calls::default()));
        let clients = ["greedy", "greedy", "greedy", "other"].map(|who| {
            let (gate, calls) = (Arc::clone(&gate), Arc::clone(&calls));
            spawn(async move {
                let pass = gate.pass(&request(who)).await.unwrap();
                calls.make(who == "greedy").await;
                drop(pass);
            })
        });
        if let Some(pass) = gate.try_background_pass() {
            calls.make(false).await;
            drop(pass);
        }
        for client in clients {
            client.await.unwrap();
        }
        assert!(calls.done.load(Ordering::SeqCst) >= 4);
        assert_eq!(gate.identities(), 0, "who has no calls is forgotten");
    });
}

#[test]
fn a_call_counts_until_it_ends_although_its_caller_left() {
    check(|| async {
        let (gate, calls) = (Gate::new(ALL, 1), Arc::new(Calls::default()));
        let make = |calls: &Arc<Calls>| {
            let calls = Arc::clone(calls);
            async move {
                calls.make(true).await;
                Ok(())
            }
        };
        let (request, waiter) = request("greedy").awaited();
        let impatient = {
            let (gate, call) = (Arc::clone(&gate), make(&calls));
            spawn(async move { gate.run(&request, call).await })
        };
        let soon = Request::new(Identity::of_public_key(b"greedy"), Duration::from_secs(1));
        let hurried = {
            let (gate, call) = (Arc::clone(&gate), make(&calls));
            spawn(async move { gate.run(&soon, call).await })
        };
        let patient = {
            let (gate, call) = (Arc::clone(&gate), make(&calls));
            spawn(async move { gate.run(&super::fixtures::request("greedy"), call).await })
        };
        yield_now().await;
        impatient.abort();
        drop(waiter);
        let hurried = hurried.await.unwrap();
        assert!(hurried.is_ok() || hurried.unwrap_err().kind() == ErrorKind::Throttled);
        patient.await.unwrap().unwrap();
        // The last caller has room once all calls have ended, also those whose callers left.
        let pass = gate.pass(&super::fixtures::request("greedy")).await.unwrap();
        assert_eq!(calls.all.load(Ordering::SeqCst), 0);
        drop(pass);
        while gate.identities() > 0 {
            yield_now().await;
        }
    });
}
