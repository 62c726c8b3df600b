//! The rules for deleted keys that two services of one store see.

use std::sync::Arc;

use super::fixture::{key, request};
use crate::deletion::Purge;
use crate::error::{Error, ErrorKind};
use crate::kms::Kms;
use crate::name::KeyName;
use crate::primitives::seal::DataKey;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Create,
    Delete,
    Restore,
    Purge,
}

/// What the steps so far leave.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Gone,
    Live,
    Deleted,
}

/// Checks that deletes, creates, restores and purges of two services over one store have the same meaning in each order.
///
/// The services [keep deleted keys](crate::Capabilities::keeps_deleted), and their
/// [`CacheConfig::any`](crate::CacheConfig::any) is zero. They may be one and the same, if only one can open the store.
///
/// # Panics
///
/// If a service breaks a rule, or if there is no current tokio runtime.
pub async fn deletions(one: Arc<dyn Kms>, other: Arc<dyn Kms>) {
    let mut running = Vec::new();
    for (number, steps) in orders().into_iter().enumerate() {
        let (one, other) = (Arc::clone(&one), Arc::clone(&other));
        running.push(tokio::spawn(async move {
            run(&[&*one, &*other], &key(&format!("contract-order-{number}")), &steps).await;
        }));
    }
    for order in running {
        if let Err(failed) = order.await {
            std::panic::resume_unwind(failed.into_panic());
        }
    }
}

/// Returns each order of the four steps.
fn orders() -> Vec<Vec<Step>> {
    let mut orders = vec![Vec::new()];
    for _ in 0..4 {
        orders = orders
            .into_iter()
            .flat_map(|order: Vec<Step>| {
                let left = [Step::Create, Step::Delete, Step::Restore, Step::Purge];
                let left = left.into_iter().filter(|step| !order.contains(step)).collect::<Vec<_>>();
                left.into_iter().map(move |step| [order.as_slice(), &[step]].concat())
            })
            .collect();
    }
    orders
}

/// Takes the steps after a create and a delete, by turns on both services, and asks both after each.
async fn run(services: &[&dyn Kms; 2], name: &KeyName, steps: &[Step]) {
    let can_purge = !matches!(
        services[0].purge(&request(), name, &Purge::default()).await,
        Err(error) if error.kind() == ErrorKind::Unsupported
    );
    let mut state = State::Gone;
    let mut sealed = None;
    let steps = [&[Step::Create, Step::Delete], steps].concat();
    for (number, step) in steps.iter().enumerate() {
        let at = || format!("{name}, step {number} of {steps:?} in the state {state:?}");
        let service = services[number % 2];
        let outcome = take(service, name, *step).await;
        let (expected, next) = match (step, state) {
            (Step::Purge, _) if !can_purge => (Some(ErrorKind::Unsupported), state),
            (Step::Create, State::Gone) | (Step::Restore, State::Deleted) => (None, State::Live),
            (Step::Create, _) => (Some(ErrorKind::AlreadyExists), state),
            (_, State::Gone) => (Some(ErrorKind::NotFound), state),
            (Step::Delete, State::Live) => (None, State::Deleted),
            (Step::Delete, State::Deleted) => (Some(ErrorKind::Deleted), state),
            (Step::Purge, State::Deleted) => (None, State::Gone),
            (Step::Restore | Step::Purge, State::Live) => (Some(ErrorKind::Conflict), state),
        };
        let kind = outcome.as_ref().err().map(Error::kind);
        assert_eq!(kind, expected, "{}: {outcome:?}", at());
        state = next;
        if *step == Step::Create && expected.is_none() {
            sealed = Some(
                services[(number + 1) % 2].generate(&request(), name, b"c").await.expect("generate a DEK"),
            );
        }
        for service in services {
            check(*service, name, state, sealed.as_ref()).await;
        }
    }
    match state {
        State::Live => drop(services[0].delete(&request(), name).await.expect("delete a key")),
        State::Deleted | State::Gone => {}
    }
}

async fn take(service: &dyn Kms, name: &KeyName, step: Step) -> Result<(), Error> {
    match step {
        Step::Create => service.create(&request(), name).await,
        Step::Delete => service.delete(&request(), name).await.map(drop),
        Step::Restore => service.restore(&request(), name, false).await,
        Step::Purge => {
            let now = Purge { now: true, ..Purge::default() };
            service.purge(&request(), name, &now).await.map(drop)
        }
    }
}

/// Checks that a service shows the state, and that the last key that was made opens what it sealed.
async fn check(service: &dyn Kms, name: &KeyName, state: State, sealed: Option<&DataKey>) {
    let Some(sealed) = sealed else { return };
    let opened = service.decrypt(&request(), name, &sealed.ciphertext, b"c").await;
    match (state, opened) {
        (State::Live, Ok(opened)) => {
            assert!(opened.expose() == sealed.plaintext.expose(), "{name}: a DEK opens to what it was");
        }
        (State::Deleted, Err(error)) if error.kind() == ErrorKind::Deleted => {}
        (State::Gone, Err(error)) if error.kind() == ErrorKind::NotFound => {}
        (_, Ok(_)) => panic!("{name}: a DEK of a key in the state {state:?} opened"),
        (_, Err(error)) => panic!("{name}: opening a DEK in the state {state:?}: {error:?}"),
    }
}
