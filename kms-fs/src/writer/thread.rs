//! The one thread that writes, and its recovery after an error.
//!
//! The thread takes up to [`BATCH`] waiting changes. It writes them to the journal and syncs it, commits them
//! to the database with one sync, shows them to readers, and answers. A batch that the database refuses is cut
//! off the journal again.
//!
//! Readers see only the [`Index`], which holds all entries in memory. A key takes its own bytes and some ten more, and a
//! read needs no system call. A failed change is never seen, and reads go on whatever happens to the disk.
//!
//! After an error the store is read-only. sled shows what it failed to write, and takes nothing more until it
//! is opened anew. So it is closed, and opened again when the disk has room. Then its content is made to agree
//! with the index: a create that was answered with an error has not happened, and nothing that was acknowledged
//! is lost.
//!
//! A directory that was removed or replaced would take writes that no later start finds. So it is checked
//! before each batch, and every few seconds. While it is away, the store is read-only.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, TrySendError};
use std::time::Duration;

use kms_core::{Error, ErrorKind, Result};
use tokio::sync::oneshot;
use tracing::{error, warn};

use super::files::Judged;
use super::index::{Index, Refusing};
use super::sync::{Ballast, Files, Instant, JoinHandle, Receiver, SyncSender, Thread, sync_channel};
use crate::config::FsConfig;
use crate::database::{MAX_COMMIT_LEN, MAX_VALUE_LEN};
use crate::disk::BALLAST_FILE;
use crate::entries::Change;
use crate::error::is_full;
use crate::journal::Head;
use crate::recovery::told;

/// The largest number of changes that one sync covers.
const BATCH: usize = 256;
/// The largest number of changes that wait. Further ones are refused at once.
const QUEUE: usize = 4096;
/// The pause after the first failed attempt to write again. It doubles up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(8);
/// The time between two checks that the directory is still there.
const LOOK: Duration = Duration::from_secs(2);
const NOT_IN_PLACE: &str = "its directory was removed or replaced while it was open";

/// A change, and the place where its outcome is awaited.
pub struct Job {
    pub name: String,
    /// The value to create; `None` deletes.
    pub value: Option<Box<[u8]>>,
    pub means: Means,
    pub reply: oneshot::Sender<Result<()>>,
}

/// What a change may do to what is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// A create needs a free name, and a delete a value that can be read.
    Change,
    /// The value takes the place of the one that is there.
    Replace,
    /// The name may be deleted even if its value is lost.
    Discard,
}

impl Job {
    fn len(&self) -> usize {
        self.name.len() + self.value.as_ref().map_or(0, |value| value.len())
    }

    fn fails_as(&self, kind: ErrorKind) -> Error {
        let doing = match (&self.value, self.means) {
            (Some(_), Means::Replace) => "replace",
            (Some(_), _) => "create",
            (None, _) => "delete",
        };
        Error::new(kind, format!("{doing} entry '{}'", self.name))
    }

    fn fails_because(&self, refusing: &Refusing) -> Error {
        let Refusing { why, kind } = refusing;
        Error::with_source(*kind, self.fails_as(*kind).operation(), why.as_str())
    }
}

/// The handle of the writing thread. Dropping it ends the thread after the work that it has begun.
pub struct Writer {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. `opened` is a reason if there was no room to open the files for writing.
    pub fn start(
        config: FsConfig,
        head: Head,
        opened: std::result::Result<Files, String>,
        index: &Arc<Index>,
    ) -> io::Result<Self> {
        let (jobs, incoming) = sync_channel(QUEUE);
        let ballast = Ballast::new(&config);
        let why = match &opened {
            Ok(_) => ballast.take().err().map(|error| no_room(&error)),
            Err(why) => Some(Refusing::of_full(true, why.clone())),
        };
        if let Some(why) = why {
            warn!(path = %config.path.display(), "store is read-only: {}", why.why);
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
            standing: if index.is_compared() { Standing::Judged } else { Standing::OfJournal },
            retry_at: Instant::now(),
            pause: FIRST_PAUSE,
        };
        let thread = Thread::new().name("kms-fs writer".into()).spawn(move || state.run(&incoming))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Queues a change. Its outcome comes through `job.reply`.
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

/// What the index stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The journal says so, and the database may have more.
    OfJournal,
    /// Journal and database together say so, and both can be made to agree with it.
    Judged,
    /// Nothing may be written until an operator decides.
    InDoubt,
}

struct State {
    config: FsConfig,
    head: Head,
    /// `None` until the files could be opened anew.
    open: Option<Files>,
    index: Arc<Index>,
    ballast: Ballast,
    /// Whether a sync failed, so that a part of what can be read may not be on the disk.
    unsynced: bool,
    /// Whether the directory was seen to be another one.
    displaced: bool,
    standing: Standing,
    retry_at: Instant,
    pause: Duration,
}

impl State {
    fn run(mut self, incoming: &Receiver<Job>) {
        if self.standing == Standing::OfJournal {
            self.compare();
        }
        loop {
            let patience = match self.index.read_only() {
                Some(_) if self.standing != Standing::InDoubt => {
                    self.retry_at.saturating_duration_since(Instant::now())
                }
                _ => LOOK,
            };
            let first = match incoming.recv_timeout(patience) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if self.index.read_only().is_some()
                && self.standing != Standing::InDoubt
                && Instant::now() >= self.retry_at
            {
                self.recover();
            }
            if self.index.read_only().is_none() {
                self.look();
            }
            if let Some(first) = first {
                self.commit(batch(first, incoming));
            }
        }
        if let Some(files) = self.open.take() {
            files.end(&self.config.path);
        }
    }

