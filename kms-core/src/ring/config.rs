//! The times of the cache.

use std::time::Duration;

use super::policy;

/// The times for which a [`KeyRing`](crate::KeyRing) keeps keys in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheConfig {
    /// The time for which a key is used after it was read. Use never extends it. Zero means one read for each request.
    ///
    /// A key that another server deleted works on this one for the same time.
    pub any: Duration,
    /// The time for which an unused key stays in memory.
    pub unused: Duration,
    /// The time for which a key is served after its last successful read while the backend is away. Zero means never.
    pub offline: Duration,
    /// The interval at which a backend that is away is asked whether it is back.
    ///
    /// An unreadable key is read again after six intervals.
    pub ping: Duration,
}

impl CacheConfig {
    /// Returns the defaults. `any` and `unused` are those of KES: 5 minutes and 30 seconds. There are no offline copies.
    ///
    /// README.md, `docs/` and `examples/server.toml` name these times.
    pub const fn new() -> Self {
        Self {
            any: Duration::from_secs(300),
            unused: Duration::from_secs(30),
            offline: Duration::ZERO,
            ping: policy::PING,
        }
    }

    /// Sets [`any`](Self::any).
    #[must_use]
    pub const fn with_any(self, any: Duration) -> Self {
        Self { any, ..self }
    }

    /// Sets [`unused`](Self::unused).
    #[must_use]
    pub const fn with_unused(self, unused: Duration) -> Self {
        Self { unused, ..self }
    }

    /// Sets [`offline`](Self::offline).
    #[must_use]
    pub const fn with_offline(self, offline: Duration) -> Self {
        Self { offline, ..self }
    }

    /// Sets [`ping`](Self::ping).
    #[must_use]
    pub const fn with_ping(self, ping: Duration) -> Self {
        Self { ping, ..self }
    }
}

impl Default for CacheConfig {
    /// Returns the configuration of [`new`](Self::new).
    fn default() -> Self {
        Self::new()
    }
}
