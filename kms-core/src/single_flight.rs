//! A value that one task fetches for all who need it: the *single flight*.
//!
//! Readers find the value without a lock. While a fetch is under way, whoever needs the value joins that fetch instead
//! of starting another one.
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicUsize, Ordering};
//! use std::time::{Duration, Instant};
//!
//! use kms_core::single_flight::{SingleFlight, Wanted};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (token, calls) = (Arc::new(SingleFlight::default()), Arc::new(AtomicUsize::new(0)));
//! let get = async || {
//!     let deadline = Instant::now() + Duration::from_secs(5);
//!     let wanted = Wanted { after: None, deadline, operation: "fetch a token" };
//!     let is_fresh = |token: &_| age_of(token) < Duration::from_secs(60);
//!     let fetch = || {
//!         let calls = Arc::clone(&calls);
//!         async move { Ok(calls.fetch_add(1, Ordering::Relaxed)) }
//!     };
//!     token.fetch(wanted, is_fresh, async || Ok(()), fetch).await
//! };
//! # use kms_core::single_flight::Held;
//! # fn age_of(token: &Held<usize>) -> Duration { token.age(Instant::now()) }
//! let (one, other) = tokio::join!(get(), get());
//! assert_eq!((**one?, **other?), (0, 0));
//! assert_eq!(calls.load(Ordering::Relaxed), 1, "one call served both");
//! # Ok(())
//! # }
//! ```

use std::convert::Infallible;
use std::ops::Deref;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::sync::{ArcSwapOption, Mutex, MutexGuard, spawn, timeout_at, watch};

/// How long after a failed fetch [`SingleFlight::refresh`] starts no other one.
pub const REFRESH_PAUSE: Duration = Duration::from_secs(1);

/// A value with the moment at which its fetch began.
///
/// The age of a value counts from there: what changed at the source since that moment is not in the value.
pub struct Held<T> {
    value: T,
    began: Instant,
}

impl<T> Held<T> {
    /// Returns the value.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Returns when the fetch began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Returns the time since the fetch began.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Says which fetch a caller of [`SingleFlight::fetch`] accepts, and how long the caller waits for it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The fetch has to begin at this moment or later. `None` accepts any fetch, and a value that is fresh.
    pub after: Option<Instant>,
    /// The wait ends here. The fetch goes on.
    pub deadline: Instant,
    /// What the caller does, for errors.
    pub operation: &'static str,
}

/// The outcome of a fetch.
pub(crate) type Outcome<T> = Result<Arc<Held<T>>>;

/// What a fetch brings to those who wait for it.
enum Landed<T> {
    Done(Outcome<T>),
    /// The value was replaced since the fetch began. Whoever waits asks again.
    Outdated,
}

/// A fetch that is under way, in the hands of the task that fetches.
///
/// The channel closes when that task drops this. So a task that panics leaves nobody waiting.
pub(crate) struct Flight<T> {
    pub began: Instant,
    epoch: u64,
    landed: watch::Sender<Option<Arc<Landed<T>>>>,
}

impl<T> Flight<T> {
    /// Returns a place among those who wait.
    pub fn waiting(&self) -> Waiting<T> {
        Waiting { began: self.began, landed: self.landed.subscribe() }
    }

    /// Sends the outcome to all who wait; `None` where it is outdated.
    pub fn announce(self, outcome: Option<Outcome<T>>) {
        let landed = outcome.map_or(Landed::Outdated, Landed::Done);
        self.landed.send_replace(Some(Arc::new(landed)));
    }
}

/// A place among those who wait for a fetch.
pub(crate) struct Waiting<T> {
    began: Instant,
    landed: watch::Receiver<Option<Arc<Landed<T>>>>,
}

impl<T> Waiting<T> {
    /// Waits for the outcome; `None` where it is no answer, since the fetch began before `after` or is outdated.
    pub async fn outcome(
        mut self,
        after: Option<Instant>,
        deadline: Instant,
        operation: impl FnOnce() -> String,
    ) -> Result<Option<Outcome<T>>> {
        let landed = match timeout_at(deadline.into(), self.landed.wait_for(Option::is_some)).await {
            Err(_) => return Err(Error::new(ErrorKind::Timeout, operation())),
            Ok(landed) => landed.ok().and_then(|landed| landed.clone()),
        };
        match landed.as_deref() {
            None => Err(Error::with_source(ErrorKind::Internal, operation(), "the read was ended")),
            Some(Landed::Done(outcome)) if after.is_none_or(|moment| self.began >= moment) => {
                Ok(Some(outcome.clone()))
            }
            Some(_) => Ok(None),
        }
    }

