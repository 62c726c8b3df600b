//! A key store of one's own: an append-only log file.
//!
//! The crate shows the work of a backend's author: it implements [`KeyStore`], and a test runs the contract suite. For
//! production, take a store that also survives a torn write.
//!
//! ```
//! use kms_core::{CacheConfig, Identity, KeyName, KeyRing};
//! use own_store::LogStore;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = std::env::temp_dir().join(format!("own-store-example-{}", std::process::id()));
//! # std::fs::create_dir_all(&dir)?;
//! # let path = dir.join("keys.log");
//! let ring = KeyRing::new(LogStore::open(&path)?, CacheConfig::default());
//! let client = ring.client(Identity::of_program("invoices"));
//! client.create(&KeyName::new("my-key")?).await?;
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyStore, StoreCapabilities, next_segments};
use kms_core::{Error, ErrorKind, KeyName, ListQuery, Page, Result, StoreStatus};

/// A key store in a log file and in memory. Each line of the file is `+name record` or `-name`.
pub struct LogStore(Mutex<Log>);

struct Log {
    file: File,
    entries: BTreeMap<String, SecretBytes>,
}

impl LogStore {
    /// Opens the log at `path`, or creates it.
    ///
    /// # Errors
    ///
    /// The error of the operating system, if the file cannot be opened or read.
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
    /// Appends a line to the file, and syncs it to the disk.
    fn append(&mut self, line: &[u8]) -> Result<()> {
        let written = self.file.write_all(line).and_then(|()| self.file.sync_data());
        written.map_err(|source| Error::with_source(ErrorKind::ReadOnly, "append to the log", source))
    }
}

// The methods block their thread. That is acceptable only because the file is local and the calls are short.
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
        // The name of a slot is not a valid key name, so slots stay hidden.
        let mut names = log
            .entries
            .keys()
            .filter(|name| query.matches(name))
            .filter_map(|name| KeyName::new(name.as_str()).ok());
        let page = names.by_ref().take(query.limit).collect();
        Ok(Page { names: page, more: names.next().is_some() })
    }

    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        let log = self.log();
        let names = log.entries.keys().map(String::as_str).skip_while(|name| !name.starts_with(directory));
        Ok(next_segments(directory, names))
    }

    async fn status(&self) -> Result<StoreStatus> {
        let began = Instant::now();
        let known = self.log().file.metadata();
        known.map_err(|source| Error::with_source(ErrorKind::Unreachable, "look at the log", source))?;
        Ok(StoreStatus::ok(began.elapsed().max(Duration::from_nanos(1))))
    }
}
