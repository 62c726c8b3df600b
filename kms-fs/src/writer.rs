//! The one thread that writes, and how it comes back after an error.
//!
//! It takes what has come in, up to [`BATCH`] changes, writes them to the journal and syncs it, commits them to the database
//! with one sync, shows them to readers, and answers. What the database refuses is cut off the journal again.
//!
//! Readers see the [`Index`] alone, which holds all entries in memory: a key takes some 400 bytes, a read needs no
//! system call, a change that failed is never seen, and reads go on whatever becomes of the disk.
//!
//! After an error the store is read-only. sled shows what it failed to write and takes nothing more until it is opened
//! anew, so it is closed, and opened when there is room on the disk. What it then holds is made to agree with the index:
//! a create that was answered with an error has not happened, and nothing that was acknowledged is lost.
//!
//! A directory that was removed or replaced would take writes that no later start finds. So it is looked at before each batch,
//! and now and then; without it the store is read-only until it is back.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kms_core::{Error, ErrorKind, Result};
use tokio::sync::oneshot;
use tracing::{error, warn};

use crate::ballast::{BALLAST_FILE, Ballast};
use crate::config::FsConfig;
use crate::disk;
use crate::engine::{self, Change, Engine, Entries, MAX_COMMIT_LEN};
use crate::error::OpenError;
use crate::journal::{Head, Journal, Scan};
use crate::mark::Mark;
use crate::merge::merge;
use crate::repair::{self, Known};

/// The most changes that one sync covers.
const BATCH: usize = 256;
/// The most changes that wait; more are refused at once.
const QUEUE: usize = 4096;
/// The pause after the first attempt to write again that failed; it doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(8);
/// How often it is made sure that the directory is still there.
const LOOK: Duration = Duration::from_secs(2);
const NOT_IN_PLACE: &str = "its directory was removed or replaced while it was open";

/// All entries, as they are on the disk.
pub struct Index {
    entries: RwLock<Entries>,
    /// How many entries there are whose values are lost.
    lost: AtomicUsize,
    /// Why a name that is not found may have been there all the same.
    doubt: Option<String>,
    /// Why the store is read-only, if it is.
    read_only: Mutex<Option<String>>,
}

impl Index {
    pub fn new(entries: Entries, doubt: Option<String>) -> Self {
        let lost = AtomicUsize::new(entries.values().filter(|value| value.is_none()).count());
        Self { entries: RwLock::new(entries), lost, doubt, read_only: Mutex::new(None) }
    }

