//! Lists of key files: those that were imported, and those whose keys were deleted and must not come back.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::host::files;

/// Names and fingerprints of keys, in a file with one line each. The last line of a name counts.
pub struct List {
    file: PathBuf,
    list: BTreeMap<String, String>,
}

impl List {
    /// Reads the list in `file`. An unreadable list is logged and counts as empty, which loses no key.
    pub fn read(file: PathBuf) -> Self {
        let text = Self::text(&file).unwrap_or_else(|error| {
            tracing::error!("{}; the list counts as empty", files::failed(&file, &error));
            String::new()
        });
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        let list = pairs.map(|(name, fingerprint)| (name.to_owned(), fingerprint.to_owned())).collect();
        Self { file, list }
    }

    fn text(file: &Path) -> io::Result<String> {
        match kms_core::primitives::open_file(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            opened => io::read_to_string(opened?),
        }
    }

    /// Returns whether the list exists on the disk.
    pub fn is_there(file: &Path) -> bool {
        file.symlink_metadata().is_ok()
    }

    /// Returns the names and fingerprints.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list.iter().map(|(name, fingerprint)| (name.as_str(), fingerprint.as_str()))
    }

    /// Returns the file of the list.
    pub fn file(&self) -> &PathBuf {
        &self.file
    }

    /// Returns whether the list has exactly this key under this name.
    pub fn has(&self, name: &str, fingerprint: &str) -> bool {
        self.list.get(name).is_some_and(|known| known == fingerprint)
    }

    /// Adds a key, to be written later with others.
    pub fn note(&mut self, name: &str, fingerprint: String) {
        self.list.insert(name.to_owned(), fingerprint);
    }

    /// Writes the whole list, unless the file already holds it.
    pub fn write(&self) -> io::Result<()> {
        let mut text = String::new();
        for (name, fingerprint) in &self.list {
            text.extend([name, " ", fingerprint, "\n"]);
        }
        if Self::text(&self.file).unwrap_or_default() == text {
            return Ok(());
        }
        files::replace(&self.file, text.as_bytes(), files::PRIVATE)
    }

    /// Adds a key and writes it durably, as a line at the end.
    pub fn append(&mut self, name: &str, fingerprint: String) -> io::Result<()> {
        let mut options = OpenOptions::new();
        // Opening a pipe would block.
        options
            .append(true)
            .create(true)
            .mode(files::PRIVATE)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let mut file = options.open(&self.file)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        // This begins a new line, even after one that was cut short.
        file.write_all(format!("\n{name} {fingerprint}\n").as_bytes())?;
        file.sync_all()?;
        self.note(name, fingerprint);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_line_that_was_cut_short_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("imported");
        let read = || List::read(path.clone());
        let mut list = read();
        list.append("a", "1".to_owned()).unwrap();
        fs::write(&path, "a 11\nb 22\nc 3").unwrap();
        let mut list = read();
        assert!(list.has("a", "11") && list.has("b", "22") && !list.has("c", "33"));
        list.append("c", "33".to_owned()).unwrap();
        list.append("a", "44".to_owned()).unwrap();
        let list = read();
        assert!(list.has("a", "44") && list.has("b", "22") && list.has("c", "33"));
        list.write().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a 44\nb 22\nc 33\n");
    }
}
