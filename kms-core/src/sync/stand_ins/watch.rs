//! Stand-in of tokio's `watch`.

use std::future::poll_fn;
use std::ops::Deref;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::{Mutex, lock};

struct State<T> {
    value: T,
    version: u64,
    is_closed: bool,
    waiting: Vec<Waker>,
}

pub struct Sender<T>(Arc<Mutex<State<T>>>);

pub struct Receiver<T> {
    shared: Arc<Mutex<State<T>>>,
    seen: u64,
}

/// The sender is gone.
#[derive(Debug)]
pub struct Closed;

/// A copy of the value, made when it was seen.
pub struct Ref<T>(T);

pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let state = State { value, version: 0, is_closed: false, waiting: Vec::new() };
    let shared = Arc::new(Mutex::new(state));
    (Sender(Arc::clone(&shared)), Receiver { shared, seen: 0 })
}

impl<T> Sender<T> {
    pub fn subscribe(&self) -> Receiver<T> {
        Receiver { shared: Arc::clone(&self.0), seen: lock(&self.0).version }
    }

    pub fn send_replace(&self, value: T) -> T {
        let mut state = lock(&self.0);
        state.version += 1;
        let before = std::mem::replace(&mut state.value, value);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        before
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.is_closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), seen: self.seen }
    }
}

impl<T: Clone> Receiver<T> {
    pub fn has_changed(&self) -> Result<bool, Closed> {
        let state = lock(&self.shared);
        if state.is_closed { Err(Closed) } else { Ok(state.version != self.seen) }
    }

    pub async fn wait_for(&mut self, wanted: impl Fn(&T) -> bool) -> Result<Ref<T>, Closed> {
        poll_fn(|context| {
            let mut state = lock(&self.shared);
            self.seen = state.version;
            if wanted(&state.value) {
                return Poll::Ready(Ok(Ref(state.value.clone())));
            }
            if state.is_closed {
                return Poll::Ready(Err(Closed));
            }
            state.waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl<T> Deref for Ref<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
