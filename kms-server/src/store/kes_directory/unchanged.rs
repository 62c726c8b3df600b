//! The directory as a source of keys: its files, and its encrypted store if there is one. Nothing is written.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyStore, MemoryStore, StoreCapabilities};
use kms_core::{Error, ErrorKind, KeyName, ListQuery, Page, Result, StoreStatus};

use super::files::{Directory, KeyFile, Looked, fingerprint};
use super::lists::List;
use super::store::merged;
use crate::error::StartError;

/// A directory of key files whose keys are read where they are.
///
/// A key of the encrypted store counts before the file of its name, as a server serves it.
pub struct Unchanged {
    directory: Directory,
    /// The encrypted store, or an empty one.
    store: Arc<dyn KeyStore>,
    imported: List,
    deleted: List,
    /// Whether there is a list of deleted keys. Older releases had none: an imported key that the store lacks was deleted.
    knows_deleted: bool,
    /// The names that the store lacks.
    beside: Vec<KeyName>,
}

impl Unchanged {
    /// Creates a source from the directory `path`, its lists in `imported` and `deleted`, and its encrypted `store`.
    pub async fn new(
        path: &Path,
        imported: &Path,
        deleted: &Path,
        store: Option<Arc<dyn KeyStore>>,
    ) -> std::result::Result<Self, StartError> {
        let mut source = Self {
            directory: Directory::at(path),
            store: store.unwrap_or_else(|| Arc::new(MemoryStore::new())),
            imported: List::read(imported.to_owned()),
            deleted: List::read(deleted.to_owned()),
            knows_deleted: List::is_there(deleted),
            beside: Vec::new(),
        };
        let names = source.directory.names().map_err(|unusable| StartError::new(unusable.why))?;
        for misnamed in &names.misnamed {
            tracing::error!("key file passed over: {misnamed}");
        }
        for name in names.keys {
            let entry = EntryName::from(&name);
            let is_lacking =
                source.store.get(&entry).await.is_err_and(|error| error.kind() == ErrorKind::NotFound);
            let is_deleted = || match source.directory.look(name.as_str()) {
                Ok(Looked::Key(key)) => source.is_deleted(&entry, &key),
                Ok(Looked::Nothing) => true,
                // Its read says why it cannot be used.
                Ok(Looked::Unusable(_)) | Err(_) => false,
            };
            if is_lacking && !is_deleted() {
                source.beside.push(name);
            }
        }
        Ok(source)
    }

    /// Returns whether a key that the store lacks was deleted after its import.
    fn is_deleted(&self, name: &EntryName, key: &KeyFile) -> bool {
        let fingerprint = fingerprint(&key.record);
        self.deleted.has(name.as_str(), &fingerprint)
            || !self.knows_deleted && self.imported.has(name.as_str(), &fingerprint)
    }
}

#[async_trait]
impl KeyStore for Unchanged {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::shared("fs")
    }

    async fn create(&self, name: &EntryName, _: &SecretBytes) -> Result<()> {
        Err(Error::with_source(ErrorKind::ReadOnly, format!("create entry '{name}'"), "it is only read"))
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        let error = match self.store.get(name).await {
            Err(error) if !name.is_hidden() => error,
            read => return read,
        };
        let may_have_file = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt);
        if !may_have_file {
            return Err(error);
        }
        let is_lost = error.kind() == ErrorKind::Corrupt;
        let unusable = |kind, why: String| {
            let file = self.directory.file(name.as_str());
            let why = format!("key file {} cannot be used: {why}", file.display());
            Error::with_source(kind, format!("read entry '{name}'"), why)
        };
        match self.directory.look(name.as_str()) {
            // With another key, ciphertexts of the lost one would not open.
            Ok(Looked::Key(key)) if is_lost => {
                let fingerprint = fingerprint(&key.record);
                let is_same = self.imported.has(name.as_str(), &fingerprint)
                    && !self.deleted.has(name.as_str(), &fingerprint);
                if is_same { Ok(key.content) } else { Err(error) }
            }
            _ if is_lost => Err(error),
            Ok(Looked::Nothing) => Err(error),
            Ok(Looked::Key(key)) if self.is_deleted(name, &key) => Err(error),
            Ok(Looked::Key(key)) => Ok(key.content),
            Ok(Looked::Unusable(found)) | Err(found) => Err(unusable(found.kind, found.why)),
        }
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        Err(Error::with_source(ErrorKind::ReadOnly, format!("delete entry '{name}'"), "it is only read"))
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        Ok(merged(self.store.list(query).await?, self.beside.iter(), query))
    }

    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        self.store.segments(directory).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.store.status().await
    }

    fn place(&self, name: &EntryName) -> String {
        self.directory.file(name.as_str()).display().to_string()
    }
}
