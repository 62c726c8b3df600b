//! The directory as a key store: its encrypted store, and the key files that the store lacks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyRecord, KeyStore, StoreCapabilities};
use kms_core::{Error, ErrorKind, KeyName, ListQuery, Page, Result, StoreStatus};
use kms_fs::FsStore;
use tokio::sync::{Mutex, RwLock};

use super::files::{Beside, Directory, KeyFile, Looked, Stamp, Unusable, fingerprint};
use super::lists::List;
use crate::host::files::failed;

/// How long the result for unusable files is used before they are looked at again.
const LOOKED_AGAIN: Duration = Duration::from_secs(5);

/// The most names in a status.
const MOST_NAMES: usize = 5;

/// An encrypted store, and the directory of key files that it is made from.
///
/// A key file that the store lacks is imported when its name is read. An unusable file still occupies its name: it is
/// listed, its reads fail, and nothing is created in its place or deleted.
pub struct KesDirectory {
    directory: Directory,
    store: FsStore,
    /// Locked shared to take a free name, and exclusively to import a file or to delete its key.
    lists: RwLock<Lists>,
    beside: Mutex<Known>,
    /// The warning about the place of the root key.
    root_key: Option<String>,
}

/// The lists of key files.
struct Lists {
    /// The keys that were imported.
    imported: List,
    /// The keys that were deleted and do not come back from their files.
    deleted: List,
}

/// What is known of the names that the store lacks.
#[derive(Default)]
struct Known {
    beside: Arc<Beside>,
    /// The state of the directory when it was read, or `None` if it has to be read again.
    stamp: Option<Stamp>,
    looked: Option<Instant>,
}

/// The result of the import at the start.
#[derive(Default)]
pub struct Counts {
    /// The number of files with a key.
    pub keys: usize,
    /// The number of these that were imported now.
    pub new: usize,
    /// The number of these that were deleted since their import.
    pub deleted: usize,
}

impl KesDirectory {
    /// Creates a key store from `directory` and `store`.
    pub fn new(
        directory: Directory,
        store: FsStore,
        imported: List,
        deleted: List,
        root_key: Option<String>,
    ) -> Self {
        Self {
            directory,
            store,
            lists: RwLock::new(Lists { imported, deleted }),
            beside: Mutex::new(Known::default()),
            root_key,
        }
    }

    /// Imports the files that the store lacks. Each unusable file is logged.
    pub async fn import_all(&self) -> Counts {
        let mut counts = Counts::default();
        let names = match self.directory.names() {
            Ok(names) => names,
            Err(unusable) => {
                tracing::error!("key files cannot be looked at: {}", unusable.why);
                return counts;
            }
        };
        for misnamed in &names.misnamed {
            tracing::error!("key file passed over, its key is not served: {misnamed}");
        }
        let mut lists = self.lists.write().await;
        for name in &names.keys {
            let file = self.directory.file(name.as_str());
            let unusable = match self.directory.look(name.as_str()) {
                Ok(Looked::Nothing) => continue,
                Ok(Looked::Key(key)) => {
                    counts.keys += 1;
                    match self.import_one(&mut lists, name, key).await {
                        Ok(Import::New) => counts.new += 1,
                        Ok(Import::Deleted) => counts.deleted += 1,
                        Ok(Import::Present) => {}
                        Err(error) => {
                            tracing::error!(
                                "key file {} cannot be imported: {}",
                                file.display(),
                                error.chain()
                            );
                        }
                    }
                    continue;
                }
                Ok(Looked::Unusable(unusable)) | Err(unusable) => unusable,
            };
            if self.lacks(&EntryName::from(name)).await {
                tracing::error!(
                    "key file {} cannot be used, its key is not served: {}",
                    file.display(),
                    unusable.why
                );
            } else {
                tracing::warn!(
                    "key file {} cannot be used, its key is served from the encrypted store: {}",
                    file.display(),
                    unusable.why
                );
            }
        }
        if let Err(error) = lists.imported.write() {
            tracing::error!("{}", failed(lists.imported.file(), &error));
        }
        drop(lists);
        let _ = self.known(Looking::Again).await;
        counts
    }

