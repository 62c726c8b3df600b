//! What tasks share in the key ring: the primitives of std, tokio, arc-swap and papaya in a build, those of the model
//! checker in a model.
//!
//! `Arc` and `Weak` are std's in both: the checker has none of its own.

#[cfg(not(all(test, feature = "model")))]
mod primitives {
    pub use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
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
