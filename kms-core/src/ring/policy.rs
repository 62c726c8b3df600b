//! The times and bounds that every cache of keys keeps, whatever backend is behind it.

use std::time::Duration;

/// Backend calls in flight at once: in all, and for one identity.
pub const CALLS: (usize, usize) = (64, 16);
/// How long a backend call may take when no request's deadline bounds it. It is less than a request has.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A read of an entry and then of its marker count as one look at the key if they take no longer. A purge waits for longer
/// between the removal of both.
pub const APART: Duration = Duration::from_secs(1);
/// How long a request waits for a backend that is not known to be away, when a stale answer may serve.
pub const OFFLINE_PATIENCE: Duration = Duration::from_secs(1);
/// How often a backend that is away is asked whether it is back, by default.
pub const PING: Duration = Duration::from_secs(10);
/// How long the memory is left between two sweeps at the most.
pub const SWEEP_PAUSE: Duration = Duration::from_secs(5);
/// A key that leaves memory because its time is over was read no longer ago than this, if the store can lose keys.
pub const LOOKED: Duration = Duration::from_secs(15);
/// The pause before each of many keys that are read again without a request: 200 keys a second at the most.
pub const PACE: Duration = Duration::from_millis(5);
/// Keys that cannot be used and that nobody asks for: the most that are tried again at one sweep.
pub const TRIED_AGAIN: usize = 8;

/// Returns the age at which a value in use is fetched again: 80% of the age at which it ends.
pub fn refresh_age(end: Duration) -> Duration {
    end / 5 * 4
}

/// Returns how long a key that cannot be used, and that nobody asks for, is left alone.
pub fn try_again_after(ping: Duration) -> Duration {
    ping.saturating_mul(6)
}
