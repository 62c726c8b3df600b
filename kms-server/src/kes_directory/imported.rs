//! The list of what was imported, so that a key which was deleted since does not come back from its file.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use crate::files;

/// Names and fingerprints, in a file with a line each. The last line of a name counts.
pub struct Imported {
    file: PathBuf,
    list: BTreeMap<String, String>,
}

impl Imported {
    /// Reads the list.
    pub fn read(file: PathBuf) -> io::Result<Self> {
        let text = match fs::read_to_string(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        let list = pairs.map(|(name, fingerprint)| (name.to_owned(), fingerprint.to_owned())).collect();
        Ok(Self { file, list })
    }

    /// Returns where the list is.
    pub fn file(&self) -> &PathBuf {
        &self.file
    }

    /// Tells whether this very key was imported under this name.
    pub fn has(&self, name: &str, fingerprint: &str) -> bool {
        self.list.get(name).is_some_and(|known| known == fingerprint)
    }

    /// Notes a key that was imported, to be written with others.
    pub fn note(&mut self, name: &str, fingerprint: String) {
        self.list.insert(name.to_owned(), fingerprint);
    }

    /// Writes the whole list, if it is not what is there.
    pub fn write(&self) -> io::Result<()> {
        let mut text = String::new();
        for (name, fingerprint) in &self.list {
            text.extend([name, " ", fingerprint, "\n"]);
        }
        if fs::read_to_string(&self.file).unwrap_or_default() == text {
            return Ok(());
        }
        files::replace(&self.file, text.as_bytes(), files::PRIVATE)
    }

    /// Notes a key durably, with a line at the end.
    pub fn append(&mut self, name: &str, fingerprint: String) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).mode(files::PRIVATE).open(&self.file)?;
        // After a line that was cut short this one begins anew.
        file.write_all(format!("\n{name} {fingerprint}\n").as_bytes())?;
        file.sync_all()?;
        self.note(name, fingerprint);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_short_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("imported");
        let read = || Imported::read(path.clone()).unwrap();
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
