//! What a cache counts.

/// The counters of a cache since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheCounters {
    /// Requests that a key in memory served.
    pub hits: u64,
    /// Requests that waited for a read.
    pub misses: u64,
    /// Requests that an offline copy served while the backend was away.
    pub offline_hits: u64,
    /// Reads of keys from the backend, also those in the background.
    pub reads: u64,
    /// Reads that failed, except with [`ErrorKind::NotFound`](crate::ErrorKind::NotFound).
    pub failed_reads: u64,
    /// Keys that have a place in memory now.
    pub keys: u64,
}
