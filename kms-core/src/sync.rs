//! The primitives that tasks of the key ring share.
//!
//! A build has those of std, tokio, arc-swap and papaya. A model has those of the model checker. `Arc` and `Weak` are
//! std's in both, because the checker has none of its own.

#[cfg(not(all(test, feature = "model")))]
mod primitives {
    pub use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
    pub use std::sync::{Mutex, MutexGuard};

    pub use arc_swap::ArcSwapOption;
    pub use papaya::HashMap as SharedMap;
    pub use tokio::spawn;
    pub use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
    pub use tokio::time::{sleep, sleep_until, timeout_at};
}

#[cfg(all(test, feature = "model"))]
mod stand_ins;

#[cfg(not(all(test, feature = "model")))]
pub use self::primitives::*;
#[cfg(all(test, feature = "model"))]
pub use self::stand_ins::*;
