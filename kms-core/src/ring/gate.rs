//! Bounds on the calls of a backend that run at once: in all, and for one client.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::identity::{Identity, Request};
use crate::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore, spawn, timeout_at};

/// The operation of a caller that waits, for errors.
const WAIT: &str = "wait for a free call to the key store";

/// Lets a limited number of backend calls run at once.
///
/// Further calls queue until their deadlines.
pub struct Gate {
    all: Arc<Semaphore>,
    per_identity: usize,
    identities: Mutex<HashMap<Identity, Arc<Semaphore>>>,
}

/// The permission to make one backend call. It is given back when this is dropped.
pub struct Pass {
    _all: OwnedSemaphorePermit,
    // Fields are dropped in this order. The permit has to go back before `Tidy` looks whether its identity has others.
    _own: Option<OwnedSemaphorePermit>,
    _tidy: Option<Tidy>,
}

impl Gate {
    /// Creates a gate for `all` calls at once, of which one identity may make `per_identity`.
    pub fn new(all: usize, per_identity: usize) -> Arc<Self> {
        Arc::new(Self { all: Arc::new(Semaphore::new(all)), per_identity, identities: Mutex::default() })
    }

    /// Waits for the permission to make a call.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Throttled`]: no call was free until the request's deadline.
    /// - [`ErrorKind::Abandoned`]: the caller left while it waited.
    pub async fn pass(self: &Arc<Self>, request: &Request) -> Result<Pass> {
        let tidy = Tidy { gate: Arc::clone(self), identity: request.identity };
        let own = Arc::clone(
            self.lock()
                .entry(request.identity)
                .or_insert_with(|| Arc::new(Semaphore::new(self.per_identity))),
        );
        let waited = async {
            let own = within(request.deadline, own.acquire_owned()).await?;
            let all = within(request.deadline, Arc::clone(&self.all).acquire_owned()).await?;
            Ok((own, all))
        };
        let abandoned = || Error::new(ErrorKind::Abandoned, WAIT);
        let (own, all) = tokio::select! {
            biased;
            () = request.abandoned() => return Err(abandoned()),
            waited = waited => waited?,
        };
        Ok(Pass { _all: all, _own: Some(own), _tidy: Some(tidy) })
    }

    /// Waits for the permission, and makes a call in a task of its own.
    ///
    /// The call goes on when the caller stops waiting, and counts until it ends. A caller that leaves before there is
    /// permission has begun nothing.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Throttled`]: no call was free until the request's deadline.
    /// - [`ErrorKind::Abandoned`]: the caller left before the call began.
    /// - [`ErrorKind::Internal`]: the task ended without an outcome.
    /// - Any other kind: that of the call.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        request: &Request,
        call: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let pass = self.pass(request).await?;
        pass.run(call).await
    }

    /// Returns the permission for background work, if a call is free right now.
    pub fn try_background_pass(&self) -> Option<Pass> {
        let all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Pass { _all: all, _own: None, _tidy: None })
    }

    /// Returns how many identities have calls or wait for one.
    #[cfg(test)]
    pub fn identities(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Identity, Arc<Semaphore>>> {
        self.identities.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// Makes a call in a task of its own, and gives the permission back when the call ends.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Internal`]: the task ended without an outcome.
    /// - Any other kind: that of the call.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub async fn run<T: Send + 'static>(
        self,
        call: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let task = spawn(async move {
            let outcome = call.await;
            drop(self);
            outcome
        });
        let ended =
            |error| Error::with_source(ErrorKind::Internal, "wait for a call to the key store", error);
        task.await.unwrap_or_else(|error| Err(ended(error)))
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
    match timeout_at(deadline.into(), wait).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(Error::new(ErrorKind::Throttled, WAIT)),
    }
}

#[cfg(test)]
#[cfg(not(feature = "model"))]
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
    async fn a_call_counts_until_it_ends_although_its_caller_left() {
        let gate = Gate::new(4, 1);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let (request, waiter) = request("a", 10_000).awaited();
        {
            let call = gate.run(&request, async move {
                let _ = ended.await;
                Ok(())
            });
            assert!(tokio::time::timeout(Duration::from_millis(20), call).await.is_err());
        }
        let next = {
            let (gate, request) = (Arc::clone(&gate), request.clone());
            tokio::spawn(async move { gate.run(&request, async { Ok(()) }).await })
        };
        tokio::task::yield_now().await;
        drop(waiter);
        let left = next.await.unwrap().unwrap_err().kind();
        assert_eq!(left, ErrorKind::Abandoned, "it waits for the first, which goes on");
        assert!(gate.pass(&self::request("a", 20)).await.is_err());
        end.send(()).unwrap();
        assert!(gate.pass(&self::request("a", 5_000)).await.is_ok());
    }

    #[tokio::test]
    async fn identities_without_calls_are_forgotten() {
        let gate = Gate::new(1, 1);
        let pass = gate.pass(&request("a", 20)).await.unwrap();
        assert!(gate.pass(&request("b", 20)).await.is_err());
        assert_eq!(gate.identities(), 1);
        drop(pass);
        assert_eq!(gate.identities(), 0);
    }
}