    fn is_alive(&self) -> bool {
        self.landed.has_changed().is_ok()
    }
}

impl<T> Clone for Waiting<T> {
    fn clone(&self) -> Self {
        Self { began: self.began, landed: self.landed.clone() }
    }
}

/// What a caller has to do who needs a fetch.
pub(crate) enum Turn<T, R = Infallible> {
    /// Use this value, which arrived meanwhile.
    Take(Arc<Held<T>>),
    /// Wait for the fetch that is under way.
    Wait(Waiting<T>),
    /// Fetch the value, and announce the outcome.
    Fetch(Flight<T>),
    /// No fetch may begin.
    Refused(R),
}

/// The fetches of one value, kept under the lock.
struct Fetches<T> {
    /// Boxed, because most values are not being fetched, and were fetched without an error.
    rare: Option<Box<Rare<T>>>,
    /// Each value that is put in from elsewhere begins another epoch. What was fetched in an earlier one is outdated.
    epoch: u64,
}

/// A fetch that is under way, or failed a moment ago.
struct Rare<T> {
    last: Option<Waiting<T>>,
    refresh_not_before: Option<Instant>,
}

impl<T> Fetches<T> {
    fn under_way(&self) -> Option<Waiting<T>> {
        self.rare.as_ref()?.last.clone().filter(Waiting::is_alive)
    }

    fn refresh_not_before(&self) -> Option<Instant> {
        self.rare.as_ref().and_then(|rare| rare.refresh_not_before)
    }

    fn begin(&mut self) -> Flight<T> {
        let (sender, landed) = watch::channel(None);
        let began = Instant::now();
        let (last, refresh_not_before) = (Some(Waiting { began, landed }), self.refresh_not_before());
        self.rare = Some(Box::new(Rare { last, refresh_not_before }));
        Flight { began, epoch: self.epoch, landed: sender }
    }
}

/// The place of a value that one task at a time fetches. See the [module](self).
pub struct SingleFlight<T> {
    held: ArcSwapOption<Held<T>>,
    fetches: Mutex<Fetches<T>>,
}

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        let fetches = Fetches { rare: None, epoch: 0 };
        Self { held: ArcSwapOption::default(), fetches: Mutex::new(fetches) }
    }
}

impl<T> SingleFlight<T> {
    /// Returns the value, however old it is. Takes no lock.
    pub fn get(&self) -> Option<Arc<Held<T>>> {
        self.held.load_full()
    }

    /// Puts in a value from elsewhere, as if its fetch had begun at `began`.
    ///
    /// A fetch that is under way brings nothing then, since it may have begun earlier.
    pub fn put(&self, value: T, began: Instant) -> Arc<Held<T>> {
        let held = Arc::new(Held { value, began });
        let mut fetches = self.fetches();
        fetches.epoch += 1;
        self.held.store(Some(Arc::clone(&held)));
        held
    }

    /// Takes the value out. A fetch that is under way still brings the next one.
    pub fn take(&self) -> Option<Arc<Held<T>>> {
        self.held.swap(None)
    }

    /// Drops the value. A fetch that is under way still brings the next one.
    pub fn clear(&self) {
        self.held.store(None);
    }

    /// Makes sure that a fetch under way brings nothing, and that whoever waits for it asks again.
    pub fn outdate(&self) {
        self.fetches().epoch += 1;
    }

    /// Returns whether there is no value, and no fetch under way that could bring one.
    pub fn is_vacant(&self) -> bool {
        let fetches = self.fetches();
        fetches.under_way().is_none() && self.get().is_none()
    }

    /// Returns the fetch that is under way.
    pub(crate) fn under_way(&self) -> Option<Waiting<T>> {
        self.fetches().under_way()
    }

    /// Begins a fetch in the background, unless one is under way or failed within [`REFRESH_PAUSE`], or the value is not
    /// due. The value is looked at under the lock, so one that arrived a moment ago is seen.
    pub(crate) fn begin_refresh(
        &self,
        now: Instant,
        is_due: impl FnOnce(&Held<T>) -> bool,
    ) -> Option<Flight<T>> {
        let mut fetches = self.fetches();
        let may_begin = fetches.refresh_not_before().is_none_or(|moment| now >= moment)
            && fetches.under_way().is_none()
            && self.get().is_none_or(|held| is_due(&held));
        may_begin.then(|| fetches.begin())
    }

