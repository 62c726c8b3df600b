//! What the writer shares with others, and what it writes to: std's and the files in a build, the model checker's and a
//! stand-in in a model.
//!
//! `Arc` is std's in both, since the checker has none of its own, and so is tokio's `oneshot`, which runs on any executor.

#[cfg(not(all(test, feature = "model")))]
mod primitives {
    pub use std::sync::atomic::{AtomicUsize, Ordering};
    pub use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    pub use std::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
    pub use std::thread::{Builder as Thread, JoinHandle};
    pub use std::time::Instant;

    pub use super::super::files::Files;
    pub use crate::disk::Ballast;
}

#[cfg(all(test, feature = "model"))]
mod stand_ins;

#[cfg(not(all(test, feature = "model")))]
pub use self::primitives::*;
#[cfg(all(test, feature = "model"))]
pub use self::stand_ins::*;
