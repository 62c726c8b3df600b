//! The primitives of a model: shuttle's, and stand-ins for those that shuttle lacks.
//!
//! Every stand-in keeps the promises of its original. It is built on shuttle's locks, so that the checker can switch
//! tasks before each of its operations. Time is a stand-in too: a task that sleeps lets others run a few times.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, OnceLock, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

pub use shuttle::future::spawn;
use shuttle::future::yield_now;
use shuttle::rand::{Rng as _, thread_rng};
pub use shuttle::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
pub use shuttle::sync::{Mutex, MutexGuard};

pub use self::semaphore::{OwnedSemaphorePermit, Semaphore};

mod semaphore;
pub mod watch;

/// A deadline sooner than this may come at any moment of a model. A later one never comes.
const SOON: Duration = Duration::from_secs(5);
/// How often a task that sleeps lets others run: one of these.
const NAPS: [u32; 4] = [0, 2, 8, 32];

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stand-in of arc-swap's pointer.
pub struct ArcSwapOption<T>(Mutex<Option<Arc<T>>>);

impl<T> Default for ArcSwapOption<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> ArcSwapOption<T> {
    pub fn load_full(&self) -> Option<Arc<T>> {
        lock(&self.0).clone()
    }

    pub fn swap(&self, value: Option<Arc<T>>) -> Option<Arc<T>> {
        std::mem::replace(&mut *lock(&self.0), value)
    }

    pub fn store(&self, value: Option<Arc<T>>) {
        drop(self.swap(value));
    }
}

/// Stand-in of papaya's map.
pub struct SharedMap<K, V>(Mutex<BTreeMap<K, V>>);

/// Holds the entries that were found in the map, also after their removal.
pub struct Pinned<'a, K, V> {
    map: &'a SharedMap<K, V>,
    held: Held<(K, V)>,
}

/// A list that only grows, so that its entries can be borrowed.
struct Held<T>(OnceLock<Box<(T, Held<T>)>>);

impl<T> Held<T> {
    fn hold(&self, thing: T) -> &T {
        let mut place = self;
        while let Some(next) = place.0.get() {
            place = &next.1;
        }
        &place.0.get_or_init(|| Box::new((thing, Held(OnceLock::new())))).0
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    pub fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    pub fn pin(&self) -> Pinned<'_, K, V> {
        Pinned { map: self, held: Held(OnceLock::new()) }
    }
}

impl<K: Ord + Clone, V: Clone> Pinned<'_, K, V> {
    pub fn len(&self) -> usize {
        lock(&self.map.0).len()
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        let value = lock(&self.map.0).get(key).cloned()?;
        Some(self.hold(key, value))
    }

    #[expect(clippy::needless_pass_by_value, reason = "papaya takes it so")]
    pub fn get_or_insert_with(&self, key: K, make: impl FnOnce() -> V) -> &V {
        let value = match lock(&self.map.0).entry(key.clone()) {
            Entry::Occupied(there) => there.get().clone(),
            Entry::Vacant(place) => place.insert(make()).clone(),
        };
        self.hold(&key, value)
    }

    pub fn remove(&self, key: &K) -> Option<&V> {
        let value = lock(&self.map.0).remove(key)?;
        Some(self.hold(key, value))
    }

    fn hold(&self, key: &K, value: V) -> &V {
        &self.held.hold((key.clone(), value)).1
    }
}

impl<K: Ord + Clone, T> Pinned<'_, K, Arc<T>> {
    /// Judges and removes in two steps, as papaya does. The entry may change between them.
    pub fn remove_if(
        &self,
        key: &K,
        mut may: impl FnMut(&K, &Arc<T>) -> bool,
    ) -> Result<Option<&Arc<T>>, ()> {
        loop {
            let Some(value) = lock(&self.map.0).get(key).cloned() else { return Ok(None) };
            if !may(key, &value) {
                return Err(());
            }
            let mut map = lock(&self.map.0);
            if map.get(key).is_some_and(|there| Arc::ptr_eq(there, &value)) {
                map.remove(key);
                drop(map);
                return Ok(Some(self.hold(key, value)));
            }
        }
    }
}

impl<'a, K: Clone, V: Clone> IntoIterator for &'a Pinned<'_, K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        let entries: Vec<(K, V)> =
            lock(&self.map.0).iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let held: Vec<_> =
            entries.into_iter().map(|entry| self.held.hold(entry)).map(|(key, value)| (key, value)).collect();
        held.into_iter()
    }
}

/// Stand-in of tokio's instant.
#[derive(Clone, Copy)]
pub struct Moment(Instant);

impl From<Instant> for Moment {
    fn from(moment: Instant) -> Self {
        Self(moment)
    }
}

/// The error of a future that did not end in time.
#[derive(Debug)]
pub struct Elapsed;

/// Stand-in of tokio's timeout. A deadline that is due soon comes when the checker wants it.
pub async fn timeout_at<F: Future>(deadline: Moment, future: F) -> Result<F::Output, Elapsed> {
    let mut left = deadline.0.saturating_duration_since(Instant::now()).lt(&SOON).then(naps);
    let mut future = pin!(future);
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        match &mut left {
            None => Poll::Pending,
            Some(0) => Poll::Ready(Err(Elapsed)),
            Some(left) => {
                *left -= 1;
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    })
    .await
}

/// Stand-in of tokio's sleep.
pub async fn sleep(_: Duration) {
    for _ in 0..naps() {
        yield_now().await;
    }
}

/// Stand-in of tokio's sleep.
pub async fn sleep_until(_: Moment) {
    sleep(Duration::ZERO).await;
}

fn naps() -> u32 {
    NAPS[thread_rng().gen_range(0..NAPS.len())]
}
