//! Runs the requests of an HTTP/2 connection in the connection's own task, as far as they wait for nothing but the peer.
//!
//! A request for a cached key takes about a microsecond. A task of its own with two handovers would cost more. hyper
//! passes all requests of one read to this executor. The connection's task polls them, so their answers leave in one
//! write. A request whose body comes later waits here for it. One that has to wait for the key store, or for long,
//! continues in its own task.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, Stream as _};
use tokio::runtime::Handle;

use super::here::{self, Polled};
use super::watch::{ActiveRequest, Watch};

/// How long the peer may take to receive an answer, beyond the route's timeout.
const SEND_TIMEOUT: Duration = Duration::from_secs(15);

/// The executor to which hyper passes the streams of one connection.
#[derive(Clone)]
pub struct Http2Executor {
    new: Arc<Mutex<Vec<Request>>>,
    watch: Arc<Watch>,
    /// Where requests continue that have to wait.
    elsewhere: Handle,
}

/// A request until its answer is sent.
struct Request {
    answering: Pin<Box<dyn Future<Output = ()> + Send>>,
    active: ActiveRequest,
}

/// A request that is polled here. It ends with its answer, or comes out when it has to wait elsewhere.
struct Served(Option<Request>);

impl Served {
    fn new(request: Request) -> Self {
        Self(Some(request))
    }
}

impl Future for Served {
    type Output = Option<Request>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        let Some(request) = &mut self.0 else { return Poll::Ready(None) };
        match here::poll(request.answering.as_mut(), cx) {
            Polled::Done(()) => Poll::Ready(None),
            Polled::Stays => Poll::Pending,
            Polled::Leaves => Poll::Ready(self.0.take()),
        }
    }
}

/// The requests of a connection that its task polls.
#[derive(Default)]
pub struct Streams {
    new: Vec<Request>,
    /// The only request that waits for its body. It is polled whenever the connection is.
    lone: Option<Request>,
    /// The requests that wait for their bodies, if there are several. Each is polled when its own part comes.
    many: FuturesUnordered<Served>,
}

impl Http2Executor {
    /// Creates the executor of the connection that `watch` watches. Requests that wait continue on `elsewhere`.
    pub fn new(watch: Arc<Watch>, elsewhere: Handle) -> Self {
        Self { new: Arc::default(), watch, elsewhere }
    }

    /// Polls the requests that are new or were woken. Returns how many were answered, or continue elsewhere.
    ///
    /// A request has at most the time that `longest` returns, and a little more, elsewhere.
    pub fn run(&self, cx: &mut Context<'_>, streams: &mut Streams, longest: impl Fn() -> Duration) -> usize {
        let Streams { new, lone, many } = streams;
        std::mem::swap(&mut *self.new.lock().unwrap_or_else(PoisonError::into_inner), new);
        if new.is_empty() && lone.is_none() && many.is_empty() {
            return 0;
        }
        let _entered = self.elsewhere.enter();
        let mut advanced = 0;
        for mut request in lone.take().into_iter().chain(new.drain(..)) {
            match here::poll(request.answering.as_mut(), cx) {
                Polled::Done(()) => advanced += 1,
                Polled::Stays if lone.is_none() && many.is_empty() => *lone = Some(request),
                Polled::Stays => many.extend(lone.take().into_iter().chain([request]).map(Served::new)),
                Polled::Leaves => {
                    advanced += 1;
                    self.part(request, longest());
                }
            }
        }
        while let Poll::Ready(Some(waits)) = Pin::new(&mut *many).poll_next(cx) {
            advanced += 1;
            if let Some(request) = waits {
                self.part(request, longest());
            }
        }
        advanced
    }

    /// Has all requests that wait for their bodies continue in tasks of their own, with timers of their own.
    pub fn part_all(&self, streams: &mut Streams, longest: impl Fn() -> Duration) {
        let many = std::mem::take(&mut streams.many).into_iter().filter_map(|served| served.0);
        for request in streams.lone.take().into_iter().chain(many) {
            self.part(request, longest());
        }
    }

    fn part(&self, request: Request, longest: Duration) {
        let watch = Arc::clone(&self.watch);
        self.elsewhere.spawn(async move {
            // Both parts are named, so that the task has both: a request counts until its answer is sent.
            let Request { mut answering, active } = request;
            // A stream that is dropped at its timeout is reset. An endless answer has no timeout.
            while tokio::time::timeout(longest + SEND_TIMEOUT, answering.as_mut()).await.is_err()
                && watch.has_endless()
            {}
            drop(active);
        });
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Http2Executor {
    fn execute(&self, stream: F) {
        let request = Request { answering: Box::pin(stream), active: self.watch.http2_begin() };
        self.new.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    }
}
