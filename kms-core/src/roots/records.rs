//! The records of a store: which are there, and which form each has.

use super::id::RootId;
use super::root::Root;
use super::set::Roots;
use super::store_key::StoreKey;
use crate::error::{Error, ErrorKind, Result};
use crate::listing::ListQuery;
use crate::name::KeyName;
use crate::primitives::SecretBytes;
use crate::store::entry::{DIRECTORIES, GONE};
use crate::store::{EntryName, KeyStore};

/// How many records of a store have which form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordCount {
    /// Records that are sealed under a store key.
    pub sealed: usize,
    /// Records of the earlier form: each opens with one root only, and a second root does not protect it.
    pub earlier: usize,
    /// Records that cannot be read, so that their form is not known.
    pub unreadable: usize,
}

impl RecordCount {
    /// Returns the number of all records.
    pub fn all(&self) -> usize {
        self.sealed + self.earlier + self.unreadable
    }
}

/// How many of the first records are tried, of which one has to open.
pub(super) const TRIED: usize = 16;

/// The names of the entries of a store, a part at a time: the keys first, then what belongs to keys, and the notes of removed
/// keys where the store makes such.
struct Walk<'a> {
    store: &'a dyn KeyStore,
    after: Option<KeyName>,
    keys_ended: bool,
    directories: Vec<&'static str>,
}

impl<'a> Walk<'a> {
    fn of(store: &'a dyn KeyStore) -> Self {
        let mut directories = DIRECTORIES.to_vec();
        if store.capabilities().notes_removals {
            directories.push(GONE);
        }
        directories.reverse();
        Self { store, after: None, keys_ended: false, directories }
    }

    /// Returns the next names; `None` at the end.
    async fn next(&mut self) -> Result<Option<Vec<EntryName>>> {
        if !self.keys_ended {
            let query =
                ListQuery { after: self.after.as_ref().map(KeyName::as_str), ..ListQuery::prefix("") };
            let page = self.store.list(&query).await?;
            self.keys_ended = !page.more || page.names.is_empty();
            let names = page.names.iter().map(EntryName::from).collect();
            self.after = page.names.into_iter().next_back();
            return Ok(Some(names));
        }
        match self.directories.pop() {
            None => Ok(None),
            Some(directory) => below(self.store, directory).await.map(Some),
        }
    }
}

/// Lists the entries of a directory: those of `.v/` and `.x/` lie below name and fingerprint, the others below the name.
async fn below(store: &dyn KeyStore, directory: &str) -> Result<Vec<EntryName>> {
    let mut found = Vec::new();
    for name in store.segments(directory).await? {
        let of_key = format!("{directory}{name}/");
        for fingerprint in store.segments(&of_key).await? {
            if [".v/", ".x/"].contains(&directory) {
                let of_fingerprint = format!("{of_key}{fingerprint}/");
                let numbers = store.segments(&of_fingerprint).await?;
                found.extend(numbers.iter().map(|number| EntryName::listed(&of_fingerprint, number)));
            } else {
                found.push(EntryName::listed(&of_key, &fingerprint));
            }
        }
    }
    Ok(found)
}