    /// Decides under the lock what a caller has to do. `admit` is asked before a fetch begins.
    ///
    /// A fetch takes its value in before it ends, so one that ended a moment ago is seen.
    pub(crate) fn turn<R>(
        &self,
        serves: impl Fn(&Held<T>) -> bool,
        admit: impl FnOnce() -> std::result::Result<(), R>,
    ) -> Turn<T, R> {
        let mut fetches = self.fetches();
        if let Some(waiting) = fetches.under_way() {
            return Turn::Wait(waiting);
        }
        match self.get().filter(|held| serves(held)) {
            Some(held) => Turn::Take(held),
            None => admit().map_or_else(Turn::Refused, |()| Turn::Fetch(fetches.begin())),
        }
    }

    /// Ends a fetch, and takes its value in. `None` if the fetch is outdated.
    ///
    /// The caller announces the outcome.
    pub(crate) fn land(&self, flight: &Flight<T>, result: Result<T>) -> Option<Outcome<T>> {
        let mut fetches = self.fetches();
        let before = fetches.refresh_not_before();
        let is_outdated = fetches.epoch != flight.epoch;
        let refresh_not_before =
            if is_outdated { before } else { result.is_err().then(|| Instant::now() + REFRESH_PAUSE) };
        fetches.rare =
            refresh_not_before.map(|moment| Box::new(Rare { last: None, refresh_not_before: Some(moment) }));
        if is_outdated {
            return None;
        }
        Some(result.map(|value| {
            let held = Arc::new(Held { value, began: flight.began });
            self.held.store(Some(Arc::clone(&held)));
            held
        }))
    }

    fn fetches(&self) -> MutexGuard<'_, Fetches<T>> {
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + Sync + 'static> SingleFlight<T> {
    /// Returns the value if `is_fresh` says so, or waits for a fetch, and starts one if none is under way.
    ///
    /// A fetch is a task of its own. It goes on when the caller stops waiting, and its value is kept. A failed fetch
    /// is not kept: whoever asks next starts another one. `leave` is asked for permission before a fetch starts, and
    /// the permission is dropped when the fetch ends; `async || Ok(())` is for fetches without a bound.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Timeout`]: no outcome came until the deadline.
    /// - [`ErrorKind::Internal`]: the task that fetched ended without an outcome.
    /// - Any other kind: that of `leave`, or of the fetch.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub async fn fetch<G, L, F>(
        self: &Arc<Self>,
        wanted: Wanted,
        is_fresh: impl Fn(&Held<T>) -> bool + Send,
        mut leave: impl FnMut() -> L + Send,
        mut fetch: impl FnMut() -> F + Send,
    ) -> Result<Arc<Held<T>>>
    where
        G: Send + 'static,
        L: Future<Output = Result<G>> + Send,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let Wanted { after, deadline, operation } = wanted;
        let serves =
            move |held: &Held<T>| after.map_or_else(|| is_fresh(held), |moment| held.began >= moment);
        loop {
            if let Some(held) = self.get().filter(|held| serves(held)) {
                return Ok(held);
            }
            let waiting = if let Some(waiting) = self.under_way() {
                waiting
            } else {
                let permission = leave().await?;
                match self.turn::<Infallible>(&serves, || Ok(())) {
                    Turn::Take(held) => return Ok(held),
                    Turn::Wait(waiting) => waiting,
                    Turn::Fetch(flight) => self.start(flight, fetch(), permission),
                    Turn::Refused(never) => match never {},
                }
            };
            if let Some(outcome) = waiting.outcome(after, deadline, || operation.to_owned()).await? {
                return outcome;
            }
        }
    }

    /// Starts a fetch in the background, unless one is under way, failed within [`REFRESH_PAUSE`], or began within it and
    /// brought the value.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn refresh<F>(self: &Arc<Self>, fetch: impl FnOnce() -> F)
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let now = Instant::now();
        if let Some(flight) = self.begin_refresh(now, |held| held.age(now) >= REFRESH_PAUSE) {
            let _ = self.start(flight, fetch(), ());
        }
    }

    fn start<G: Send + 'static>(
        self: &Arc<Self>,
        flight: Flight<T>,
        fetch: impl Future<Output = Result<T>> + Send + 'static,
        permission: G,
    ) -> Waiting<T> {
        let (this, waiting) = (Arc::clone(self), flight.waiting());
        spawn(async move {
            let result = fetch.await;
            let landed = this.land(&flight, result);
            drop(permission);
            flight.announce(landed);
        });
        waiting
    }
}