    /// Compares the database with the index, which the start took from the journal.
    fn compare(&mut self) {
        let same = catch_unwind(AssertUnwindSafe(|| {
            self.open.as_ref().is_some_and(|files| files.hold(&self.index.entries()))
        }));
        if !same.unwrap_or(false) {
            self.judge();
            return;
        }
        self.standing = Standing::Judged;
        self.index.set_compared();
        // On a full disk a database may not open again, and in another directory there is another one.
        let is_in_place = self.open.as_ref().is_some_and(Files::is_in_place);
        if self.index.read_only().is_some() || !is_in_place || self.ballast.take_with_headroom().is_err() {
            return;
        }
        let Some(files) = self.open.take() else { return };
        match files.reopen(&self.config) {
            Ok(files) => self.open = Some(files),
            Err(error) => {
                self.fail(&io::Error::other(error.to_string()));
                self.recover();
            }
        }
    }

    /// Judges what the store holds, since journal and database differ. Nothing was written since the start.
    fn judge(&mut self) {
        if self.open.as_ref().is_some_and(|files| !files.is_in_place()) {
            if !self.displaced {
                self.look();
            }
            self.index.set_doubt(Some(NOT_IN_PLACE.to_owned()));
            self.index.set_compared();
            self.put_off();
            return;
        }
        self.displaced = false;
        if let Some(files) = self.open.take() {
            files.close();
        }
        let outcome =
            catch_unwind(AssertUnwindSafe(|| Files::judge(&self.config, &self.head, &self.index.entries())));
        let outcome = outcome.map_or_else(
            |_| Err(Refusing::because("the database panicked")),
            |judged| judged.map_err(|error| Refusing::of_full(error.is_full(), error.to_string())),
        );
        let path = &self.config.path;
        match outcome {
            Ok(Judged { entries, doubt, notes, files }) => {
                for told in told(path, &notes, &entries, doubt.as_deref()) {
                    warn!("{told}");
                }
                *self.index.change() = entries;
                let no_room = files.as_ref().err().map(|why| Refusing::of_full(true, why.clone()));
                if let Some(refusing) = doubt.clone().map(Refusing::because).or(no_room) {
                    self.index.set_read_only(Some(refusing));
                }
                // An operator has to decide about a doubt, so nothing is tried again.
                self.standing = if doubt.is_some() { Standing::InDoubt } else { Standing::Judged };
                self.index.set_doubt(doubt);
                self.open = files.ok();
                (self.retry_at, self.pause) = (Instant::now(), FIRST_PAUSE);
            }
            Err(refusing) => {
                let why = refusing.why.clone();
                error!(path = %path.display(), "store is read-only until its database can be read: {why}");
                self.index.set_read_only(Some(refusing));
                self.index.set_doubt(Some(why));
                self.put_off();
            }
        }
        self.index.set_compared();
    }

    /// Has the next attempt wait, each time longer.
    fn put_off(&mut self) {
        self.retry_at = Instant::now() + self.pause;
        self.pause = LAST_PAUSE.min(self.pause * 2);
    }

    /// Goes read-only if the directory is no longer the one that was opened.
    fn look(&mut self) {
        if self.open.as_ref().is_none_or(Files::is_in_place) {
            return;
        }
        error!(
            path = %self.config.path.display(),
            "store is read-only: {NOT_IN_PLACE}; keys in memory are served, and are lost at the end of this process \
             unless the directory is put back"
        );
        self.index.set_read_only(Some(Refusing::because(NOT_IN_PLACE)));
        self.displaced = true;
        (self.pause, self.retry_at) = (FIRST_PAUSE, Instant::now() + FIRST_PAUSE);
    }

    fn commit(&mut self, jobs: Vec<Job>) {
        let read_only = self.index.read_only();
        if self.open.is_none() || read_only.is_some() {
            let refusing = read_only.unwrap_or_else(|| Refusing::because(""));
            for job in jobs {
                let error = job.fails_because(&refusing);
                let _ = job.reply.send(Err(error));
            }
            return;
        }
        let (accepted, refused) = self.sort(jobs);
        let changes: Vec<Change<'_>> = accepted
            .iter()
            .map(|job| match &job.value {
                Some(value) if job.means == Means::Replace => Change::Replace(&job.name, value),
                Some(value) => Change::Create(&job.name, value),
                None => Change::Delete(&job.name),
            })
            .collect();
        let outcome = self.write(&changes);
        drop(changes);
        match outcome {
            Ok(()) => {
                self.publish(accepted);
                // The reason of a refusal may be this very batch, so it is given after the batch is visible.
                for (job, kind) in refused {
                    let error = job.fails_as(kind);
                    let _ = job.reply.send(Err(error));
                }
                if let Some(files) = &mut self.open {
                    files.compact(&self.config.path, &self.head, &self.index.entries());
                }
            }
            Err(error) => {
                // The store is read-only before the first caller hears of it.
                self.fail(&error);
                let refusing = Refusing::of_full(is_full(&error), error.to_string());
                for job in accepted.into_iter().chain(refused.into_iter().map(|(job, _)| job)) {
                    let error = job.fails_because(&refusing);
                    let _ = job.reply.send(Err(error));
                }
                self.recover();
            }
        }
    }

