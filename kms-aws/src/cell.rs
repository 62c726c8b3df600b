//! A value that is fetched once for all who wait for it, and used without a lock until it is too old.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use kms_core::{Error, ErrorKind, Gate, Request, Result};
use tokio::sync::watch;

/// A value with the moment at which the fetch began that brought it.
pub struct Held<T> {
    pub value: T,
    pub began: Instant,
}

/// How long after the beginning of one background fetch no other one is begun.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);

type Outcome<T> = Result<Arc<Held<T>>>;

struct Running<T> {
    began: Instant,
    outcome: watch::Receiver<Option<Outcome<T>>>,
}

impl<T> Running<T> {
    /// Tells whether the task that fetches is still there.
    fn is_alive(&self) -> bool {
        self.outcome.has_changed().is_ok()
    }
}

/// What is to be done to have a value.
enum Step<T> {
    /// It is there.
    Take(Arc<Held<T>>),
    /// A fetch has to be waited for; whether its outcome is late enough.
    Wait(watch::Receiver<Option<Outcome<T>>>, bool),
}

/// The place of such a value.
pub struct Cell<T> {
    held: ArcSwapOption<Held<T>>,
    running: Mutex<Option<Running<T>>>,
}

impl<T> Default for Cell<T> {
    fn default() -> Self {
        Self { held: ArcSwapOption::empty(), running: Mutex::default() }
    }
}

impl<T: Send + Sync + 'static> Cell<T> {
    /// Returns what was fetched last.
    pub fn get(&self) -> Option<Arc<Held<T>>> {
        self.held.load_full()
    }

    /// Puts a value in.
    pub fn put(&self, value: T, began: Instant) -> Arc<Held<T>> {
        let held = Arc::new(Held { value, began });
        self.held.store(Some(Arc::clone(&held)));
        held
    }

    /// Takes the value out.
    pub fn take(&self) -> Option<Arc<Held<T>>> {
        self.held.swap(None)
    }

    /// Takes the value out, and forgets it.
    pub fn clear(&self) {
        self.held.store(None);
    }

    /// Waits for a fetch that began at `after` or later, and starts one if there is none and nothing `fresh`.
    ///
    /// The fetch is a task of its own: it goes on when who began it stops waiting, and what it brings is kept.
    /// Fails as the fetch does, and with `Timeout` at `deadline`.
    pub async fn fetch<F>(
        self: &Arc<Self>,
        after: Option<Instant>,
        deadline: Instant,
        fresh: impl Fn(&Held<T>) -> bool + Send,
        mut fetch: impl FnMut() -> F + Send,
    ) -> Outcome<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        loop {
            let step = self.join_or_start(after, &fresh, &mut fetch);
            if let Some(outcome) = ended(step, deadline).await {
                return outcome;
            }
        }
    }

    /// As [`fetch`](Self::fetch) does, with leave of `gate` for each fetch that is started: it counts until the fetch ends.
    pub async fn fetch_with_leave<F>(
        self: &Arc<Self>,
        (gate, request): (&Arc<Gate>, &Request),
        after: Option<Instant>,
        fresh: impl Fn(&Held<T>) -> bool + Send,
        mut fetch: impl FnMut() -> F + Send,
    ) -> Outcome<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        loop {
            let step = if let Some(step) = self.join(after, &fresh) {
                step
            } else {
                let mut pass = Some(gate.pass(request).await?);
                self.join_or_start(after, &fresh, &mut || {
                    let (call, pass) = (fetch(), pass.take());
                    async move {
                        let outcome = call.await;
                        drop(pass);
                        outcome
                    }
                })
            };
            if let Some(outcome) = ended(step, request.deadline).await {
                return outcome;
            }
        }
    }

    /// Tells whether nothing is here, and nothing on its way.
    pub fn is_vacant(&self) -> bool {
        let running = self.running();
        running.as_ref().is_none_or(|running| !running.is_alive()) && self.held.load().is_none()
    }

    /// Starts a fetch that nobody waits for, unless one is under way or began a moment ago.
    pub fn refresh<F>(self: &Arc<Self>, fetch: impl FnOnce() -> F)
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut running = self.running();
        if running.as_ref().is_none_or(|last| !last.is_alive() && last.began.elapsed() >= REFRESH_PAUSE) {
            *running = Some(self.start(fetch()));
        }
    }

    fn join(&self, after: Option<Instant>, fresh: &impl Fn(&Held<T>) -> bool) -> Option<Step<T>> {
        self.find(self.running().as_ref(), after, fresh)
    }

    fn join_or_start<F>(
        self: &Arc<Self>,
        after: Option<Instant>,
        fresh: &impl Fn(&Held<T>) -> bool,
        fetch: &mut impl FnMut() -> F,
    ) -> Step<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut running = self.running();
        self.find(running.as_ref(), after, fresh).unwrap_or_else(|| {
            let started = self.start(fetch());
            let outcome = started.outcome.clone();
            *running = Some(started);
            Step::Wait(outcome, true)
        })
    }

    /// Finds a fetch to wait for, or a value; a fetch puts its value in before it ends, so one that ended a moment ago is
    /// seen.
    fn find(
        &self,
        running: Option<&Running<T>>,
        after: Option<Instant>,
        fresh: &impl Fn(&Held<T>) -> bool,
    ) -> Option<Step<T>> {
        if let Some(current) = running.filter(|current| current.is_alive()) {
            let is_late_enough = after.is_none_or(|after| current.began >= after);
            return Some(Step::Wait(current.outcome.clone(), is_late_enough));
        }
        self.get().filter(|held| fresh(held)).map(Step::Take)
    }

    fn start<F>(self: &Arc<Self>, fetch: F) -> Running<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let began = Instant::now();
        let (sender, outcome) = watch::channel(None);
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let outcome = fetch.await.map(|value| this.put(value, began));
            // The channel closes when this task ends: by that a fetch under way is told from one that ended.
            sender.send_replace(Some(outcome));
        });
        Running { began, outcome }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Running<T>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for what a step leads to; `None` where that was no use.
async fn ended<T>(step: Step<T>, deadline: Instant) -> Option<Outcome<T>> {
    let (mut outcome, is_late_enough) = match step {
        Step::Take(held) => return Some(Ok(held)),
        Step::Wait(outcome, is_late_enough) => (outcome, is_late_enough),
    };
    let ended = tokio::time::timeout_at(deadline.into(), outcome.wait_for(Option::is_some)).await;
    let ended = match ended {
        Err(_) => return Some(Err(Error::new(ErrorKind::Timeout, "wait for AWS KMS"))),
        Ok(Ok(ended)) => ended.clone(),
        Ok(Err(_)) => None,
    };
    match ended {
        Some(ended) => is_late_enough.then_some(ended),
        None => Some(Err(Error::new(ErrorKind::Internal, "fetch from AWS KMS"))),
    }
}
