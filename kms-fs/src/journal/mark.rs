//! The mark: the number of the last acknowledged batch, in a file of its own. Journal and database have to
//! reach it.
//!
//! A journal that was cut at the end of a line looks whole, and so does a database whose replay ended early.
//! The number tells that they are not.
//!
//! The number is written before a batch is acknowledged, and synced only when the store is closed. After a
//! power cut it may be too low, and never too high.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::disk;
use crate::keys::StoreId;

/// The name of the file in the store's directory.
pub const MARK_FILE: &str = "last";

/// The open file of the mark.
pub struct Mark {
    file: File,
    store_id: StoreId,
}

impl Mark {
    /// Reads the store's id and the number.
    ///
    /// Returns `None` where there is no mark, or none that can be read.
    pub fn read(directory: &Path) -> Option<(StoreId, u64)> {
        let bytes = disk::read_regular(&directory.join(MARK_FILE)).ok()??;
        let text = String::from_utf8(bytes).ok()?;
        let mut words = text.split_whitespace().skip(1);
        let mut store_id = StoreId::default();
        hex::decode_to_slice(words.next()?, &mut store_id).ok()?;
        let number = words.next()?.parse().ok()?;
        (text == line(&store_id, number)).then_some((store_id, number))
    }

    /// Opens the file, or creates it.
    pub fn open(directory: &Path, store_id: &StoreId) -> io::Result<Self> {
        let path = directory.join(MARK_FILE);
        let named = |error: io::Error| io::Error::new(error.kind(), format!("'{}': {error}", path.display()));
        disk::refuse_other_types(&path).map_err(named)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        let file = match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // The journal's name is synced first: a mark alone would look like a store that lost
                // everything.
                disk::sync_file(directory)?;
                options.create(true).truncate(false).open(&path)
            }
            opened => opened,
        };
        let file = file.map_err(named)?;
        Ok(Self { file, store_id: *store_id })
    }

    /// Notes that batch `number` is on the disk, in journal and database.
    pub fn set(&self, number: u64) -> io::Result<()> {
        self.file.write_all_at(line(&self.store_id, number).as_bytes(), 0)
    }

    /// Makes the number durable.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// Returns the line of the file. Its length is always the same, so that one write replaces it.
fn line(store_id: &StoreId, number: u64) -> String {
    let text = format!("{} {number:020}", hex::encode(store_id));
    format!("{:08x} {text}\n", crc32fast::hash(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_that_of_its_store_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let ours = [1; 16];
        assert_eq!(Mark::read(dir.path()), None);
        let mark = Mark::open(dir.path(), &ours).unwrap();
        for number in [1, 9, 1_000_000, u64::MAX] {
            mark.set(number).unwrap();
            assert_eq!(Mark::read(dir.path()), Some((ours, number)));
        }
        let file = dir.path().join(MARK_FILE);
        let good = std::fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&file, bad).unwrap();
            assert_eq!(Mark::read(dir.path()), None, "{at}");
        }
    }
}
