//! The waker of a connection, which does not wake its task while that is awake.
//!
//! h2 wakes the connection whenever a stream has something to send, and so also while the connection's task polls that
//! stream. tokio would queue the task once more, and wake another thread to take it. Here such a wake is only noted, and
//! the task looks for the note before it sleeps.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Wake, Waker};

/// The task sleeps, or is about to be polled.
const ASLEEP: u8 = 0;
/// The task is polling.
const AWAKE: u8 = 1;
/// Somebody woke the task since it began to poll.
const WOKEN: u8 = 2;

/// The waker that the parts of a connection get.
pub struct OwnWaker {
    state: Arc<State>,
    waker: Waker,
}

struct State {
    now: AtomicU8,
    /// The waker of the task, which never changes.
    task: OnceLock<Waker>,
}

impl OwnWaker {
    /// Creates the waker of a connection whose task is not known yet.
    pub fn new() -> Self {
        let state = Arc::new(State { now: AtomicU8::new(ASLEEP), task: OnceLock::new() });
        Self { waker: Waker::from(Arc::clone(&state)), state }
    }

    /// Returns the waker to poll with.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Notes that the task begins to poll everything. All wakes before count as heard.
    pub fn begin(&self, task: &Waker) {
        self.state.task.get_or_init(|| task.clone());
        self.state.now.swap(AWAKE, Ordering::AcqRel);
    }

    /// Returns whether the task was woken since it began.
    pub fn is_woken(&self) -> bool {
        self.state.now.load(Ordering::Acquire) == WOKEN
    }

    /// Notes that the task sleeps. Returns false if it was woken since it began, and has to poll once more.
    pub fn sleep(&self) -> bool {
        self.state.now.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Wake for State {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.now.swap(WOKEN, Ordering::AcqRel) == ASLEEP
            && let Some(task) = self.task.get()
        {
            task.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::counted::Counted;
    use super::*;

    #[test]
    fn a_task_that_is_awake_is_not_woken_and_does_not_sleep() {
        let (task, own) = (Arc::<Counted>::default(), OwnWaker::new());
        let count = || task.wakes();
        let waker = Waker::from(Arc::clone(&task));

        own.begin(&waker);
        assert!(!own.is_woken());
        own.waker().wake_by_ref();
        own.waker().wake_by_ref();
        assert!(own.is_woken() && !own.sleep(), "it has to poll once more");
        assert_eq!(count(), 0);

        own.begin(&waker);
        assert!(own.sleep());
        own.waker().wake_by_ref();
        own.waker().wake_by_ref();
        assert_eq!(count(), 1, "the first wake is enough");
    }

    #[test]
    fn no_wake_is_lost_whenever_it_comes() {
        let (task, own) = (Arc::<Counted>::default(), OwnWaker::new());
        let waker = Waker::from(Arc::clone(&task));
        for round in 1..=2000 {
            own.begin(&waker);
            let others = own.waker().clone();
            let other = std::thread::spawn(move || others.wake());
            let sleeps = own.sleep();
            other.join().unwrap();
            // Either the task noticed the wake before it slept, or it was woken.
            assert_eq!(u32::from(sleeps), task.take(), "round {round}");
        }
    }
}
