//! Events for readers who stay: each gets every event from when it came, and none can hold up the others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use hyper::body::Bytes;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// The most readers at once.
const MAX_READERS: usize = 64;

/// How many events a reader may be behind before it misses some.
const MAX_BEHIND: usize = 1024;

/// Hands events to its readers.
#[derive(Default)]
pub struct Hub {
    readers: Mutex<Vec<Reader>>,
    count: AtomicUsize,
}

struct Reader {
    lines: Sender<Bytes>,
    /// Tells whether it may still read, by the rules in force.
    may_read: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Hub {
    /// Makes one without readers.
    pub const fn new() -> Self {
        Self { readers: Mutex::new(Vec::new()), count: AtomicUsize::new(0) }
    }

    /// Adds a reader, for as long as `may_read`; `None` if there are too many.
    pub fn subscribe(&self, may_read: impl Fn() -> bool + Send + Sync + 'static) -> Option<Receiver<Bytes>> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|reader| !reader.lines.is_closed());
        if readers.len() >= MAX_READERS {
            return None;
        }
        let (lines, receiver) = channel(MAX_BEHIND);
        readers.push(Reader { lines, may_read: Box::new(may_read) });
        self.count.store(readers.len(), Ordering::Relaxed);
        Some(receiver)
    }

    /// Tells whether anybody reads.
    pub fn has_readers(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    /// Hands one or more whole lines to all readers; one that is too far behind misses them.
    pub fn send(&self, lines: &Bytes) {
        if !self.has_readers() {
            return;
        }
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers
            .retain(|reader| !matches!(reader.lines.try_send(lines.clone()), Err(TrySendError::Closed(_))));
        self.count.store(readers.len(), Ordering::Relaxed);
    }

    /// Ends the streams of those who may no longer read: the rules have changed.
    pub fn end_refused(&self) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|reader| (reader.may_read)());
        self.count.store(readers.len(), Ordering::Relaxed);
    }

    /// Ends all streams.
    pub fn close(&self) {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.count.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_get_what_comes_after_them_and_none_holds_up_another() {
        let hub = Hub::new();
        let mut first = hub.subscribe(|| true).unwrap();
        hub.send(&Bytes::from_static(b"1"));
        let mut second = hub.subscribe(|| true).unwrap();
        for _ in 0..MAX_BEHIND + 5 {
            hub.send(&Bytes::from_static(b"2"));
        }
        assert_eq!(first.try_recv().unwrap(), "1");
        assert_eq!(second.try_recv().unwrap(), "2");
        drop(first);
        hub.send(&Bytes::from_static(b"3"));
        assert!(hub.has_readers());
        hub.close();
        assert!(!hub.has_readers());
        let rest: Vec<_> = std::iter::from_fn(|| second.try_recv().ok()).collect();
        assert_eq!(rest.last().unwrap(), "3");
    }

    #[test]
    fn there_are_not_too_many_readers() {
        let hub = Hub::new();
        let mut readers: Vec<_> = (0..MAX_READERS).map(|_| hub.subscribe(|| true).unwrap()).collect();
        assert!(hub.subscribe(|| true).is_none());
        readers.pop();
        assert!(hub.subscribe(|| true).is_some());
    }
}
