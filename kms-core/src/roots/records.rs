//! The records of a store: which are there, and which form each has.

use super::id::RootId;
use super::root::Root;
use super::set::Roots;
use super::store_key::StoreKey;
use crate::error::{Error, ErrorKind, Result};
use crate::listing::ListQuery;
use crate::name::KeyName;
use crate::primitives::SecretBytes;
use crate::store::entry::DIRECTORIES;
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

/// The names of the entries of a store, a part at a time: the keys first, and then what belongs to keys.
struct Walk<'a> {
    store: &'a dyn KeyStore,
    after: Option<KeyName>,
    keys_ended: bool,
    directories: std::slice::Iter<'static, &'static str>,
}

impl<'a> Walk<'a> {
    fn of(store: &'a dyn KeyStore) -> Self {
        Self { store, after: None, keys_ended: false, directories: DIRECTORIES.iter() }
    }

    /// Returns `true` if the store lists its keys, and not what belongs to them.
    fn ends_with(&self, error: &Error) -> bool {
        self.keys_ended && matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Denied)
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
        match self.directories.next() {
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
                // The keys were listed. What belongs to none of them is a remnant.
                Err(error) if walk.ends_with(&error) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns which of `keys` opens a record, and whether there are records at all.
    pub(super) async fn which_opens(&self, keys: &[StoreKey]) -> Result<(Option<StoreKey>, RecordCount)> {
        let wrappers = keys.iter().map(|key| self.form.under(key)).collect::<Result<Vec<_>>>()?;
        let mut count = RecordCount::default();
        let mut walk = Walk::of(&*self.store);
        loop {
            let names = match walk.next().await {
                Ok(None) => return Ok((None, count)),
                Ok(Some(names)) => names,
                Err(error) if walk.ends_with(&error) => return Ok((None, count)),
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

    /// Finds a record that no root but `id` opens.
    ///
    /// # Errors
    ///
    /// The store cannot be listed or read, so nobody can know.
    pub(super) async fn only_under(&self, id: &RootId) -> Result<Option<EntryName>> {
        let others: Vec<&Root> = self.all.iter().filter(|root| root.id() != id).collect();
        let mut walk = Walk::of(&*self.store);
        while let Some(names) = walk.next().await? {
            for name in names {
                let record = match self.store.get(&name).await {
                    Ok(record) => record,
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    // Of what cannot be read nobody knows which root it needs.
                    Err(error) => return Err(error),
                };
                if self.form.is_earlier(record.expose()) && !opens_with(&others, &name, &record).await? {
                    return Ok(Some(name));
                }
            }
        }
        Ok(None)
    }
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
