//! The changes of the store, on their way to the key ring.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::Notify;

use crate::store::{Change, Changes};

/// Passes changes on. When some may have been missed, another server may have taken the place of the database's, so the roots
/// are looked at.
pub(super) struct Noticed {
    pub changes: Changes,
    pub look_now: Arc<Notify>,
}

impl Stream for Noticed {
    type Item = Change;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Change>> {
        let polled = self.changes.as_mut().poll_next(context);
        if let Poll::Ready(Some(Change::Missed)) = &polled {
            self.look_now.notify_one();
        }
        polled
    }
}
