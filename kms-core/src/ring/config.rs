//! How long keys stay in memory, and what is counted of it.

use std::time::Duration;

/// How long keys stay in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// How long a key is used after it was read; use never extends it. Zero reads it for every request.
    ///
    /// This is also how long a key that was deleted by another server goes on working on this one.
    pub any: Duration,
    /// How long a key stays that nobody uses.
    pub unused: Duration,
    /// How long after its last good read a key is served while the backend cannot be asked; zero is never.
    pub offline: Duration,
    /// How often a backend that is away is asked whether it is back; a key that cannot be read is tried again after six
    /// times as long.
    pub ping: Duration,
}

impl Default for CacheConfig {
    /// KES's defaults: 5 minutes, 30 seconds, no offline copy, and a ping every 10 seconds.
    fn default() -> Self {
        Self {
            any: Duration::from_secs(300),
            unused: Duration::from_secs(30),
            offline: Duration::ZERO,
            ping: Duration::from_secs(10),
        }
    }
}

/// How a cache did since it was made.
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
