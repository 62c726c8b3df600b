//! The lock on a store's directory. It names its holder.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::files::refuse_other_types;
use crate::error::OpenError;

/// The name of the lock file.
pub const LOCK_FILE: &str = "lock";

/// How long to wait for the lock.
///
/// A process that forks shares its locks with the child until the child runs another program.
const PATIENCE: Duration = Duration::from_millis(300);

/// A held lock. The kernel releases it when the process ends, however it ends.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock on the store in `path` without writing to it.
    ///
    /// Returns `None` where there is no lock file, so that nobody can hold the lock.
    pub fn take_to_read(path: &Path) -> Result<Option<Self>, OpenError> {
        let lock_path = path.join(LOCK_FILE);
        if !refuse_other_types(&lock_path).map_err(OpenError::io("look at lock file", &lock_path))? {
            return Ok(None);
        }
        let mut file = File::open(&lock_path).map_err(OpenError::io("open lock file", &lock_path))?;
        Self::lock(&mut file, path)?;
        Ok(Some(Self { _file: file }))
    }

    /// Takes the lock on the store in the directory `path`.
    pub fn take(path: &Path) -> Result<Self, OpenError> {
        let lock_path = path.join(LOCK_FILE);
        refuse_other_types(&lock_path).map_err(OpenError::io("look at lock file", &lock_path))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&lock_path).map_err(OpenError::io("open lock file", &lock_path))?;
        Self::lock(&mut file, path)?;
        // A full disk may refuse the process id. The lock holds all the same.
        let _ = file
            .set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }

    fn lock(file: &mut File, path: &Path) -> Result<(), OpenError> {
        let began = Instant::now();
        loop {
            match flock(&*file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < PATIENCE => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let mut holder = String::new();
                    let _ = file.read_to_string(&mut holder);
                    return Err(OpenError::InUse { path: path.into(), pid: holder.trim().parse().ok() });
                }
                Err(error) => return Err(OpenError::io("lock", path.join(LOCK_FILE))(error.into())),
            }
        }
    }
}
