//! What is counted of a cache.

use crate::sync::{AtomicU64, Ordering};
use crate::{Error, ErrorKind};

/// How a cache did since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheCounters {
    /// Requests served by a key in memory.
    pub hits: u64,
    /// Requests that had to wait for a read.
    pub misses: u64,
    /// Requests served by an offline copy while the backend was away.
    pub offline_hits: u64,
    /// Keys asked of the backend, in the background too.
    pub reads: u64,
    /// Reads that failed other than with `NotFound`.
    pub failed_reads: u64,
}

/// The counters behind [`CacheCounters`], which many tasks advance.
#[derive(Default)]
pub struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    offline_hits: AtomicU64,
    reads: AtomicU64,
    failed_reads: AtomicU64,
}

impl Counters {
    /// Counts a request that a key in memory served.
    pub fn hit(&self) {
        count(&self.hits);
    }

    /// Counts a request that had to wait for a read.
    pub fn miss(&self) {
        count(&self.misses);
    }

    /// Counts a request that an offline copy served.
    pub fn offline_hit(&self) {
        count(&self.offline_hits);
    }

    /// Counts a read of the backend.
    pub fn read(&self) {
        count(&self.reads);
    }

    /// Counts the failure of a read, unless it is an answer about the key: absent, or not that of a ciphertext.
    pub fn read_failed(&self, error: &Error) {
        if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotAuthentic) {
            count(&self.failed_reads);
        }
    }

    /// Returns the numbers.
    pub fn numbers(&self) -> CacheCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheCounters {
            hits: read(&self.hits),
            misses: read(&self.misses),
            offline_hits: read(&self.offline_hits),
            reads: read(&self.reads),
            failed_reads: read(&self.failed_reads),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
