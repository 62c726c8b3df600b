//! Where a request runs: here, in the task of its connection, or elsewhere, in a task of its own.
//!
//! A request for a cached key never waits, so it costs least in its connection's task. A request that waits for the key
//! store goes elsewhere at its first wait: to the runtime that runs the key stores. So neither the store's connections nor
//! a file or a name server are ever waited for on the threads that serve connections.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Elsewhere,
    Here,
    /// Here, and its present wait needs nobody else's work.
    Stays,
}

thread_local! {
    /// The place of the request that this thread polls.
    static PLACE: Cell<Place> = const { Cell::new(Place::Elsewhere) };
}

/// Returns whether the request that is being polled runs in its connection's task.
///
/// Its waits are bounded by the connection's own timer then, so it needs none.
pub fn is_here() -> bool {
    PLACE.get() != Place::Elsewhere
}

/// Waits for something that needs nobody's work elsewhere, as for the rest of a body. The request stays where it is.
pub async fn stay<T>(wait: impl Future<Output = T>) -> T {
    let mut wait = pin!(wait);
    poll_fn(|cx| {
        let outcome = wait.as_mut().poll(cx);
        if outcome.is_pending() && is_here() {
            PLACE.set(Place::Stays);
        }
        outcome
    })
    .await
}

/// Has the rest of a request run elsewhere. What reads files begins with this.
pub async fn leave() {
    poll_fn(|cx| {
        if is_here() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}

/// The result of a poll in the connection's task.
pub enum Polled<T> {
    Done(T),
    /// It waits for something that comes by the connection.
    Stays,
    /// It waits for something else, and has to continue elsewhere.
    Leaves,
}

/// Polls a request in the connection's task. The caller has entered the runtime elsewhere, so that tasks, timers and
/// connections which the request makes belong to that one.
pub fn poll<F: Future + ?Sized>(request: Pin<&mut F>, cx: &mut Context<'_>) -> Polled<F::Output> {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            PLACE.set(Place::Elsewhere);
        }
    }
    let _reset = Reset;
    PLACE.set(Place::Here);
    match request.poll(cx) {
        Poll::Ready(done) => Polled::Done(done),
        Poll::Pending if PLACE.get() == Place::Stays => Polled::Stays,
        Poll::Pending => Polled::Leaves,
    }
}

/// A request of HTTP/1.1, which hyper polls. It goes elsewhere at its first wait for something else than its body.
pub struct Movable<F: Future> {
    place: Run<F>,
    elsewhere: Handle,
}

enum Run<F: Future> {
    Here(Pin<Box<F>>),
    Elsewhere(JoinHandle<F::Output>),
    Ended,
}

impl<F: Future> Movable<F> {
    /// Creates a request that runs here, as far as it does not have to wait.
    pub fn new(request: F, elsewhere: Handle) -> Self {
        Self { place: Run::Here(Box::pin(request)), elsewhere }
    }
}

impl<F> Future for Movable<F>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if let Run::Here(request) = &mut this.place {
            let _entered = this.elsewhere.enter();
            match poll(request.as_mut(), cx) {
                Polled::Done(done) => {
                    this.place = Run::Ended;
                    return Poll::Ready(done);
                }
                Polled::Stays => return Poll::Pending,
                Polled::Leaves => {}
            }
            if let Run::Here(request) = std::mem::replace(&mut this.place, Run::Ended) {
                this.place = Run::Elsewhere(this.elsewhere.spawn(request));
            }
        }
        let Run::Elsewhere(task) = &mut this.place else { return Poll::Pending };
        match Pin::new(task).poll(cx) {
            Poll::Ready(Ok(done)) => Poll::Ready(done),
            Poll::Ready(Err(ended)) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            // The process ends, and takes the connection along.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl<F: Future> Drop for Movable<F> {
    fn drop(&mut self) {
        // Whoever asked has left.
        if let Run::Elsewhere(task) = &self.place {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    struct Dropped(Arc<AtomicBool>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn poll_once<T>(request: impl Future<Output = T>) -> Polled<T> {
        poll(pin!(request), &mut Context::from_waker(std::task::Waker::noop()))
    }

    #[test]
    fn a_request_leaves_only_for_waits_that_are_not_for_its_connection() {
        assert!(matches!(poll_once(async { is_here() }), Polled::Done(true)));
        assert!(matches!(poll_once(stay(pending::<()>())), Polled::Stays));
        assert!(matches!(poll_once(pending::<()>()), Polled::Leaves));
        assert!(matches!(poll_once(leave()), Polled::Leaves));
        let first_stays = async {
            let mut polls = 0;
            stay(poll_fn(|_| {
                polls += 1;
                Poll::Ready(())
            }))
            .await;
            pending::<()>().await;
        };
        assert!(matches!(poll_once(first_stays), Polled::Leaves), "the last wait counts");
        assert!(!is_here(), "nothing is left of it");
    }

    #[test]
    fn a_request_of_http1_continues_on_the_other_runtime_and_ends_with_its_client() {
        let elsewhere =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let here = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let request = |wait: Duration| {
            let began = std::thread::current().id();
            async move {
                // The runtime here has no timers, so this one is the other's.
                tokio::time::sleep(wait).await;
                (began, std::thread::current().id())
            }
        };
        let short = Movable::new(request(Duration::from_millis(1)), elsewhere.handle().clone());
        let (began, ended) = here.block_on(short);
        assert_ne!(began, ended);

        let is_dropped = Arc::new(AtomicBool::new(false));
        let guard = Dropped(Arc::clone(&is_dropped));
        let endless = async move {
            let _guard = guard;
            pending::<()>().await;
        };
        let mut endless = Box::pin(Movable::new(endless, elsewhere.handle().clone()));
        here.block_on(async {
            assert!(endless.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
        });
        assert!(!is_dropped.load(Ordering::Relaxed));
        drop(endless);
        elsewhere.shutdown_timeout(Duration::from_secs(5));
        assert!(is_dropped.load(Ordering::Relaxed));
    }
}