    async fn import_one(&self, lists: &mut Lists, name: &KeyName, key: KeyFile) -> Result<Import> {
        let entry = EntryName::from(name);
        let fingerprint = fingerprint(&key.record);
        let (present, outcome) = match self.store.get(&entry).await {
            Ok(present) => (present, Import::Present),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Err(_) if lists.deleted.has(name.as_str(), &fingerprint) => return Ok(Import::Deleted),
            Err(_) => {
                self.store.create(&entry, &key.content).await?;
                (self.store.get(&entry).await?, Import::New)
            }
        };
        if KeyRecord::decode(present.expose()).is_ok_and(|present| present.key == key.record.key) {
            lists.imported.note(name.as_str(), fingerprint);
        } else {
            tracing::error!(
                "key file {} holds another key than the store below it: the store's is served",
                self.directory.file(name.as_str()).display()
            );
        }
        Ok(outcome)
    }

    /// Serves a key from its file, and imports it, unless it was deleted after an earlier import.
    async fn import(&self, name: &EntryName, key: KeyFile) -> Result<SecretBytes> {
        let mut lists = self.lists.write().await;
        match self.store.get(name).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            meanwhile => return meanwhile,
        }
        let fingerprint = fingerprint(&key.record);
        if lists.deleted.has(name.as_str(), &fingerprint) {
            return Err(Error::new(ErrorKind::NotFound, format!("read entry '{name}'")));
        }
        let file = self.directory.file(name.as_str());
        match self.store.create(name, &key.content).await {
            Ok(()) => {
                tracing::warn!("key file {} imported into the encrypted store", file.display());
                if let Err(error) = lists.imported.append(name.as_str(), fingerprint) {
                    tracing::error!("{}", failed(lists.imported.file(), &error));
                }
            }
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                return Err(Error::with_source(
                    ErrorKind::Corrupt,
                    format!("import key file {}", file.display()),
                    error,
                ));
            }
            // The store takes no writes now, but the key exists.
            Err(error) => {
                tracing::warn!(
                    "key file {} is served and cannot be imported: {}",
                    file.display(),
                    error.chain()
                );
            }
        }
        Ok(key.content)
    }

    /// Serves a key from the file that it was imported from, because the store has lost its record.
    async fn read_imported(&self, name: &EntryName, lost: Error) -> Result<SecretBytes> {
        let Ok(Looked::Key(key)) = self.look(name, "read").await else { return Err(lost) };
        let lists = self.lists.read().await;
        let fingerprint = fingerprint(&key.record);
        // With another key, old ciphertexts would not open, and new ones would not open with the lost key.
        if !lists.imported.has(name.as_str(), &fingerprint) || lists.deleted.has(name.as_str(), &fingerprint)
        {
            return Err(lost);
        }
        let file = self.directory.file(name.as_str());
        tracing::warn!("key is served from its file {}: {}", file.display(), lost.chain());
        Ok(key.content)
    }

    /// Looks at the file with this name, on a thread that does not serve.
    async fn look(&self, name: &EntryName, doing: &str) -> Result<Looked> {
        let (directory, file) = (self.directory.clone(), name.as_str().to_owned());
        let looked = tokio::task::spawn_blocking(move || directory.look(&file)).await;
        let operation = || format!("{doing} entry '{name}'");
        looked
            .map_err(|_| Error::with_source(ErrorKind::Internal, operation(), "the thread ended"))?
            .map_err(|unusable| Error::with_source(unusable.kind, operation(), unusable.why))
    }

    async fn lacks(&self, name: &EntryName) -> bool {
        self.store.get(name).await.is_err_and(|error| error.kind() == ErrorKind::NotFound)
    }

    fn unusable(&self, kind: ErrorKind, name: &EntryName, doing: &str, unusable: &Unusable) -> Error {
        let file = self.directory.file(name.as_str());
        let why = format!("key file {} cannot be used: {}", file.display(), unusable.why);
        Error::with_source(kind, format!("{doing} entry '{name}'"), why)
    }

    /// Returns the names that the store lacks.
    async fn known(&self, looking: Looking) -> std::result::Result<Arc<Beside>, Unusable> {
        let mut known = self.beside.lock().await;
        let is_late = known.looked.is_none_or(|looked| looked.elapsed() > LOOKED_AGAIN);
        // The stamp is taken before the names are read and kept only afterwards, so a failed reading is repeated.
        let stamp = {
            let directory = self.directory.clone();
            blocking(move || directory.stamp()).await?
        };
        let names_are_known = known.stamp.is_some() && stamp == known.stamp;
        let names = match (names_are_known, looking) {
            (true, Looking::AtNames) => return Ok(Arc::clone(&known.beside)),
            (true, Looking::Now) if !is_late => return Ok(Arc::clone(&known.beside)),
            (true, Looking::Now) => known.beside.keys().cloned().collect(),
            _ => {
                let directory = self.directory.clone();
                blocking(move || directory.names()).await?.keys
            }
        };
        let mut lacking = Vec::new();
        for name in names {
            if self.lacks(&EntryName::from(&name)).await {
                lacking.push(name);
            }
        }
        let directory = self.directory.clone();
        let looked = blocking(move || {
            lacking
                .into_iter()
                .map(|name| directory.look(name.as_str()).map(|looked| (name, looked)))
                .collect()
        });
        let looked: Vec<(KeyName, Looked)> = looked.await?;
        let deleted = &self.lists.read().await.deleted;
        let beside = looked.into_iter().filter_map(|(name, looked)| match looked {
            Looked::Nothing => None,
            Looked::Key(key) if deleted.has(name.as_str(), &fingerprint(&key.record)) => None,
            Looked::Key(_) => Some((name, None)),
            Looked::Unusable(unusable) => Some((name, Some(unusable))),
        });
        known.beside = Arc::new(beside.collect());
        known.stamp = stamp;
        known.looked = Some(Instant::now());
        Ok(Arc::clone(&known.beside))
    }

    /// Makes the next listing read the directory again.
    async fn forget_names(&self) {
        self.beside.lock().await.stamp = None;
    }
}

