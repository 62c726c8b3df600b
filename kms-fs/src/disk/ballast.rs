//! A reserve of space on the disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::files::refuse_other_types;
use crate::config::FsConfig;

/// The name of the ballast file.
pub const BALLAST_FILE: &str = "ballast";

/// A file that only takes up space. It is given up when a full disk would keep the database from being opened.
///
/// sled writes when it is opened, and fails on a full disk. The ballast is for the start of a process: a
/// running store needs none to go on reading. The store takes writes only while the ballast is whole. After a
/// full disk it takes them again only when as much space is free as well.
pub struct Ballast {
    path: PathBuf,
    size: u64,
}

impl Ballast {
    /// Describes the ballast of a store.
    pub fn new(config: &FsConfig) -> Self {
        Self { path: config.path.join(BALLAST_FILE), size: config.ballast }
    }

    /// Takes the space, or as much of it as there is.
    ///
    /// Fails if the space is not all there.
    pub fn take(&self) -> io::Result<()> {
        let file = self.open()?;
        if file.metadata()?.len() >= self.size {
            return Ok(());
        }
        let mut taken = reserve(&file, self.size);
        if taken.is_err() {
            let parts = (1..8).rev().map(|eighths| self.size / 8 * eighths);
            parts.into_iter().find(|part| reserve(&file, *part).is_ok());
        }
        if taken.is_ok() {
            taken = file.sync_all();
        }
        taken
    }

    /// Takes the space, and checks that as much is free as well.
    pub fn take_with_headroom(&self) -> io::Result<()> {
        self.take()?;
        let file = self.open()?;
        let found = reserve(&file, self.size * 2);
        if file.metadata()?.len() > self.size {
            file.set_len(self.size)?;
        }
        found
    }

    /// Gives the space back.
    pub fn give_up(&self) -> io::Result<()> {
        let file = self.open()?;
        file.set_len(0)?;
        file.sync_all()
    }

    fn open(&self) -> io::Result<File> {
        refuse_other_types(&self.path)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).open(&self.path)
    }
}

/// Allocates at least `size` bytes for `file`.
fn reserve(file: &File, size: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, size) {
        // A file system without fallocate may compress, so the bytes are random.
        Err(Errno::OPNOTSUPP) => fill(file, size),
        reserved => reserved.map_err(Into::into),
    }
}

fn fill(file: &File, size: u64) -> io::Result<()> {
    let mut block = vec![0; 64 << 10];
    let mut offset = file.metadata()?.len();
    while offset < size {
        kms_core::primitives::fill_random(&mut block)
            .map_err(|error| io::Error::other(error.chain().to_string()))?;
        file.write_all_at(&block, offset)?;
        offset += block.len() as u64;
    }
    Ok(())
}
