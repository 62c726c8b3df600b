//! Passes the events of a log to its readers: each gets every event from its arrival on, and none delays the others.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use hyper::body::Bytes;
use kms_core::Identity;

/// The most readers at once.
const MAX_READERS: usize = 64;

/// The most readers of one identity.
const MAX_READERS_OF_ONE: usize = 8;

/// The most bytes that a reader may be behind. Beyond it the reader is cut off.
const MAX_BEHIND: usize = 4 << 20;

/// The most bytes that are passed on at once. Bytes that a connection has taken do not count as being behind.
const MAX_PIECE: usize = 16 << 10;

/// Passes events to readers.
#[derive(Default)]
pub struct Hub {
    readers: Mutex<Vec<Entry>>,
    count: AtomicUsize,
}

/// A reader, as seen by the hub.
struct Entry {
    identity: Option<Identity>,
    queue: Arc<Queue>,
    rules: Box<dyn Rules>,
}

/// The rules for a reader.
pub trait Rules: Send + Sync + 'static {
    /// Returns whether the reader may still read, by the rules in force.
    fn may_read(&self) -> bool;

    /// Called when the reader was too slow and gets nothing more.
    fn is_cut_off(&self) {}
}

/// The events that a reader has not read yet.
#[derive(Debug, Default)]
struct Queue(Mutex<Behind>);

#[derive(Debug, Default)]
struct Behind {
    lines: VecDeque<Bytes>,
    bytes: usize,
    /// Whether nothing more will come.
    is_closed: bool,
    is_cut_off: bool,
    /// Whether the reader has read up to the end of a line.
    is_at_line: bool,
    waker: Option<Waker>,
}

impl Queue {
    fn behind(&self) -> MutexGuard<'_, Behind> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds lines. Returns false if the reader is behind and these are too many.
    fn add(&self, lines: &Bytes) -> bool {
        let mut behind = self.behind();
        // A reader that has read everything may take any number at once.
        if behind.bytes != 0 && behind.bytes + lines.len() > MAX_BEHIND {
            return false;
        }
        behind.bytes += lines.len();
        behind.lines.push_back(lines.clone());
        wake(behind);
        true
    }

    fn close(&self, rest: Rest) {
        let mut behind = self.behind();
        behind.is_closed = true;
        match rest {
            Rest::All => {}
            Rest::None => behind.forget(),
            Rest::Line => {
                let of_line = behind.lines.front().filter(|_| !behind.is_at_line).map(|lines| {
                    let end = lines.iter().position(|&byte| byte == b'\n').map_or(lines.len(), |at| at + 1);
                    Bytes::copy_from_slice(lines.get(..end).unwrap_or(lines))
                });
                behind.forget();
                behind.is_cut_off = true;
                behind.bytes = of_line.as_ref().map_or(0, Bytes::len);
                behind.lines.extend(of_line);
            }
        }
        wake(behind);
    }
}

impl Behind {
    fn forget(&mut self) {
        self.lines = VecDeque::new();
        self.bytes = 0;
    }
}

/// What a reader still gets after its end.
#[derive(Clone, Copy)]
enum Rest {
    All,
    None,
    /// The line that it has begun.
    Line,
}

fn wake(mut behind: MutexGuard<'_, Behind>) {
    let waker = behind.waker.take();
    drop(behind);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The events for one reader. Dropping it frees the reader's place.
#[derive(Debug)]
pub struct Reader(Arc<Queue>);

impl Reader {
    /// Takes the next lines, or a part of them. Returns `None` at the end.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut behind = self.0.behind();
        if let Some(lines) = behind.lines.front_mut() {
            let piece = lines.split_to(lines.len().min(MAX_PIECE));
            if lines.is_empty() {
                behind.lines.pop_front();
            }
            behind.bytes -= piece.len();
            behind.is_at_line = piece.last() == Some(&b'\n');
            return Poll::Ready(Some(piece));
        }
        if behind.is_closed {
            return Poll::Ready(None);
        }
        behind.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Returns whether the reader was too slow and gets nothing more.
    pub fn is_cut_off(&self) -> bool {
        self.0.behind().is_cut_off
    }

    /// Waits for the next lines.
    #[cfg(test)]
    pub async fn recv(&mut self) -> Option<Bytes> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.close(Rest::None);
    }
}

/// Why there is no place for another reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMany {
    /// There are too many readers.
    Readers,
    /// There are too many readers of this identity.
    OfOne,
}

impl Hub {
    /// Creates a hub without readers.
    pub const fn new() -> Self {
        Self { readers: Mutex::new(Vec::new()), count: AtomicUsize::new(0) }
    }

    /// Adds a reader, which may read as long as its rules allow it.
    pub fn subscribe(&self, identity: Option<Identity>, rules: impl Rules) -> Result<Reader, TooMany> {
        let mut readers = self.readers();
        readers.retain(|reader| !reader.queue.behind().is_closed);
        if readers.len() >= MAX_READERS {
            return Err(TooMany::Readers);
        }
        if readers.iter().filter(|reader| reader.identity == identity).count() >= MAX_READERS_OF_ONE {
            return Err(TooMany::OfOne);
        }
        let queue = Arc::new(Queue(Mutex::new(Behind { is_at_line: true, ..Behind::default() })));
        readers.push(Entry { identity, queue: Arc::clone(&queue), rules: Box::new(rules) });
        self.count.store(readers.len(), Ordering::Relaxed);
        Ok(Reader(queue))
    }