/// The result for one file at the start.
enum Import {
    New,
    Present,
    Deleted,
}

/// How much of the directory is read again.
#[derive(Clone, Copy)]
enum Looking {
    /// The names, if any came or went.
    AtNames,
    /// The names, and the unusable files after a while.
    Now,
    /// Everything.
    Again,
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> std::result::Result<T, Unusable> + Send + 'static,
) -> std::result::Result<T, Unusable> {
    let ended = || Unusable { kind: ErrorKind::Internal, why: "the thread ended".to_owned() };
    tokio::task::spawn_blocking(call).await.unwrap_or_else(|_| Err(ended()))
}

#[async_trait]
impl KeyStore for KesDirectory {
    fn capabilities(&self) -> StoreCapabilities {
        self.store.capabilities()
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        if name.is_hidden() {
            return self.store.create(name, record).await;
        }
        let exists = || Error::new(ErrorKind::AlreadyExists, format!("create entry '{name}'"));
        let lists = self.lists.read().await;
        match self.look(name, "create").await {
            Ok(Looked::Nothing) => self.store.create(name, record).await,
            Ok(Looked::Key(key)) if lists.deleted.has(name.as_str(), &fingerprint(&key.record)) => {
                self.store.create(name, record).await
            }
            Ok(Looked::Key(key)) => {
                drop(lists);
                self.import(name, key).await?;
                Err(exists())
            }
            Ok(Looked::Unusable(unusable)) => {
                let error = self.unusable(ErrorKind::AlreadyExists, name, "create", &unusable);
                if self.lacks(name).await {
                    // The client learns only that the key exists.
                    tracing::error!(cause = error.as_dyn());
                }
                Err(error)
            }
            Err(_) if !self.lacks(name).await => Err(exists()),
            Err(error) => Err(error),
        }
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        let missing = match self.store.get(name).await {
            Err(error) if error.kind() == ErrorKind::NotFound && !name.is_hidden() => error,
            Err(error) if error.kind() == ErrorKind::Corrupt && !name.is_hidden() => {
                return self.read_imported(name, error).await;
            }
            read => return read,
        };
        match self.look(name, "read").await? {
            Looked::Nothing => Err(missing),
            Looked::Key(key) => self.import(name, key).await,
            Looked::Unusable(unusable) => Err(self.unusable(unusable.kind, name, "read", &unusable)),
        }
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        if name.is_hidden() {
            return self.store.delete(name).await;
        }
        let mut lists = self.lists.write().await;
        let deleted = &mut lists.deleted;
        let key = match self.look(name, "delete").await? {
            Looked::Nothing => return self.store.delete(name).await,
            Looked::Unusable(unusable) => {
                return Err(self.unusable(unusable.kind, name, "delete", &unusable));
            }
            Looked::Key(key) => key,
        };
        let fingerprint = fingerprint(&key.record);
        let is_new = !deleted.has(name.as_str(), &fingerprint);
        let is_stored = !self.lacks(name).await;
        if is_new {
            // A listed key does not come back from its file.
            deleted.append(name.as_str(), fingerprint).map_err(|error| {
                let why = failed(deleted.file(), &error);
                Error::with_source(ErrorKind::ReadOnly, format!("delete entry '{name}'"), why)
            })?;
        }
        let outcome = if is_new && !is_stored { Ok(()) } else { self.store.delete(name).await };
        // The other functions that take both locks do so in the other order.
        drop(lists);
        self.forget_names().await;
        outcome
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        let beside = self.known(Looking::AtNames).await.map_err(|unusable| {
            Error::with_source(unusable.kind, "list the key files".to_owned(), unusable.why)
        })?;
        let page = self.store.list(query).await?;
        Ok(merged(page, beside.keys(), query))
    }

    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        self.store.segments(directory).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        let status = self.store.status().await?;
        let files = match self.known(Looking::Now).await {
            Ok(beside) => told(&self.directory, &beside),
            Err(unusable) => Some(unusable.why),
        };
        Ok([files, self.root_key.clone()].into_iter().flatten().fold(status, StoreStatus::degraded))
    }
}

