//! A key store of one's own: an append-only log file.
//!
//! It shows what a backend has to do and how it proves that it does: it implements [`KeyStore`], and its one test
//! runs the contract suite. For production take a store that also survives a torn write.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kms_core::{
    EntryName, Error, ErrorKind, KeyName, KeyStore, ListQuery, Page, Result, SecretBytes, StoreCapabilities,
    StoreStatus,
};

/// Entries in a file of lines, `+name record` or `-name`, and in memory.
pub struct LogStore(Mutex<Log>);

struct Log {
    file: File,
    entries: BTreeMap<String, SecretBytes>,
}

impl LogStore {
    /// Opens the log at `path`, or begins one.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut entries = BTreeMap::new();
        for line in BufReader::new(&file).lines() {
            let line = line?;
            match line.split_at_checked(1) {
                Some(("+", entry)) => {
                    if let Some((name, record)) = entry.split_once(' ') {
                        entries.insert(name.to_owned(), SecretBytes::from(record.as_bytes()));
                    }
                }
                Some(("-", name)) => drop(entries.remove(name)),
                _ => {}
            }
        }
        Ok(Self(Mutex::new(Log { file, entries })))
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Writes a line, and returns when it is on the disk.
    fn append(&mut self, line: &[u8]) -> Result<()> {
        let written = self.file.write_all(line).and_then(|()| self.file.sync_data());
        written.map_err(|source| Error::with_source(ErrorKind::ReadOnly, "append to the log", source))
    }
}

// A disk as slow as a network is no place for async code: here the file is local and the calls are short.
#[async_trait]
impl KeyStore for LogStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::exclusive("log file")
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        let mut log = self.log();
        if log.entries.contains_key(name.as_str()) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("create entry '{name}'")));
        }
        log.append(&[b"+", name.as_str().as_bytes(), b" ", record.expose(), b"\n"].concat())?;
        log.entries.insert(name.as_str().to_owned(), SecretBytes::from(record.expose()));
        Ok(())
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        match self.log().entries.get(name.as_str()) {
            Some(record) => Ok(SecretBytes::from(record.expose())),
            None => Err(Error::new(ErrorKind::NotFound, format!("read entry '{name}'"))),
        }
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        let mut log = self.log();
        if !log.entries.contains_key(name.as_str()) {
            return Err(Error::new(ErrorKind::NotFound, format!("delete entry '{name}'")));
        }
        log.append(&[b"-", name.as_str().as_bytes(), b"\n"].concat())?;
        log.entries.remove(name.as_str());
        Ok(())
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        let log = self.log();
        // A slot's name is no key's name, so it fails here and stays hidden.
        let mut names = log
            .entries
            .keys()
            .filter(|name| query.matches(name))
            .filter_map(|name| KeyName::new(name.as_str()).ok());
        let page = names.by_ref().take(query.limit).collect();
        Ok(Page { names: page, more: names.next().is_some() })
    }

    async fn status(&self) -> Result<StoreStatus> {
        let began = Instant::now();
        let known = self.log().file.metadata();
        known.map_err(|source| Error::with_source(ErrorKind::Unreachable, "look at the log", source))?;
        Ok(StoreStatus::ok(began.elapsed().max(Duration::from_nanos(1))))
    }
}
