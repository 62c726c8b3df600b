//! What is counted of a cache.

use crate::counters::CacheCounters;
use crate::error::{Error, ErrorKind};
use crate::sync::{AtomicU64, Ordering};

/// A number that many tasks advance.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn number(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters behind [`CacheCounters`].
#[derive(Default)]
pub struct Counters {
    /// Requests served by a key in memory.
    pub hits: Counter,
    /// Requests that had to wait for a read.
    pub misses: Counter,
    /// Requests served by an offline copy while the backend was away.
    pub offline_hits: Counter,
    /// Keys asked of the backend.
    pub reads: Counter,
    failed_reads: Counter,
}

impl Counters {
    /// Counts the failure of a read, unless it is an answer about the key: absent, or not that of a ciphertext.
    pub fn read_failed(&self, error: &Error) {
        if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotAuthentic) {
            self.failed_reads.add();
        }
    }

    /// Returns the numbers, for a cache that has places for so many keys now.
    pub fn numbers(&self, keys: usize) -> CacheCounters {
        CacheCounters {
            hits: self.hits.number(),
            misses: self.misses.number(),
            offline_hits: self.offline_hits.number(),
            reads: self.reads.number(),
            failed_reads: self.failed_reads.number(),
            keys: keys as u64,
        }
    }
}
