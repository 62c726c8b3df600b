//! The one thread that writes, and how it comes back after an error.
//!
//! It takes what has come in, up to [`BATCH`] changes, commits them with one sync, shows them to readers, and answers.
//!
//! Readers see the [`Index`] alone, which holds all entries in memory: a key takes some 400 bytes, a read needs no
//! system call, a change that failed is never seen, and reads go on whatever becomes of the disk.
//!
//! After an error the store is read-only. sled shows what it failed to write and takes nothing more until it is opened
//! anew, so it is closed, and opened when there is room on the disk. What it then holds is made to agree with the index:
//! a create that was answered with an error has not happened, and nothing that was acknowledged is lost.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kms_core::{Error, ErrorKind, Result};
use tokio::sync::oneshot;
use tracing::{error, warn};

use crate::ballast::Ballast;
use crate::config::FsConfig;
use crate::disk;
use crate::engine::{self, Change, Engine, Entries, MAX_COMMIT_LEN};

/// The most changes that one sync covers.
const BATCH: usize = 256;
/// The most changes that wait; more are refused at once.
const QUEUE: usize = 4096;
/// The pause after the first attempt to write again that failed; it doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(8);

/// All entries, as they are on the disk.
pub struct Index {
    entries: RwLock<Entries>,
    /// Why the store is read-only, if it is.
    read_only: Mutex<Option<String>>,
}

impl Index {
    pub fn new(entries: Entries) -> Self {
        Self { entries: RwLock::new(entries), read_only: Mutex::new(None) }
    }

