//! The one thread that writes, and how it comes back after an error.
//!
//! It takes what has come in, up to [`BATCH`] changes, commits them with one sync, shows them to readers, and answers.
//! Readers see the [`Index`] alone, so a change that failed is never seen. After an error the store is read-only until the
//! database could be opened anew and there is room on the disk; that is tried at most every [`RETRY_PAUSE`].

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kms_core::{Error, ErrorKind, Result};
use tokio::sync::oneshot;
use tracing::{error, warn};

use crate::config::FsConfig;
use crate::engine::{Ballast, Change, Engine};
use crate::error::OpenError;

/// The most changes that one sync covers.
const BATCH: usize = 256;
/// The most changes that wait; more are refused at once.
const QUEUE: usize = 4096;
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// All entries, as they are on the disk.
#[derive(Default)]
pub struct Index {
    entries: RwLock<BTreeMap<String, Box<[u8]>>>,
    /// Why the store is read-only, if it is.
    read_only: Mutex<Option<String>>,
}

impl Index {
    pub fn load(engine: &Engine) -> std::result::Result<Self, OpenError> {
        let index = Self::default();
        index.reload(engine)?;
        Ok(index)
    }

    pub fn entries(&self) -> RwLockReadGuard<'_, BTreeMap<String, Box<[u8]>>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn read_only(&self) -> Option<String> {
        self.read_only.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn reload(&self, engine: &Engine) -> std::result::Result<(), OpenError> {
        let mut fresh = BTreeMap::new();
        engine.for_each(|name, value| drop(fresh.insert(name, value)))?;
        *self.entries.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
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
            warn!(path = %config.path.display(), "store is read-only: no room for its reserve on the disk: {why}");
            index.set_read_only(Some(format!("no room for the reserve on the disk: {why}")));
        }
        let state = State { config, engine: Some(engine), index, ballast, retry_at: Instant::now() };
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
    retry_at: Instant,
}

impl State {
    fn run(mut self, incoming: &Receiver<Job>) {
        loop {
            let first = match incoming.recv_timeout(RETRY_PAUSE) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if self.index.read_only().is_some() && Instant::now() >= self.retry_at {
                self.recover();
            }
            if let Some(first) = first {
                let more = incoming.try_iter().take(BATCH - 1);
                self.commit(std::iter::once(first).chain(more).collect());
            }
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
            Err(why) => {
                for job in accepted.into_iter().chain(refused.into_iter().map(|(job, _)| job)) {
                    let error = job.fails_because(ErrorKind::ReadOnly, &why);
                    let _ = job.reply.send(Err(error));
                }
                self.fail(&why);
            }
        }
    }

    /// Sorts out what cannot be done, given the index and what the batch did before.
    fn sort(&self, jobs: Vec<Job>) -> (Vec<Job>, Vec<(Job, ErrorKind)>) {
        let entries = self.index.entries();
        let mut changed: HashMap<String, bool> = HashMap::new();
        let (mut accepted, mut refused) = (Vec::with_capacity(jobs.len()), Vec::new());
        for job in jobs {
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

    /// Goes read-only. sled shows what it failed to write, and takes nothing more, until it is opened anew.
    fn fail(&mut self, why: &str) {
        error!(path = %self.config.path.display(), "store is read-only until it can write again: {why}");
        self.index.set_read_only(Some(why.to_owned()));
        self.engine = None;
        self.retry_at = Instant::now();
        self.recover();
    }

    fn recover(&mut self) {
        if self.engine.is_none() {
            self.ballast.give_up();
            match Engine::open(&self.config).and_then(|engine| self.index.reload(&engine).map(|()| engine)) {
                Ok(engine) => self.engine = Some(engine),
                Err(why) => self.index.set_read_only(Some(why.to_string())),
            }
        }
        if self.engine.is_some() {
            match self.ballast.take() {
                Ok(()) => {
                    warn!(path = %self.config.path.display(), "store takes writes again");
                    self.index.set_read_only(None);
                }
                Err(why) => {
                    self.index.set_read_only(Some(format!("no room for the reserve on the disk: {why}")));
                }
            }
        }
        self.retry_at = Instant::now() + RETRY_PAUSE;
    }
}
