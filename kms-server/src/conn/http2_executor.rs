//! Runs the requests of an HTTP/2 connection in the connection's own task, as far as they do not have to wait.
//!
//! A request for a cached key takes about a microsecond. A task of its own with two handovers would cost more. hyper
//! passes all requests of one read to this executor. The connection's task polls each of them once, so their answers
//! leave in one write. A request that has to wait for the key store continues in its own task.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Context;
use std::time::Duration;

use super::watch::{ActiveRequest, Watch};

/// How long the peer may take to receive an answer, beyond the route's timeout.
const SEND_TIMEOUT: Duration = Duration::from_secs(15);

type Answering = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The executor to which hyper passes the streams of one connection.
#[derive(Clone)]
pub struct Http2Executor {
    queue: Arc<Mutex<Vec<(Answering, ActiveRequest)>>>,
    watch: Arc<Watch>,
}

impl Http2Executor {
    /// Creates the executor of the connection that `watch` watches.
    pub fn new(watch: Arc<Watch>) -> Self {
        Self { queue: Arc::default(), watch }
    }

    /// Polls the streams that came since the last call. Returns whether there were any.
    ///
    /// A stream that has to wait continues in its own task, for at most `longest` and a little more.
    pub fn run(&self, cx: &mut Context<'_>, batch: &mut Batch, longest: Duration) -> bool {
        std::mem::swap(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner), &mut batch.0);
        let some = !batch.0.is_empty();
        for (mut stream, active) in batch.0.drain(..) {
            if stream.as_mut().poll(cx).is_pending() {
                let watch = Arc::clone(&self.watch);
                tokio::spawn(async move {
                    // A stream that is dropped at its timeout is reset. An endless answer has no timeout.
                    while tokio::time::timeout(longest + SEND_TIMEOUT, &mut stream).await.is_err()
                        && watch.has_endless()
                    {}
                    drop(active);
                });
            }
        }
        some
    }
}

/// The streams that are being polled, kept to reuse the memory.
#[derive(Default)]
pub struct Batch(Vec<(Answering, ActiveRequest)>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Http2Executor {
    fn execute(&self, stream: F) {
        let entry = (Box::pin(stream) as Answering, self.watch.http2_begin());
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }
}
