//! The thread that writes the escrow file, many lines at once.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, mem};

use jiff::Timestamp;
use tokio::sync::oneshot;
use tracing::{error, warn};

use super::contents::{Contents, Tail};
use super::file::EscrowFile;
use super::line::{Line, Place, Says, Sealed, Subject};

/// How many lines, and about how many bytes, are written at once.
const MOST_LINES: usize = 256;
pub const MOST_BYTES: usize = 512 << 10;

/// The pause after a failure, before the file is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// How many lines that nobody waits for are kept while the file cannot be written.
const MOST_KEPT: usize = 10_000;

/// Something to write.
#[derive(Clone)]
pub enum Draft {
    /// A record that the store may not have yet.
    Entry { subject: Subject, sealed: Vec<u8> },
    /// A record that was read from the store: an entry, and the mark that the store has it.
    InStore { subject: Subject, sealed: Vec<u8> },
    /// One other line.
    Line(Says),
}

impl Draft {
    fn lines(&self) -> usize {
        if let Self::InStore { .. } = self { 2 } else { 1 }
    }

    /// Returns about how many bytes it becomes in the file.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Entry { sealed, .. } | Self::InStore { sealed, .. } => 512 + sealed.len() * 4 / 3,
            Self::Line(_) => 256,
        }
    }
}

/// Why nothing was written, in words.
pub type Unwritten = Arc<str>;

struct Job {
    drafts: Vec<Draft>,
    /// Whether the lines are written later if they cannot be written now.
    is_kept: bool,
    reply: oneshot::Sender<Result<Vec<Place>, Unwritten>>,
}

/// How long a write may take before the file counts as one that cannot be written.
const SLOW: Duration = Duration::from_secs(10);

/// Whether the file can be written.
#[derive(Default)]
pub struct Health {
    failure: Mutex<Option<Unwritten>>,
    /// When the write that is under way began.
    began: Mutex<Option<Instant>>,
}

impl Health {
    /// Returns why the file cannot be written, if so.
    pub fn failure(&self) -> Option<Unwritten> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        failure.or_else(|| {
            let took = (*self.began.lock().unwrap_or_else(PoisonError::into_inner))?.elapsed();
            (took >= SLOW).then(|| format!("a write has been under way for {} s", took.as_secs()).into())
        })
    }

    /// Notes when the write began that is under way, or that none is.
    fn set_began(&self, began: Option<Instant>) {
        *self.began.lock().unwrap_or_else(PoisonError::into_inner) = began;
    }

    fn set(&self, failure: Option<Unwritten>) -> Option<Unwritten> {
        mem::replace(&mut *self.failure.lock().unwrap_or_else(PoisonError::into_inner), failure)
    }
}

/// The handle of the thread. It ends when this is dropped, after all that waits.
pub struct Writer {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    pub health: Arc<Health>,
}