    /// Returns how many entries there are whose values are lost.
    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }

    /// Returns why a name that is not found may have been there all the same.
    pub fn doubt(&self) -> Option<&str> {
        self.doubt.as_deref()
    }

    pub fn entries(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn read_only(&self) -> Option<String> {
        self.read_only.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_read_only(&self, why: Option<String>) {
        *self.read_only.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

/// A change, and where its outcome is awaited.
pub struct Job {
    pub name: String,
    /// The value to create; `None` deletes.
    pub value: Option<Box<[u8]>>,
    /// Whether a name may be deleted whose value is lost.
    pub discard: bool,
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
    /// Starts the thread; with the reason where the store cannot be written yet, for want of room.
    pub fn start(
        config: FsConfig,
        head: Head,
        opened: std::result::Result<(Engine, Journal), String>,
        index: &Arc<Index>,
    ) -> io::Result<Self> {
        let (jobs, incoming) = sync_channel(QUEUE);
        let ballast = Ballast::new(&config);
        let why = match &opened {
            Ok(_) => ballast.take().err().map(|error| no_room(&error)),
            Err(why) => Some(why.clone()),
        };
        if let Some(why) = why {
            warn!(path = %config.path.display(), "store is read-only: {why}");
            index.set_read_only(Some(why));
        }
        let state = State {
            config,
            head,
            open: opened.ok(),
            index: Arc::clone(index),
            ballast,
            unsynced: false,
            displaced: false,
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
    head: Head,
    /// `None` while they could not be opened anew.
    open: Option<(Engine, Journal)>,
    index: Arc<Index>,
    ballast: Ballast,
    /// Whether a sync failed, so that what can be read of the files need not be on the disk.
    unsynced: bool,
    /// Whether the directory was seen to be another.
    displaced: bool,
    retry_at: Instant,
    pause: Duration,
}

impl State {
    fn run(mut self, incoming: &Receiver<Job>) {
        loop {
            let patience = match self.index.read_only() {
                Some(_) => self.retry_at.saturating_duration_since(Instant::now()),
                None => LOOK,
            };
            let first = match incoming.recv_timeout(patience) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if self.index.read_only().is_some() && Instant::now() >= self.retry_at {
                self.recover();
            }
            if self.index.read_only().is_none() {
                self.look();
            }
            if let Some(first) = first {
                self.commit(batch(first, incoming));
            }
        }
        if let Some((engine, journal)) = self.open.take() {
            engine.close();
            if let Err(error) = journal.sync_notes() {
                warn!(path = %self.config.path.display(), "how far the journal reaches could not be synced: {error}");
            }
        }
    }

    /// Goes read-only if the directory is no longer the one that was opened.
    fn look(&mut self) {
        let Some((engine, journal)) = &self.open else { return };
        if engine.is_in_place() && journal.is_in_place() {
            return;
        }
        error!(
            path = %self.config.path.display(),
            "store is read-only: {NOT_IN_PLACE}; keys in memory are served, and are lost at the end of this process \
             unless the directory is put back"
        );
        self.index.set_read_only(Some(NOT_IN_PLACE.to_owned()));
        self.displaced = true;
        (self.pause, self.retry_at) = (FIRST_PAUSE, Instant::now() + FIRST_PAUSE);
    }

    fn commit(&mut self, jobs: Vec<Job>) {
        let read_only = self.index.read_only();
        if self.open.is_none() || read_only.is_some() {
            let why = read_only.unwrap_or_default();
            for job in jobs {
                let error = job.fails_because(ErrorKind::ReadOnly, &why);
                let _ = job.reply.send(Err(error));
            }
            return;
        }
        let (accepted, refused) = self.sort(jobs);
        let changes: Vec<Change<'_>> = accepted
            .iter()
            .map(|job| match &job.value {
                Some(value) => Change::Create(&job.name, value),
                None => Change::Delete(&job.name),
            })
            .collect();
        let outcome = self.write(&changes);
        drop(changes);
        match outcome {
            Ok(()) => {
                self.publish(accepted);
                // What was refused may have been so for what this very batch did.
                for (job, kind) in refused {
                    let error = job.fails_as(kind);
                    let _ = job.reply.send(Err(error));
                }
                self.compact();
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

    /// Brings changes to the disk: to the journal, and then to the database.
    fn write(&mut self, changes: &[Change<'_>]) -> io::Result<()> {
        let Some((engine, mut journal)) = self.open.take() else { return Ok(()) };
        if changes.is_empty() {
            self.open = Some((engine, journal));
            return Ok(());
        }
        let mark = journal.mark();
        let in_database: Vec<Change<'_>> = {
            let entries = self.index.entries();
            // A name whose value is lost is in no database.
            let is_there = |change: &&Change<'_>| match change {
                Change::Create(..) => true,
                Change::Delete(name) => !matches!(entries.get(*name), Some(None)),
            };
            changes.iter().filter(is_there).copied().collect()
        };
        let outcome = journal.append(changes).and_then(|()| engine.commit(&in_database, journal.batch()));
        if outcome.is_ok() {
            if let Err(error) = journal.note_done() {
                warn!(path = %self.config.path.display(), "how far the journal reaches could not be noted: {error}");
            }
            self.open = Some((engine, journal));
            return outcome;
        }
        // If this fails too the next opening finds the batch, and makes the journal agree with the index.
        if let Err(error) = journal.cut(mark) {
            warn!(path = %self.config.path.display(), "the journal could not be cut: {error}");
        }
        engine.close();
        outcome
    }

    /// Writes the journal anew when half of it is dead.
    fn compact(&mut self) {
        let Some((_, journal)) = &mut self.open else { return };
        if !journal.is_half_dead() {
            return;
        }
        match Journal::write(&self.config.path, &self.head, journal.batch(), &self.index.entries()) {
            Ok(written) => *journal = written,
            // The one that is there goes on.
            Err(error) => {
                warn!(path = %self.config.path.display(), "the journal could not be written anew: {error}");
                journal.put_off_rewrite();
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
                (None, true) if !job.discard && matches!(entries.get(&job.name), Some(None)) => {
                    refused.push((job, ErrorKind::Corrupt));
                }
                (value, _) => {
                    changed.insert(job.name.clone(), value.is_some());
                    accepted.push(job);
                }
            }
        }
        (accepted, refused)
    }

    fn publish(&mut self, done: Vec<Job>) {
        let mut replies = Vec::with_capacity(done.len());
        {
            let mut entries = self.index.entries.write().unwrap_or_else(PoisonError::into_inner);
            for job in done {
                if let Some(value) = job.value {
                    entries.insert(job.name, Some(value));
                } else {
                    let before = entries.remove(&job.name).flatten();
                    if before.is_none() {
                        self.index.lost.fetch_sub(1, Ordering::Relaxed);
                    }
                    let before = before.map_or(0, |value| value.len());
                    if let Some((_, journal)) = &mut self.open {
                        journal.note_deleted(&job.name, before);
                    }
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
        if let Some((engine, _)) = self.open.take() {
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
        if self.displaced {
            let in_place =
                |(engine, journal): &(Engine, Journal)| engine.is_in_place() && journal.is_in_place();
            if !self.open.as_ref().is_some_and(in_place) {
                return Err(NOT_IN_PLACE.to_owned());
            }
            self.displaced = false;
        }
        self.ballast.take_with_headroom().map_err(|error| no_room(&error))?;
        if self.open.is_some() {
            return Ok(());
        }
        if self.unsynced {
            engine::write_back(&self.config.path).map_err(|error| format!("sync store: {error}"))?;
        }
        let opened = self.open_anew().map_err(|error| error.to_string())?;
        self.open = Some(opened);
        self.unsynced = false;
        Ok(())
    }

    /// Opens journal and database, and makes them agree with the index: undoes what was refused and got to the disk all the
    /// same, and does again what was acknowledged and did not.
    fn open_anew(&self) -> std::result::Result<(Engine, Journal), OpenError> {
        let path = &self.config.path;
        let text = Journal::read(path).map_err(OpenError::io("read", Journal::path_in(path)))?;
        let scan = text.as_deref().map(Scan::of);
        let mut notes = Vec::new();
        let last = Mark::read(path).map_or(0, |(_, last)| last);
        let found = repair::find(&self.config, scan.as_ref(), last, &mut notes)?;
        let (database, engine) = found.map_or((None, None), |found| (Some(found.database), found.engine));
        let engine = engine.map(|engine| (engine, database.as_ref().and_then(|database| database.batch)));
        let entries = self.index.entries();
        let merged = merge(scan.as_ref(), database, last);
        let agrees = merged.entries == *entries;
        let scan = scan.filter(|scan| {
            agrees && merged.journal_agrees && !self.unsynced && scan.head.as_ref() == Some(&self.head)
        });
        let known = Known {
            scan: scan.as_ref(),
            engine,
            database_agrees: agrees && merged.database_agrees,
            journal_has_more: false,
            last,
        };
        let opened = repair::settle(&self.config, &self.head, &entries, known, &mut notes);
        if !notes.is_empty() {
            warn!(path = %path.display(), "{}", notes.join("; "));
        }
        opened
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
    if disk::is_full(error) {
        format!("no room for the reserve on the disk: {error}")
    } else {
        format!("the reserve on the disk, the file '{BALLAST_FILE}', cannot be taken: {error}")
    }
}
