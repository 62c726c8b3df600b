//! The creates, imports and deletes that are under way, which a server that stops waits for.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// The effects that are under way.
#[derive(Debug, Default)]
pub struct Effects {
    running: AtomicUsize,
    ended: Notify,
}

impl Effects {
    /// Notes that one begins; it ends when what is returned is dropped.
    pub fn begin(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::SeqCst);
        Running(Arc::clone(self))
    }

    /// Waits until none is under way, for as long as `patience`; returns how many are left.
    pub async fn end(&self, patience: Duration) -> usize {
        let all_ended = async {
            loop {
                let mut ended = pin!(self.ended.notified());
                ended.as_mut().enable();
                if self.running.load(Ordering::SeqCst) == 0 {
                    return;
                }
                ended.await;
            }
        };
        let _ = tokio::time::timeout(patience, all_ended).await;
        self.running.load(Ordering::SeqCst)
    }
}

/// An effect that is under way, until this is dropped.
pub struct Running(Arc<Effects>);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.ended.notify_waiters();
        }
    }
}