    pub fn entries(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn read_only(&self) -> Option<String> {
        self.read_only.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_read_only(&self, why: Option<String>) {
        *self.read_only.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

/// A change, and where its outcome is awaited.
pub struct Job {
    pub name: String,
    /// The value to create; `None` deletes.
    pub value: Option<Box<[u8]>>,
    pub reply: oneshot::Sender<Result<()>>,
}

impl Job {
    fn len(&self) -> usize {
        self.name.len() + self.value.as_ref().map_or(0, |value| value.len())
    }

    fn fails_as(&self, kind: ErrorKind) -> Error {
        let doing = if self.value.is_some() { "create" } else { "delete" };
        Error::new(kind, format!("{doing} entry '{}'", self.name))
    }

    fn fails_because(&self, kind: ErrorKind, why: &str) -> Error {
        Error::with_source(kind, self.fails_as(kind).operation(), why)
    }
}

/// The handle of the writing thread; dropping it ends the thread after what it has begun.
pub struct Writer {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    pub fn start(config: FsConfig, engine: Engine, index: Arc<Index>) -> std::io::Result<Self> {
        let (jobs, incoming) = sync_channel(QUEUE);
        let ballast = Ballast::new(&config);
        if let Err(why) = ballast.take() {
            let why = no_room(&why);
            warn!(path = %config.path.display(), "store is read-only: {why}");
            index.set_read_only(Some(why));
        }
        let state = State {
            config,
            engine: Some(engine),
            index,
            ballast,
            unsynced: false,
            retry_at: Instant::now(),
            pause: FIRST_PAUSE,
        };
        let thread =
            std::thread::Builder::new().name("kms-fs writer".into()).spawn(move || state.run(&incoming))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Queues a change; its outcome comes through `job.reply`.
    pub fn submit(&self, job: Job) -> Result<()> {
        let Some(jobs) = &self.jobs else {
            return Err(job.fails_as(ErrorKind::Internal));
        };
        jobs.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(job) => job.fails_as(ErrorKind::Throttled),
            TrySendError::Disconnected(job) => job.fails_as(ErrorKind::Internal),
        })
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

struct State {
    config: FsConfig,
    /// `None` while the database could not be opened anew.
    engine: Option<Engine>,
    index: Arc<Index>,
    ballast: Ballast,
    /// Whether a sync failed, so that what can be read of the log need not be on the disk.
    unsynced: bool,
    retry_at: Instant,
    pause: Duration,
}

impl State {
    fn run(mut self, incoming: &Receiver<Job>) {
        loop {
            let patience = match self.index.read_only() {
                Some(_) => self.retry_at.saturating_duration_since(Instant::now()),
                None => Duration::MAX,
            };
            let first = match incoming.recv_timeout(patience) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if self.index.read_only().is_some() && Instant::now() >= self.retry_at {
                self.recover();
            }
            if let Some(first) = first {
                self.commit(batch(first, incoming));
            }
        }
        if let Some(engine) = self.engine.take() {
            engine.close();
        }
    }

    fn commit(&mut self, jobs: Vec<Job>) {
        let read_only = self.index.read_only();
        let (Some(engine), None) = (&self.engine, &read_only) else {
            let why = read_only.unwrap_or_default();
            for job in jobs {
                let error = job.fails_because(ErrorKind::ReadOnly, &why);
                let _ = job.reply.send(Err(error));
            }
            return;
        };
        let (accepted, refused) = self.sort(jobs);
        let changes: Vec<Change<'_>> = accepted
            .iter()
            .map(|job| match &job.value {
                Some(value) => Change::Create(&job.name, value),
                None => Change::Delete(&job.name),
            })
            .collect();
        let outcome = if changes.is_empty() { Ok(()) } else { engine.commit(&changes) };
        drop(changes);
        match outcome {
            Ok(()) => {
                self.publish(accepted);
                // What was refused may have been so for what this very batch did.
                for (job, kind) in refused {
                    let error = job.fails_as(kind);
                    let _ = job.reply.send(Err(error));
                }
            }
            Err(error) => {
                // Read-only before the first caller hears of it.
                self.fail(&error);
                let why = error.to_string();
                for job in accepted.into_iter().chain(refused.into_iter().map(|(job, _)| job)) {
                    let error = job.fails_because(ErrorKind::ReadOnly, &why);
                    let _ = job.reply.send(Err(error));
                }
                self.recover();
            }
        }
    }

    /// Sorts out what cannot be done, given the index and what the batch did before.
    fn sort(&self, jobs: Vec<Job>) -> (Vec<Job>, Vec<(Job, ErrorKind)>) {
        let entries = self.index.entries();
        let mut changed: HashMap<String, bool> = HashMap::new();
        let (mut accepted, mut refused) = (Vec::with_capacity(jobs.len()), Vec::new());
        // Whoever has stopped waiting is spared a change of unknown outcome.
        for job in jobs.into_iter().filter(|job| !job.reply.is_closed()) {
            let is_there = changed.get(&job.name).copied().unwrap_or_else(|| entries.contains_key(&job.name));
            match (&job.value, is_there) {
                (Some(_), true) => refused.push((job, ErrorKind::AlreadyExists)),
                (None, false) => refused.push((job, ErrorKind::NotFound)),
                (value, _) => {
                    changed.insert(job.name.clone(), value.is_some());
                    accepted.push(job);
                }
            }
        }
        (accepted, refused)
    }

    fn publish(&self, done: Vec<Job>) {
        let mut replies = Vec::with_capacity(done.len());
        {
            let mut entries = self.index.entries.write().unwrap_or_else(PoisonError::into_inner);
            for job in done {
                match job.value {
                    Some(value) => drop(entries.insert(job.name, value)),
                    None => drop(entries.remove(&job.name)),
                }
                replies.push(job.reply);
            }
        }
        for reply in replies {
            let _ = reply.send(Ok(()));
        }
    }

    /// Goes read-only.
    fn fail(&mut self, error: &io::Error) {
        error!(path = %self.config.path.display(), "store is read-only until it can write again: {error}");
        self.index.set_read_only(Some(error.to_string()));
        self.unsynced |= !disk::is_full(error);
        self.pause = FIRST_PAUSE;
        if let Some(engine) = self.engine.take() {
            engine.close();
        }
    }

    /// Tries to take writes again.
    fn recover(&mut self) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.try_to_recover()))
            .unwrap_or_else(|_| Err("the database panicked".to_owned()));
        match outcome {
            Ok(()) => {
                warn!(path = %self.config.path.display(), "store takes writes again");
                self.index.set_read_only(None);
            }
            Err(why) => {
                self.index.set_read_only(Some(why));
                self.retry_at = Instant::now() + self.pause;
                self.pause = LAST_PAUSE.min(self.pause * 2);
            }
        }
    }

    fn try_to_recover(&mut self) -> std::result::Result<(), String> {
        self.ballast.take_with_headroom().map_err(|error| no_room(&error))?;
        if self.engine.is_some() {
            return Ok(());
        }
        if self.unsynced {
            engine::write_back(&self.config.path).map_err(|error| format!("sync store: {error}"))?;
            self.unsynced = false;
        }
        let engine = Engine::open(&self.config).map_err(|error| error.to_string())?;
        let found = engine.entries().map_err(|error| error.to_string());
        let agreed =
            found.and_then(|found| self.make_agree(&engine, &found).map_err(|error| error.to_string()));
        match agreed {
            Ok(()) => self.engine = Some(engine),
            Err(_) => engine.close(),
        }
        agreed
    }

    /// Undoes what was refused and got to the disk all the same, and does again what was acknowledged and did not.
    fn make_agree(&self, engine: &Engine, found: &Entries) -> io::Result<()> {
        let entries = self.index.entries();
        let surplus = found.iter().filter(|(name, value)| entries.get(*name) != Some(value));
        let missing = entries.iter().filter(|(name, value)| found.get(*name) != Some(value));
        let changes: Vec<Change<'_>> = surplus
            .map(|(name, _)| Change::Delete(name))
            .chain(missing.map(|(name, value)| Change::Create(name, value)))
            .collect();
        changes.chunks(MAX_COMMIT_LEN / engine::MAX_VALUE_LEN).try_for_each(|changes| engine.commit(changes))
    }
}

/// Takes what has come in besides `first`, as far as one commit may hold it.
fn batch(first: Job, incoming: &Receiver<Job>) -> Vec<Job> {
    let mut len = first.len();
    let mut batch = vec![first];
    while batch.len() < BATCH && len + engine::MAX_VALUE_LEN <= MAX_COMMIT_LEN {
        let Ok(job) = incoming.try_recv() else { break };
        len += job.len();
        batch.push(job);
    }
    batch
}

fn no_room(error: &io::Error) -> String {
    format!("no room for the reserve on the disk: {error}")
}
