//! The store behind a key ring: the bounds on its calls, and whether it is away.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tracing::{debug, error, warn};

use super::away::{Away, Outage};
use super::gate::Gate;
use super::policy::{CALL_TIMEOUT, CALLS};
use crate::error::{Error, ErrorKind, Result};
use crate::listing::{ListQuery, Page};
use crate::name::KeyName;
use crate::primitives::SecretBytes;
use crate::status::StoreStatus;
use crate::store::{EntryName, KeyStore};
use crate::sync::{sleep, spawn, timeout_at};

/// Writes in flight at once: in all, and for one identity. They have a gate of their own, because a slow create must
/// not hold up reads.
const WRITES: (usize, usize) = (64, 32);
/// The longest wait before the first ping of an outage.
const FIRST_PING: Duration = Duration::from_millis(500);

pub struct Backend<S> {
    pub store: S,
    pub reads: Arc<Gate>,
    pub writes: Arc<Gate>,
    pub away: Away,
    ping: Duration,
    this: Weak<Self>,
}

impl<S: KeyStore> Backend<S> {
    pub fn new(store: S, ping: Duration) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            store,
            reads: Gate::new(CALLS.0, CALLS.1),
            writes: Gate::new(WRITES.0, WRITES.1),
            away: Away::default(),
            ping,
            this: Weak::clone(this),
        })
    }

    /// Reads the entry of a key by a read that began at `began`.
    pub async fn read(&self, name: &KeyName, began: Instant) -> Result<SecretBytes> {
        self.watched(began + CALL_TIMEOUT, self.store.get(&EntryName::from(name))).await
    }

    /// Reads an entry past the cache. Returns when the read began, too.
    pub async fn read_back(&self, entry: &EntryName) -> Result<(SecretBytes, Instant)> {
        let began = Instant::now();
        let read = self.watched(began + CALL_TIMEOUT, self.store.get(entry)).await;
        read.map(|record| (record, began))
    }

    /// Makes a writing call to the store.
    pub async fn write(&self, call: impl Future<Output = Result<()>>) -> Result<()> {
        self.watched(Instant::now() + CALL_TIMEOUT, call).await
    }

    /// Lists keys, until `deadline` at the latest.
    pub async fn list_until(&self, query: &ListQuery<'_>, deadline: Instant) -> Result<Page> {
        self.watched(deadline, self.store.list(query)).await
    }

    pub async fn status(&self) -> Result<StoreStatus> {
        self.watched(Instant::now() + CALL_TIMEOUT, self.store.status()).await
    }

    /// Runs a call of the store with a deadline, and learns from it whether the store is away.
    pub async fn watched<T>(&self, deadline: Instant, call: impl Future<Output = Result<T>>) -> Result<T> {
        let result = match timeout_at(deadline.into(), call).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(ErrorKind::Timeout, "wait for the key store")),
        };
        match &result {
            // A refused write says nothing of reads, and what a replica lacks nothing of what it has.
            Err(error) if error.kind().is_of_writes() || error.kind() == ErrorKind::Behind => {}
            Err(error) if error.kind().is_outage() => self.note_away(error),
            Err(error) if matches!(error.kind(), ErrorKind::Internal) => {}
            _ => self.note_here(),
        }
        result
    }

    /// Notes that the store did not answer, and pings it until it does.
    pub fn note_away(&self, why: &Error) {
        if let Some(outage) = self.away.note_away() {
            error!(store = self.store.capabilities().name, cause = why.as_dyn(), "key store cannot be used");
            spawn(Self::ping_until_back(Weak::clone(&self.this), outage, self.ping));
        }
    }

    fn note_here(&self) {
        if self.away.note_here() {
            warn!(store = self.store.capabilities().name, "key store is back");
        }
    }

    async fn ping_until_back(this: Weak<Self>, outage: Outage, ping: Duration) {
        let mut pause = ping.min(FIRST_PING);
        loop {
            sleep(pause).await;
            let Some(backend) = this.upgrade() else { return };
            if !backend.away.goes_on(outage) {
                return;
            }
            if let Err(error) = backend.status().await {
                debug!(cause = error.as_dyn(), "key store is still away");
            }
            pause = (pause * 2).min(ping);
        }
    }
}

#[cfg(test)]
#[cfg(not(feature = "model"))]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    #[tokio::test]
    async fn a_refused_write_and_a_lack_of_a_replica_say_neither_that_the_store_is_away_nor_that_it_is_back()
    {
        let backend = Backend::new(MemoryStore::new(), Duration::from_secs(60));
        let soon = || Instant::now() + CALL_TIMEOUT;
        let fails = async |kind| {
            let failed: Result<()> = Err(Error::new(kind, "a test"));
            let _ = backend.watched(soon(), async { failed }).await;
            backend.away.is_away()
        };
        for refusal in [ErrorKind::ReadOnly, ErrorKind::DiskFull, ErrorKind::Behind] {
            assert!(!fails(refusal).await, "{refusal:?}");
            assert!(fails(ErrorKind::Unreachable).await);
            assert!(fails(refusal).await, "{refusal:?}");
            assert!(!fails(ErrorKind::NotFound).await);
        }
    }
}
