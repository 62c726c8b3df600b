//! The primitives that the writer shares with others, and the files that it writes.
//!
//! In a build these are std's and the real files. In a model they are the checker's primitives and stand-ins.
//!
//! `Arc` is std's in both, since the checker has none of its own. `oneshot` is tokio's in both, since it runs
//! on any executor.

#[cfg(not(all(test, feature = "model")))]
mod primitives {
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
