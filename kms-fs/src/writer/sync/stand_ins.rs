//! The primitives of a model: shuttle's, and stand-ins of the clock and the disk.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, TryRecvError};
use std::sync::{Arc, PoisonError, atomic};
use std::time::Duration;

use shuttle::rand::{Rng as _, thread_rng};
use shuttle::sync::mpsc;
pub use shuttle::sync::mpsc::SyncSender;
pub use shuttle::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use shuttle::thread::{Builder as Thread, JoinHandle};

use crate::config::FsConfig;
use crate::database::Engine;
use crate::entries::{Change, Entries};
use crate::error::OpenError;
use crate::journal::{Head, Journal};
use crate::writer::files::Judged;

/// Stand-in of the clock. It advances at every look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    const STEP: Duration = Duration::from_secs(1);

    pub fn now() -> Self {
        static LOOKS: atomic::AtomicU32 = atomic::AtomicU32::new(0);
        Self(Self::STEP * LOOKS.fetch_add(1, atomic::Ordering::Relaxed))
    }

    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0 + time)
    }
}

pub fn sync_channel<T>(bound: usize) -> (SyncSender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::sync_channel(bound);
    (sender, Receiver(receiver))
}

/// Stand-in of std's receiver: shuttle's, whose waits never time out by themselves.
pub struct Receiver<T>(mpsc::Receiver<T>);

impl<T> Receiver<T> {
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.0.try_recv()
    }

    pub fn recv_timeout(&self, patience: Duration) -> Result<T, RecvTimeoutError> {
        if thread_rng().r#gen() {
            return self.0.recv_timeout(patience);
        }
        self.0.try_recv().map_err(|error| match error {
            TryRecvError::Empty => RecvTimeoutError::Timeout,
            TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
        })
    }
}

thread_local! {
    static DISK: RefCell<Arc<Disk>> = RefCell::default();
}

/// Stand-in of the disk. It fails at random.
#[derive(Default)]
pub struct Disk {
    pub synced: Mutex<BTreeMap<String, Option<Box<[u8]>>>>,
    /// One of this number of writes fails, and one of two attempts to open the files again. Nothing fails at
    /// zero.
    pub fails_one_of: u32,
    /// Whether a failure lasts for ever.
    pub stays_bad: bool,
}

impl Disk {
    /// Makes this the disk that the writer uses in the present model.
    pub fn insert(self) -> Arc<Self> {
        let disk = Arc::new(self);
        DISK.with(|current| current.replace(Arc::clone(&disk)));
        disk
    }

    pub fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Option<Box<[u8]>>>> {
        self.synced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns everything that is on the disk.
    pub fn entries(&self) -> Entries {
        self.lock().iter().map(|(name, value)| (name, value.as_deref())).collect()
    }

    fn fails(&self) -> bool {
        self.fails_one_of > 0 && thread_rng().gen_range(0..self.fails_one_of) == 0
    }
}

/// Stand-in of journal and database.
pub struct Files(Arc<Disk>);

#[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "as the original")]
impl Files {
    pub fn new(_: Engine, _: Journal) -> Self {
        Self::of_model()
    }

    pub fn of_model() -> Self {
        Self(DISK.with(|current| Arc::clone(&current.borrow())))
    }

    pub fn is_in_place(&self) -> bool {
        true
    }

    pub fn write(self, _: &Path, changes: &[Change<'_>], _: &[Change<'_>]) -> io::Result<Self> {
        for change in changes {
            if self.0.fails() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let mut synced = self.0.lock();
            match *change {
                Change::Create(name, value) => {
                    let before = synced.insert(name.to_owned(), Some(value.into()));
                    assert!(before.is_none(), "'{name}' is there already");
                }
                Change::Replace(name, value) => {
                    let before = synced.insert(name.to_owned(), Some(value.into()));
                    assert!(before.is_some(), "'{name}' is not there");
                }
                Change::Delete(name) => assert!(synced.remove(name).is_some(), "'{name}' is not there"),
            }
        }
        Ok(self)
    }

    pub fn hold(&self, entries: &Entries) -> bool {
        *entries == self.0.entries()
    }

    pub fn reopen(self, _: &FsConfig) -> Result<Self, OpenError> {
        if self.0.fails() {
            return Err(OpenError::io("open", Path::new("model"))(io::ErrorKind::StorageFull.into()));
        }
        Ok(self)
    }

    /// Judges as the original does: the database has what the journal lacks.
    pub fn judge(_: &FsConfig, _: &Head, _: &Entries) -> Result<Judged<Self>, OpenError> {
        let files = Self::of_model();
        if files.0.fails_one_of > 0 && thread_rng().r#gen() {
            return Err(OpenError::io("read", Path::new("model"))(io::ErrorKind::Other.into()));
        }
        let entries = files.0.entries();
        Ok(Judged { entries, doubt: None, notes: Vec::new(), files: Ok(files) })
    }

    pub fn note_deleted(&mut self, _: &str, _: usize) {}

    pub fn compact(&mut self, _: &Path, _: &Head, _: &Entries) {}

    pub fn close(self) {}

    pub fn end(self, _: &Path) {}

    pub fn write_back(_: &Path) -> io::Result<()> {
        Ok(())
    }

    pub fn open_anew(_: &FsConfig, _: &Head, entries: &Entries, _: bool) -> Result<Self, OpenError> {
        let files = Self::of_model();
        if files.0.stays_bad || thread_rng().r#gen() {
            return Err(OpenError::io("open", Path::new("model"))(io::ErrorKind::StorageFull.into()));
        }
        let owned = |(name, value): (&str, Option<&[u8]>)| (name.to_owned(), value.map(Into::into));
        *files.0.lock() = entries.iter().map(owned).collect();
        Ok(files)
    }
}

/// Stand-in of the ballast. There is always room for it.
pub struct Ballast;

#[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "as the original")]
impl Ballast {
    pub fn new(_: &FsConfig) -> Self {
        Self
    }

    pub fn take(&self) -> io::Result<()> {
        Ok(())
    }

    pub fn take_with_headroom(&self) -> io::Result<()> {
        Ok(())
    }
}
