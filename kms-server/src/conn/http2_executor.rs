//! How the requests of an HTTP/2 connection are run: in the connection's own task as far as they go.
//!
//! A key that is cached is used within a microsecond, so a task of its own and two hand-overs would cost more
//! than the request. hyper hands all requests that one read brought to the executor, the task of the connection
//! polls each once, and their answers leave in one write. What has to wait for the store goes on in its own task.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Context;
use std::time::Duration;

use super::watch::{ActiveRequest, Watch};

/// How long an answer may wait for the peer to take it, beyond the route's time.
const SEND_TIMEOUT: Duration = Duration::from_secs(15);

type Answering = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The executor that hyper gives the streams of one connection to.
#[derive(Clone)]
pub struct Http2Executor {
    queue: Arc<Mutex<Vec<(Answering, ActiveRequest)>>>,
    watch: Arc<Watch>,
}

impl Http2Executor {
    /// Makes an executor for the connection that `watch` watches.
    pub fn new(watch: Arc<Watch>) -> Self {
        Self { queue: Arc::default(), watch }
    }

    /// Polls the streams that have come since the last time; tells whether there were any.
    ///
    /// Those that have to wait get a task, and at most `longest` and a little more to be done.
    pub fn run(&self, cx: &mut Context<'_>, batch: &mut Batch, longest: Duration) -> bool {
        std::mem::swap(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner), &mut batch.0);
        let some = !batch.0.is_empty();
        for (mut stream, active) in batch.0.drain(..) {
            if stream.as_mut().poll(cx).is_pending() {
                let watch = Arc::clone(&self.watch);
                tokio::spawn(async move {
                    // Dropping the stream at the end of its time resets it. A log that is read has no such time.
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

/// The streams being polled; kept so that its memory is used again.
#[derive(Default)]
pub struct Batch(Vec<(Answering, ActiveRequest)>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Http2Executor {
    fn execute(&self, stream: F) {
        let entry = (Box::pin(stream) as Answering, self.watch.http2_begin());
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }
}