#[cfg(test)]
#[cfg(not(feature = "model"))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn wanted(after: Option<Instant>, patience: Duration) -> Wanted {
        Wanted { after, deadline: Instant::now() + patience, operation: "count" }
    }

    /// Counts fetches, each of which takes a moment.
    #[derive(Default)]
    struct Source(AtomicUsize);

    impl Source {
        async fn count(self: Arc<Self>) -> Result<usize> {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(self.0.fetch_add(1, Ordering::SeqCst))
        }
    }

    async fn get(flight: &Arc<SingleFlight<usize>>, source: &Arc<Source>, wanted: Wanted) -> Result<usize> {
        let fetch = || Arc::clone(source).count();
        flight.fetch(wanted, |_| true, async || Ok(()), fetch).await.map(|held| **held)
    }

    #[tokio::test]
    async fn a_fetch_goes_on_without_whoever_began_it_and_is_joined_or_followed() {
        let (flight, source) = (Arc::<SingleFlight<usize>>::default(), Arc::<Source>::default());
        let impatient = get(&flight, &source, wanted(None, Duration::ZERO)).await;
        assert_eq!(impatient.unwrap_err().kind(), ErrorKind::Timeout);
        let (joined, later) = (wanted(None, LONG), wanted(Some(Instant::now()), LONG));
        let (joined, later) = tokio::join!(get(&flight, &source, joined), get(&flight, &source, later));
        assert_eq!((joined.unwrap(), later.unwrap()), (0, 1), "the first began too early for the other");
    }

    #[tokio::test]
    async fn a_refresh_brings_no_second_value_right_after_the_first() {
        let (flight, source) = (Arc::<SingleFlight<usize>>::default(), Arc::<Source>::default());
        flight.refresh(|| Arc::clone(&source).count());
        while flight.get().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Whoever looked before the value arrived asks for it after.
        flight.refresh(|| Arc::clone(&source).count());
        tokio::time::sleep(Duration::from_millis(50)).await;
        let first = flight.get().unwrap();
        assert!(
            *first.value() == 0 && source.0.load(Ordering::SeqCst) == 1
                || first.age(Instant::now()) >= REFRESH_PAUSE
        );
    }

    #[tokio::test]
    async fn a_failed_fetch_is_not_kept_and_is_no_reason_to_ask_all_the_time() {
        let flight = Arc::<SingleFlight<usize>>::default();
        let fail = || async { Err(Error::new(ErrorKind::Unreachable, "count")) };
        let failed = flight.fetch(wanted(None, LONG), |_| true, async || Ok(()), fail).await;
        assert_eq!(failed.err().map(|error| error.kind()), Some(ErrorKind::Unreachable));
        assert!(flight.is_vacant());
        flight.refresh(fail);
        assert!(flight.is_vacant(), "one failed a moment ago");
        assert_eq!(get(&flight, &Arc::default(), wanted(None, LONG)).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_fetch_that_panics_leaves_nobody_waiting() {
        let flight = Arc::<SingleFlight<usize>>::default();
        let fetch = || async { panic!("on purpose") };
        let failed = flight.fetch(wanted(None, LONG), |_| true, async || Ok(()), fetch).await;
        assert_eq!(failed.err().map(|error| error.kind()), Some(ErrorKind::Internal));
        assert_eq!(get(&flight, &Arc::default(), wanted(None, LONG)).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_value_that_is_put_in_is_not_replaced_by_an_older_one() {
        let (flight, source) = (Arc::<SingleFlight<usize>>::default(), Arc::<Source>::default());
        let reader = get(&flight, &source, wanted(None, LONG));
        let writer = async { flight.put(7, Instant::now()) };
        let (read, _) = tokio::join!(reader, writer);
        assert_eq!(read.unwrap(), 7);
        assert_eq!(flight.get().map(|held| **held), Some(7));
    }
}
