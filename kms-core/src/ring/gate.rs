//! Bounds on what is asked of a backend at once: in all, and by one client.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Error, ErrorKind, Identity, Request, Result};

/// Lets a limited number of backend calls run at once; the rest queue inside their deadline.
pub struct Gate {
    all: Arc<Semaphore>,
    per_identity: usize,
    identities: Mutex<HashMap<Identity, Arc<Semaphore>>>,
}

/// Leave to make one backend call, given back when dropped.
pub struct Pass {
    _all: OwnedSemaphorePermit,
    // Fields are dropped in this order: the permit goes back before its identity is looked at.
    _own: Option<OwnedSemaphorePermit>,
    _tidy: Option<Tidy>,
}

impl Gate {
    /// Makes a gate for `all` calls at once, of which one identity may make `per_identity`.
    pub fn new(all: usize, per_identity: usize) -> Arc<Self> {
        Arc::new(Self { all: Arc::new(Semaphore::new(all)), per_identity, identities: Mutex::default() })
    }

    /// Waits for leave; fails with `Throttled` at the request's deadline.
    pub async fn pass(self: &Arc<Self>, request: &Request) -> Result<Pass> {
        let tidy = Tidy { gate: Arc::clone(self), identity: request.identity };
        let own = Arc::clone(
            self.lock()
                .entry(request.identity)
                .or_insert_with(|| Arc::new(Semaphore::new(self.per_identity))),
        );
        let own = within(request.deadline, own.acquire_owned()).await?;
        let all = within(request.deadline, Arc::clone(&self.all).acquire_owned()).await?;
        Ok(Pass { _all: all, _own: Some(own), _tidy: Some(tidy) })
    }

    /// Gives leave for background work, if a call is free right now.
    pub fn try_background_pass(&self) -> Option<Pass> {
        let all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Pass { _all: all, _own: None, _tidy: None })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Identity, Arc<Semaphore>>> {
        self.identities.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets an identity that has neither a call nor a waiter left.
struct Tidy {
    gate: Arc<Gate>,
    identity: Identity,
}

impl Drop for Tidy {
    fn drop(&mut self) {
        let mut identities = self.gate.lock();
        if identities.get(&self.identity).is_some_and(|own| Arc::strong_count(own) == 1) {
            identities.remove(&self.identity);
        }
    }
}

async fn within<T, E>(deadline: Instant, wait: impl Future<Output = std::result::Result<T, E>>) -> Result<T> {
    match tokio::time::timeout_at(deadline.into(), wait).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(Error::new(ErrorKind::Throttled, "wait for a free call to the key store")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn request(name: &str, millis: u64) -> Request {
        Request::new(Identity::of_public_key(name.as_bytes()), Duration::from_millis(millis))
    }

    #[tokio::test]
    async fn one_identity_cannot_take_all_calls() {
        let gate = Gate::new(4, 2);
        let greedy = request("greedy", 20);
        let (_first, _second) = (gate.pass(&greedy).await.unwrap(), gate.pass(&greedy).await.unwrap());
        let refused = gate.pass(&greedy).await.err().map(|error| error.kind());
        assert_eq!(refused, Some(ErrorKind::Throttled));
        assert!(gate.pass(&request("other", 20)).await.is_ok());
    }

    #[tokio::test]
    async fn identities_without_calls_are_forgotten() {
        let gate = Gate::new(1, 1);
        let pass = gate.pass(&request("a", 20)).await.unwrap();
        assert!(gate.pass(&request("b", 20)).await.is_err());
        assert_eq!(gate.lock().len(), 1);
        drop(pass);
        assert_eq!(gate.lock().len(), 0);
    }
}