impl Writer {
    /// Starts the thread for a file with these contents.
    pub fn start(file: EscrowFile, contents: &Contents) -> io::Result<Self> {
        let (jobs, incoming) = channel();
        let health = Arc::new(Health::default());
        let state = State {
            line_end: file.line_end()?,
            file,
            // What was cut off may be legible once its line has an end, and has the number of the batch after the last.
            batch: contents.batch.saturating_add(if contents.tail.is_some() { 2 } else { 1 }),
            tail: contents.tail,
            health: Arc::clone(&health),
            kept: Vec::new(),
            retry_at: Instant::now(),
        };
        let thread = thread::Builder::new().name("kms escrow".into()).spawn(move || state.run(&incoming))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), health })
    }

    /// Creates the handle of a thread that ends no write, as on a disk that hangs.
    #[cfg(test)]
    pub fn hanging() -> Self {
        let (jobs, incoming) = channel();
        mem::forget(incoming);
        Self { jobs: Some(jobs), thread: None, health: Arc::default() }
    }

    /// Writes and syncs drafts, in one batch. Returns their places.
    pub async fn write(&self, drafts: Vec<Draft>) -> Result<Vec<Place>, Unwritten> {
        self.submit(drafts, false).await.unwrap_or_else(|_| Err(ended()))
    }

    /// Writes and syncs drafts, now or when it is possible again. Fails if it cannot be done now.
    pub async fn write_sometime(&self, drafts: Vec<Draft>) -> Result<(), Unwritten> {
        self.submit(drafts, true).await.unwrap_or_else(|_| Err(ended())).map(drop)
    }

    /// Writes drafts and waits for nothing.
    pub fn write_later(&self, drafts: Vec<Draft>) {
        drop(self.submit(drafts, true));
    }

    fn submit(&self, drafts: Vec<Draft>, is_kept: bool) -> oneshot::Receiver<Result<Vec<Place>, Unwritten>> {
        let (reply, outcome) = oneshot::channel();
        if let Some(jobs) = &self.jobs {
            // If the thread has ended, the reply is dropped, and the receiver says so.
            let _ = jobs.send(Job { drafts, is_kept, reply });
        }
        outcome
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn ended() -> Unwritten {
    "the thread that writes it has ended".into()
}

struct State {
    file: EscrowFile,
    /// The number of the next batch.
    batch: u64,
    /// What the next batch tells first.
    tail: Option<Tail>,
    /// What comes before the next batch: the end of a line that was cut off.
    line_end: &'static str,
    health: Arc<Health>,
    /// What is written as soon as it is possible.
    kept: Vec<Draft>,
    retry_at: Instant,
}

impl State {
    fn run(mut self, incoming: &Receiver<Job>) {
        loop {
            let first = if self.kept.is_empty() && self.health.failure().is_none() {
                incoming.recv().ok()
            } else {
                match incoming.recv_timeout(self.retry_at.saturating_duration_since(Instant::now())) {
                    Ok(job) => Some(job),
                    Err(RecvTimeoutError::Timeout) => {
                        self.recover();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => None,
                }
            };
            let Some(first) = first else { break };
            if self.health.failure().is_some() && Instant::now() >= self.retry_at {
                self.recover();
            }
            self.commit(batch(first, incoming));
        }
        if !self.kept.is_empty() {
            self.recover();
        }
        if !self.kept.is_empty() {
            error!(
                path = %self.file.path().display(), lines = self.kept.len(),
                "escrow: deletions and restores could not be noted, so a restore from escrow does not know of them"
            );
        }
    }

    fn commit(&mut self, jobs: Vec<Job>) {
        let refused = self.health.failure();
        let outcome = match &refused {
            Some(why) => Err(Arc::clone(why)),
            None => self.append(jobs.iter().flat_map(|job| &job.drafts)).map_err(|error| self.fail(&error)),
        };
        match outcome {
            Ok(places) => {
                let mut places = places.into_iter();
                for job in jobs {
                    let places = places.by_ref().take(job.drafts.len()).collect();
                    let _ = job.reply.send(Ok(places));
                }
            }
            Err(why) => {
                for job in jobs {
                    if job.is_kept && self.kept.len() < MOST_KEPT {
                        self.kept.extend(job.drafts);
                    } else if job.is_kept {
                        error!(
                            "escrow: too much waits for the escrow file, so a deletion or a restore is not noted"
                        );
                    }
                    let _ = job.reply.send(Err(Arc::clone(&why)));
                }
            }
        }
    }

    /// Writes and syncs one batch. Returns the places of the drafts.
    fn append<'a>(&mut self, drafts: impl Iterator<Item = &'a Draft>) -> io::Result<Vec<Place>> {
        let at = Timestamp::now();
        let mut says = Vec::new();
        let place = |says: &Vec<Says>, batch| Place {
            batch,
            // A batch has far fewer lines.
            n: u32::try_from(says.len() + 1).unwrap_or(u32::MAX),
        };
        if let Some(Tail { batch, offset }) = self.tail {
            says.push(Says::Torn { batch, offset });
        }
        let mut places = Vec::new();
        for draft in drafts {
            let place = place(&says, self.batch);
            places.push(place);
            match draft.clone() {
                Draft::Entry { subject, sealed } => {
                    says.push(Says::Entry { subject, sealed: Sealed::Whole(sealed) });
                }
                Draft::InStore { subject, sealed } => {
                    says.push(Says::Entry { subject: subject.clone(), sealed: Sealed::Whole(sealed) });
                    says.push(Says::Stored { entry: place, subject });
                }
                Draft::Line(line) => says.push(line),
            }
        }
        let of = u32::try_from(says.len()).map_err(io::Error::other)?;
        let mut text = self.line_end.to_owned();
        let next = self.batch.checked_add(1).ok_or_else(|| io::Error::other("it has the last batch"))?;
        for (n, says) in (1..).zip(says) {
            Line { place: Place { batch: self.batch, n }, of, at, says }.push_to(&mut text);
        }
        self.health.set_began(Some(Instant::now()));
        let appended = self.file.append(&text);
        self.health.set_began(None);
        appended?;
        self.batch = next;
        (self.tail, self.line_end) = (None, "");
        Ok(places)
    }

    fn fail(&mut self, error: &io::Error) -> Unwritten {
        let why = Unwritten::from(error.to_string());
        let path = self.file.path().display();
        if self.health.set(Some(Arc::clone(&why))).is_none() {
            error!(%path, "escrow: the file cannot be written: {why}");
        }
        self.retry_at = Instant::now() + PAUSE;
        why
    }

    /// Tries to write again.
    fn recover(&mut self) {
        self.retry_at = Instant::now() + PAUSE;
        let kept = mem::take(&mut self.kept);
        let is_failing = self.health.failure().is_some();
        let recovered = if is_failing { self.file.recover() } else { Ok(()) };
        let written = recovered.and_then(|()| {
            for part in kept.chunks(MOST_LINES) {
                self.append(part.iter())?;
            }
            Ok(())
        });
        match written {
            Ok(()) => {
                if self.health.set(None).is_some() {
                    warn!(path = %self.file.path().display(), "escrow: the file can be written again");
                }
            }
            Err(error) => {
                // What was written already is written twice then, which changes nothing.
                self.kept = kept;
                self.fail(&error);
            }
        }
    }
}

/// Takes further waiting jobs after `first`, as many as one batch may hold.
fn batch(first: Job, incoming: &Receiver<Job>) -> Vec<Job> {
    let size = |job: &Job| {
        let lines: usize = job.drafts.iter().map(Draft::lines).sum();
        let bytes: usize = job.drafts.iter().map(Draft::bytes).sum();
        (lines, bytes)
    };
    let (mut lines, mut bytes) = size(&first);
    let mut jobs = vec![first];
    while lines < MOST_LINES && bytes < MOST_BYTES {
        let Ok(job) = incoming.try_recv() else { break };
        let more = size(&job);
        (lines, bytes) = (lines + more.0, bytes + more.1);
        jobs.push(job);
    }
    jobs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_hangs_is_told() {
        let health = Health::default();
        health.set_began(Some(Instant::now()));
        assert_eq!(health.failure(), None);
        health.set_began(Instant::now().checked_sub(SLOW));
        assert!(health.failure().is_some_and(|why| why.contains("under way for 10 s")));
        health.set_began(None);
        assert_eq!(health.failure(), None);
    }
}
