//! How long keys stay in memory.

use std::time::Duration;

use super::policy;

/// How long keys stay in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// How long a key is used after it was read; use never extends it. Zero reads it for every request.
    ///
    /// A key that another server deleted goes on working on this one for as long.
    pub any: Duration,
    /// How long a key stays that nobody uses.
    pub unused: Duration,
    /// How long after its last good read a key is served while the backend cannot be asked. Zero is never.
    pub offline: Duration,
    /// How often a backend that is away is asked whether it is back. A key that cannot be read is tried again after six
    /// times as long.
    pub ping: Duration,
}

impl Default for CacheConfig {
    /// Returns KES's defaults: 5 minutes, 30 seconds, no offline copy, and a ping every 10 seconds.
    fn default() -> Self {
        Self {
            any: Duration::from_secs(300),
            unused: Duration::from_secs(30),
            offline: Duration::ZERO,
            ping: policy::PING,
        }
    }
}
