//! A task of tests that counts how often it is woken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Wake;

#[derive(Default)]
pub struct Counted(AtomicU32);

impl Counted {
    /// Returns how often it was woken.
    pub fn wakes(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns the same, and begins to count anew.
    pub fn take(&self) -> u32 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