    /// Writes changes to the disk.
    fn write(&mut self, changes: &[Change<'_>]) -> io::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let Some(files) = self.open.take() else { return Ok(()) };
        let in_database: Vec<Change<'_>> = {
            let entries = self.index.entries();
            // A name whose value is lost is in no database.
            let is_there = |change: &&Change<'_>| match change {
                Change::Create(..) | Change::Replace(..) => true,
                Change::Delete(name) => !matches!(entries.get(name), Some(None)),
            };
            changes.iter().filter(is_there).copied().collect()
        };
        self.open = Some(files.write(&self.config.path, changes, &in_database)?);
        Ok(())
    }

    /// Separates changes that are possible from those that are not, given the index and earlier changes of the
    /// batch.
    fn sort(&self, jobs: Vec<Job>) -> (Vec<Job>, Vec<(Job, ErrorKind)>) {
        let entries = self.index.entries();
        let mut changed: HashMap<String, bool> = HashMap::new();
        let (mut accepted, mut refused) = (Vec::with_capacity(jobs.len()), Vec::new());
        // A caller that stopped waiting would not hear the outcome, so its change is dropped.
        for job in jobs.into_iter().filter(|job| !job.reply.is_closed()) {
            let is_there = changed.get(&job.name).copied().unwrap_or_else(|| entries.contains(&job.name));
            let needs_entry = job.value.is_none() || job.means == Means::Replace;
            match (&job.value, is_there) {
                (Some(_), true) if !needs_entry => refused.push((job, ErrorKind::AlreadyExists)),
                (_, false) if needs_entry => refused.push((job, ErrorKind::NotFound)),
                (_, true) if job.means != Means::Discard && matches!(entries.get(&job.name), Some(None)) => {
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
            let mut entries = self.index.change();
            for job in done {
                if job.value.is_none() || job.means == Means::Replace {
                    let before = entries.remove(&job.name).unwrap_or_default();
                    if let Some(files) = &mut self.open {
                        files.note_deleted(&job.name, before);
                    }
                }
                if let Some(value) = job.value {
                    entries.insert(&job.name, Some(&value));
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
        self.index.set_read_only(Some(Refusing::of_full(is_full(error), error.to_string())));
        self.unsynced |= !is_full(error);
        self.pause = FIRST_PAUSE;
        if let Some(files) = self.open.take() {
            files.close();
        }
    }

    /// Tries to take writes again.
    fn recover(&mut self) {
        if self.standing == Standing::OfJournal {
            self.judge();
            return;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| self.try_to_recover()))
            .unwrap_or_else(|_| Err(Refusing::because("the database panicked")));
        match outcome {
            Ok(()) => {
                warn!(path = %self.config.path.display(), "store takes writes again");
                self.index.set_read_only(None);
            }
            Err(refusing) => {
                self.index.set_read_only(Some(refusing));
                self.put_off();
            }
        }
    }

    fn try_to_recover(&mut self) -> std::result::Result<(), Refusing> {
        if self.displaced {
            if !self.open.as_ref().is_some_and(Files::is_in_place) {
                return Err(Refusing::because(NOT_IN_PLACE));
            }
            self.displaced = false;
        }
        self.ballast.take_with_headroom().map_err(|error| no_room(&error))?;
        if self.open.is_some() {
            return Ok(());
        }
        if self.unsynced {
            Files::write_back(&self.config.path)
                .map_err(|error| Refusing::of_full(is_full(&error), format!("sync store: {error}")))?;
        }
        let opened = Files::open_anew(&self.config, &self.head, &self.index.entries(), self.unsynced);
        self.open = Some(opened.map_err(|error| Refusing::of_full(error.is_full(), error.to_string()))?);
        self.unsynced = false;
        Ok(())
    }
}

/// Takes further waiting changes after `first`, as many as one commit may hold.
fn batch(first: Job, incoming: &Receiver<Job>) -> Vec<Job> {
    let mut len = first.len();
    let mut batch = vec![first];
    while batch.len() < BATCH && len + MAX_VALUE_LEN <= MAX_COMMIT_LEN {
        let Ok(job) = incoming.try_recv() else { break };
        len += job.len();
        batch.push(job);
    }
    batch
}

fn no_room(error: &io::Error) -> Refusing {
    let why = if is_full(error) {
        format!("no room for the reserve on the disk: {error}")
    } else {
        format!("the reserve on the disk, the file '{BALLAST_FILE}', cannot be taken: {error}")
    };
    Refusing::of_full(is_full(error), why)
}