    /// Returns whether there are readers.
    pub fn has_readers(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    /// Passes whole lines to all readers. Returns the identities of the readers that are now cut off for being too slow.
    pub fn send(&self, lines: &Bytes) -> Vec<Option<Identity>> {
        let mut cut_off = Vec::new();
        if lines.is_empty() || !self.has_readers() {
            return cut_off;
        }
        let mut readers = self.readers();
        readers.retain(|reader| {
            if reader.queue.behind().is_closed {
                return false;
            }
            let is_in_time = reader.queue.add(lines);
            if !is_in_time {
                reader.queue.close(Rest::Line);
                reader.rules.is_cut_off();
                cut_off.push(reader.identity);
            }
            is_in_time
        });
        self.count.store(readers.len(), Ordering::Relaxed);
        cut_off
    }

    /// Ends the readers that may no longer read, after the rules have changed.
    pub fn end_refused(&self) {
        let mut readers = self.readers();
        readers.retain(|reader| {
            let may_read = reader.rules.may_read();
            if !may_read {
                reader.queue.close(Rest::None);
            }
            may_read
        });
        self.count.store(readers.len(), Ordering::Relaxed);
    }

    /// Ends all readers.
    pub fn close(&self) {
        let mut readers = self.readers();
        readers.drain(..).for_each(|reader| reader.queue.close(Rest::All));
        self.count.store(0, Ordering::Relaxed);
    }

    fn readers(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Rules for () {
    fn may_read(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    async fn rest(mut reader: Reader) -> Vec<u8> {
        let mut rest = Vec::new();
        while let Some(piece) = reader.recv().await {
            assert!(piece.len() <= MAX_PIECE);
            rest.extend_from_slice(&piece);
        }
        rest
    }

    #[tokio::test]
    async fn readers_get_what_comes_after_them_and_none_holds_up_another() {
        let hub = Hub::new();
        let mut first = hub.subscribe(None, ()).unwrap();
        assert!(hub.send(&Bytes::from_static(b"1\n")).is_empty());
        let second = hub.subscribe(None, ()).unwrap();
        hub.send(&Bytes::from_static(b"2\n"));
        assert_eq!(first.recv().await.unwrap(), "1\n");
        assert_eq!(first.recv().await.unwrap(), "2\n");
        drop(first);
        hub.send(&Bytes::from_static(b"3\n"));
        assert!(hub.has_readers());
        hub.close();
        assert!(!hub.has_readers());
        assert_eq!(rest(second).await, b"2\n3\n");
    }

    #[tokio::test]
    async fn a_reader_that_is_too_slow_is_cut_off_after_whole_lines() {
        let hub = Hub::new();
        let identity = Some(Identity::of_public_key(b"slow"));
        let slow = hub.subscribe(identity, ()).unwrap();
        let mut half = hub.subscribe(identity, ()).unwrap();
        let mut quick = hub.subscribe(None, ()).unwrap();
        let batch = Bytes::from("x".repeat(99_999) + "\n");
        let mut sent = 0;
        let cut_off = loop {
            let cut_off = hub.send(&batch);
            while sent != 0 && quick.0.behind().bytes != 0 {
                quick.recv().await.unwrap();
            }
            if !cut_off.is_empty() {
                break cut_off;
            }
            if sent == 0 {
                assert_eq!(half.recv().await.unwrap().len(), MAX_PIECE);
            }
            sent += batch.len();
        };
        assert_eq!(cut_off, [identity]);
        while half.0.behind().bytes > batch.len() {
            hub.send(&batch);
        }
        assert!(half.is_cut_off());
        assert_eq!(rest(half).await.len(), batch.len() - MAX_PIECE, "the line that it had begun");
        assert!((MAX_BEHIND / 2..=MAX_BEHIND).contains(&sent), "{sent} bytes waited");
        assert_eq!(rest(slow).await, b"");
        assert!(hub.has_readers(), "the other one goes on");
        while quick.0.behind().bytes != 0 {
            quick.recv().await.unwrap();
        }
        let large = Bytes::from(vec![b'y'; MAX_BEHIND + 1]);
        assert!(hub.send(&large).is_empty(), "who has read all may get any number at once");
    }

    #[test]
    fn there_are_not_too_many_readers_of_one_and_of_all() {
        let hub = Hub::new();
        let identity = |number: usize| Some(Identity::of_public_key(&[u8::try_from(number).unwrap()]));
        let of_one = |number| (0..MAX_READERS_OF_ONE).map(move |_| number);
        let mut readers: Vec<_> =
            of_one(0).map(|number| hub.subscribe(identity(number), ()).unwrap()).collect();
        assert_eq!(hub.subscribe(identity(0), ()).unwrap_err(), TooMany::OfOne);
        for number in (1..MAX_READERS / MAX_READERS_OF_ONE).flat_map(of_one) {
            readers.push(hub.subscribe(identity(number), ()).unwrap());
        }
        assert_eq!(hub.subscribe(identity(99), ()).unwrap_err(), TooMany::Readers);
        readers.pop();
        assert!(hub.subscribe(identity(99), ()).is_ok());
    }

    struct Switch(Arc<AtomicBool>);

    impl Rules for Switch {
        fn may_read(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn who_may_no_longer_read_reads_no_more() {
        let hub = Hub::new();
        let may_read = Arc::new(AtomicBool::new(true));
        let reader = hub.subscribe(None, Switch(Arc::clone(&may_read))).unwrap();
        hub.end_refused();
        hub.send(&Bytes::from_static(b"1\n"));
        may_read.store(false, Ordering::Relaxed);
        hub.end_refused();
        hub.send(&Bytes::from_static(b"2\n"));
        assert_eq!(rest(reader).await, b"");
    }
}
