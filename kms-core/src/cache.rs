//! Parts of a cache of keys: for authors of a [`Kms`](crate::Kms) that holds keys itself, as that of AWS KMS does.
//!
//! * A [`Gate`] bounds the concurrent calls of a backend, in all and for one identity.
//! * [`Unreadable`] remembers the keys that cannot be read, for the log and the status.
//! * [`Away`] remembers whether the backend is away.
//! * [`Counters`] counts hits, misses and reads.
//! * [`policy`] holds the times and bounds that all caches share.
//!
//! The module [`single_flight`](crate::single_flight) is the fetch that serves all who wait for one value.

pub use crate::ring::{Away, Counter, Counters, Gate, Outage, Pass, Unreadable, policy};
