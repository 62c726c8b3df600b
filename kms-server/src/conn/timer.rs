//! A timer that is polled far more often than it fires.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// A timer of the runtime on which it was made, wherever it is polled.
///
/// tokio's own notes its waker at each poll. This one does so only if it fires for somebody else, or was set anew.
pub struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// Whom the timer wakes, if it was polled since it was set.
    wakes: Option<Waker>,
}

impl Timer {
    /// Creates a timer that fires at `at`.
    ///
    /// # Panics
    ///
    /// If there is no current tokio runtime.
    pub fn new(at: Instant) -> Self {
        Self { sleep: Box::pin(sleep_until(at)), wakes: None }
    }

    /// Has the timer fire at `at` instead, once more if it has fired.
    pub fn set(&mut self, at: Instant) {
        self.sleep.as_mut().reset(at);
        self.wakes = None;
    }

    /// Returns whether the timer has fired since it was set. If not, it wakes the task when it does.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let wakes_this_task = self.wakes.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if wakes_this_task && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        // A task that has used up its budget would get `Pending` from a timer that knows of no waker.
        let outcome = pin!(unconstrained(self.sleep.as_mut())).poll(cx);
        self.wakes = outcome.is_pending().then(|| cx.waker().clone());
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::task::coop::consume_budget;

    use super::super::counted::Counted;
    use super::*;

    #[tokio::test]
    async fn it_wakes_whoever_polled_it_last_each_time_it_is_set() {
        let (soon, hour) = (Duration::from_millis(10), Duration::from_secs(3600));
        let tasks = [Arc::<Counted>::default(), Arc::<Counted>::default()];
        let counts = || tasks.each_ref().map(|task| task.wakes());
        let wakers = tasks.each_ref().map(|task| Waker::from(Arc::clone(task)));
        let mut timer = Timer::new(Instant::now() + soon);
        for waker in [&wakers[0], &wakers[0], &wakers[1], &wakers[1]] {
            assert!(timer.poll(&mut Context::from_waker(waker)).is_pending());
        }
        tokio::time::sleep(soon * 10).await;
        assert_eq!(counts(), [0, 1]);
        assert!(timer.poll(&mut Context::from_waker(&wakers[1])).is_ready());

        for at in [soon, hour] {
            timer.set(Instant::now() + at);
            assert!(timer.poll(&mut Context::from_waker(&wakers[1])).is_pending());
        }
        tokio::time::sleep(soon * 10).await;
        assert_eq!(counts(), [0, 1], "it was set to later");
        timer.set(Instant::now() + soon);
        assert!(timer.poll(&mut Context::from_waker(&wakers[1])).is_pending());
        tokio::time::sleep(soon * 10).await;
        assert_eq!(counts(), [0, 2]);
        assert!(timer.poll(&mut Context::from_waker(&wakers[0])).is_ready());
    }

    #[tokio::test]
    async fn it_fires_though_its_task_had_no_budget_when_it_was_polled_first() {
        let mut timer = Timer::new(Instant::now() + Duration::from_millis(10));
        let fired = tokio::spawn(async move {
            let mut is_first = true;
            poll_fn(|cx| {
                while std::mem::take(&mut is_first) && pin!(consume_budget()).poll(cx).is_ready() {
                    is_first = true;
                }
                timer.poll(cx)
            })
            .await;
        });
        tokio::time::timeout(Duration::from_secs(10), fired).await.expect("it never fired").unwrap();
    }
}
