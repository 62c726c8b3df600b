//! The creates, imports and deletes under way, for which a stopping server waits.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// The effects under way.
#[derive(Debug, Default)]
pub struct Effects {
    running: AtomicUsize,
    ended: Notify,
}

impl Effects {
    /// Notes that an effect begins. It ends when the returned value is dropped.
    pub fn begin(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::SeqCst);
        Running(Arc::clone(self))
    }

    /// Waits until no effect is under way, for at most `patience`. Returns how many are left.
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

/// An effect under way, until this is dropped.
pub struct Running(Arc<Effects>);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.ended.notify_waiters();
        }
    }
}