/// Returns a short text about unusable files, if there are any.
fn told(directory: &Directory, beside: &Beside) -> Option<String> {
    let names: Vec<_> =
        beside.iter().filter_map(|(name, unusable)| unusable.as_ref().map(|_| name.as_str())).collect();
    let rest = match names.len().checked_sub(MOST_NAMES) {
        None | Some(0) => String::new(),
        Some(rest) => format!(" and {rest} more"),
    };
    let (count, path) = (names.len(), directory.path().display());
    let first = names.iter().take(MOST_NAMES).copied().collect::<Vec<_>>().join(", ");
    match count {
        0 => None,
        1 => Some(format!("1 key file in {path} cannot be used: {first}")),
        _ => Some(format!("{count} key files in {path} cannot be used: {first}{rest}")),
    }
}

/// Merges further sorted names into a page of the store.
pub fn merged<'a>(page: Page, further: impl Iterator<Item = &'a KeyName>, query: &ListQuery<'_>) -> Page {
    let last = page.names.last().filter(|_| page.more).cloned();
    // Names after the last one of an incomplete page belong to a later page.
    let further = further
        .filter(|name| query.matches(name.as_str()))
        .filter(|name| last.as_ref().is_none_or(|last| *name < last));
    let mut names: BTreeSet<KeyName> = further.cloned().collect();
    if names.is_empty() {
        return page;
    }
    names.extend(page.names);
    let more = page.more || names.len() > query.limit;
    Page { names: names.into_iter().take(query.limit).collect(), more }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<KeyName> {
        names.iter().map(|name| KeyName::new(*name).unwrap()).collect()
    }

    #[test]
    fn pages_of_two_sources_are_those_of_one() {
        let all: Vec<String> = (0..26_u8).map(|n| format!("k{}", char::from(b'a' + n))).collect();
        let is_in_store = |mask: usize, index: usize| mask >> (index % 5) & 1 == 1;
        for mask in 0..32 {
            let part = |stored: bool| -> Vec<KeyName> {
                let chosen = all.iter().enumerate().filter(|(index, _)| is_in_store(mask, *index) == stored);
                // A name in both sources is listed once.
                let both = |index: usize| index % 7 == 3;
                let chosen: BTreeSet<_> = chosen
                    .map(|(_, name)| name)
                    .chain(all.iter().enumerate().filter(|(index, _)| both(*index)).map(|(_, name)| name))
                    .collect();
                names(&chosen.into_iter().map(String::as_str).collect::<Vec<_>>())
            };
            let (store, further) = (part(true), part(false));
            for limit in [1, 2, 3, 7, 26, 100] {
                let (mut found, mut after) = (Vec::new(), None::<String>);
                loop {
                    let query = ListQuery { prefix: "k", after: after.as_deref(), limit };
                    let mut rest = store.iter().filter(|name| query.matches(name.as_str())).cloned();
                    let page =
                        Page { names: rest.by_ref().take(limit).collect(), more: rest.next().is_some() };
                    let page = merged(page, further.iter(), &query);
                    assert!(page.names.len() <= limit && (!page.more || !page.names.is_empty()));
                    found.extend(page.names.iter().map(ToString::to_string));
                    match page.names.last().filter(|_| page.more) {
                        None => break,
                        Some(last) => after = Some(last.to_string()),
                    }
                }
                assert_eq!(found, all, "{mask} {limit}");
            }
        }
    }
}