impl Roots {
    /// Counts the records by their form: those of keys, of later versions and of markers.
    ///
    /// # Errors
    ///
    /// Those of [`KeyStore::list`] and [`KeyStore::segments`].
    pub async fn count_records(&self) -> Result<RecordCount> {
        let mut count = RecordCount::default();
        let mut walk = Walk::of(&*self.store);
        while let Some(names) = walk.next().await? {
            for name in names {
                match self.store.get(&name).await {
                    Ok(record) if self.form.is_earlier(record.expose()) => count.earlier += 1,
                    Ok(_) => count.sealed += 1,
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) if error.kind().is_outage() => return Err(error),
                    Err(_) => count.unreadable += 1,
                }
            }
        }
        Ok(count)
    }

    /// Returns `true` if the store is known to hold no record: a listing worked and found nothing.
    pub(super) async fn is_empty(&self) -> Result<bool> {
        let mut walk = Walk::of(&*self.store);
        loop {
            match walk.next().await {
                Ok(None) => return Ok(true),
                Ok(Some(names)) if names.is_empty() => {}
                Ok(Some(_)) => return Ok(false),
                // A store that knows no directories keeps nothing in them.
                Err(error) if walk.keys_ended && error.kind() == ErrorKind::Unsupported => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns which of `keys` opens a record, and which records there are.
    ///
    /// # Errors
    ///
    /// A part of the store cannot be listed. What lies there may need one of the keys.
    pub(super) async fn which_opens(&self, keys: &[StoreKey]) -> Result<(Option<StoreKey>, RecordCount)> {
        let wrappers = keys.iter().map(|key| self.form.under(key)).collect::<Result<Vec<_>>>()?;
        let mut count = RecordCount::default();
        let mut walk = Walk::of(&*self.store);
        loop {
            let names = match walk.next().await {
                Ok(None) => return Ok((None, count)),
                Ok(Some(names)) => names,
                Err(error) => return Err(error),
            };
            for name in names {
                let record = match self.store.get(&name).await {
                    Ok(record) => record,
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) if error.kind().is_outage() => return Err(error),
                    Err(_) => {
                        count.unreadable += 1;
                        continue;
                    }
                };
                if self.form.is_earlier(record.expose()) {
                    count.earlier += 1;
                    continue;
                }
                count.sealed += 1;
                for (key, wrapper) in keys.iter().zip(&wrappers) {
                    if wrapper.unwrap(&name, record.expose()).await.is_ok() {
                        return Ok((Some(key.clone()), count));
                    }
                }
            }
        }
    }

    /// Counts the first records of keys by their form. What cannot be listed or read does not count.
    pub(super) async fn first_records(&self) -> RecordCount {
        let mut count = RecordCount::default();
        let Ok(page) = self.store.list(&ListQuery { limit: TRIED, ..ListQuery::prefix("") }).await else {
            return count;
        };
        for name in page.names.iter().map(EntryName::from) {
            match self.store.get(&name).await {
                Ok(record) if self.form.is_earlier(record.expose()) => count.earlier += 1,
                Ok(_) => count.sealed += 1,
                Err(_) => {}
            }
        }
        count
    }

    /// Returns how many of the first sealed records were tried, if none of them opens under `key`; `None` where nobody knows.
    pub(super) async fn none_opens(&self, key: &StoreKey) -> Option<usize> {
        if self.all.iter().any(|root| root.held().is_some()) {
            // The key is in the header of the store, and not from elsewhere.
            return None;
        }
        let wrapper = self.form.under(key).ok()?;
        let names = self.store.list(&ListQuery { limit: TRIED, ..ListQuery::prefix("") }).await.ok()?.names;
        let mut tried = 0;
        for name in names.iter().map(EntryName::from) {
            match self.store.get(&name).await {
                Ok(record) if self.form.is_earlier(record.expose()) => {}
                Ok(record) if wrapper.unwrap(&name, record.expose()).await.is_ok() => return None,
                Ok(_) => tried += 1,
                Err(error) if error.kind().is_outage() => return None,
                Err(_) => {}
            }
        }
        (tried > 0).then_some(tried)
    }

    /// Says why `id` cannot go: a record opens neither under `key`, the store key in force, nor with another root.
    ///
    /// # Errors
    ///
    /// The store cannot be listed or read, so nobody can know.
    pub(super) async fn only_under(
        &self,
        id: &RootId,
        key: &StoreKey,
        goes: &Goes,
    ) -> Result<Option<String>> {
        let others: Vec<&Root> = self.all.iter().filter(|root| root.id() != id).collect();
        let in_force = self.form.under(key)?;
        let going = match goes {
            Goes::Key(going) => Some(self.form.under(going)?),
            Goes::Nothing | Goes::Unknown => None,
        };
        let mut walk = Walk::of(&*self.store);
        while let Some(names) = walk.next().await? {
            for name in names {
                let record = match self.store.get(&name).await {
                    Ok(record) => record,
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    // Of what cannot be read nobody knows which root it needs.
                    Err(error) => return Err(error),
                };
                if self.form.is_earlier(record.expose()) {
                    if !opens_with(&others, &name, &record).await? {
                        return Ok(Some(format!(
                            "the record of entry '{name}' was wrapped one by one and opens with no other root that is \
                             configured; 'kms migrate' moves the keys to a store where it does"
                        )));
                    }
                    continue;
                }
                if in_force.unwrap(&name, record.expose()).await.is_ok() {
                    continue;
                }
                let is_needed = match (&going, goes) {
                    (Some(going), _) => going.unwrap(&name, record.expose()).await.is_ok(),
                    (None, goes) => matches!(goes, Goes::Unknown),
                };
                if is_needed {
                    return Ok(Some(format!(
                        "the record of entry '{name}' does not open under the store key in force, and the key that root \
                         '{id}' has opens it or may do so"
                    )));
                }
            }
        }
        Ok(None)
    }
}

/// What goes with a root that is removed.
pub(super) enum Goes {
    /// This store key.
    Key(StoreKey),
    /// Nothing: the root has no entry.
    Nothing,
    /// A store key that cannot be opened now.
    Unknown,
}

async fn opens_with(roots: &[&Root], name: &EntryName, record: &SecretBytes) -> Result<bool> {
    let mut away: Option<Error> = None;
    for root in roots {
        match root.wrapper().unwrap(name, record.expose()).await {
            Ok(_) => return Ok(true),
            Err(error) if error.kind().is_outage() => away = Some(error),
            Err(_) => {}
        }
    }
    away.map_or(Ok(false), Err)
}
