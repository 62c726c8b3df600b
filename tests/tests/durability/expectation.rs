//! What has to be in a store according to its writer.

use std::collections::BTreeSet;
use std::path::Path;

use kms_core::store::{EntryName, KeyStore};
use kms_core::{ErrorKind, ListQuery};
use kms_fs::{FsConfig, OpenMode, RootKey};
use kms_tests::content;

/// The entries that have to exist and those that must not.
#[derive(Clone, Default)]
pub struct Expectation {
    present: BTreeSet<String>,
    absent: BTreeSet<String>,
}

impl Expectation {
    /// Takes in a line of the writer.
    pub fn hear(&mut self, line: &str) {
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["ok", name] => drop(self.present.insert((*name).to_owned())),
            // The entry may exist or not until the delete is acknowledged.
            ["del", name] => drop(self.present.remove(*name)),
            ["gone", name] => drop(self.absent.insert((*name).to_owned())),
            ["open", _] | ["err", ..] => {}
            other => panic!("the writer said {other:?}"),
        }
    }

    pub fn present(&self) -> &BTreeSet<String> {
        &self.present
    }

    pub fn absent(&self) -> &BTreeSet<String> {
        &self.absent
    }

    /// Opens the store in `directory` as a start does and checks it.
    ///
    /// Every entry has to be whole, also one that was not acknowledged.
    pub fn check(&self, directory: &Path, root_key: &RootKey) -> Result<Found, String> {
        let config = FsConfig { ballast: content::BALLAST, ..FsConfig::new(directory) };
        let opened =
            kms_fs::open(&config, root_key, OpenMode::CreateOrOpen).map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let names = runtime.block_on(self.check_store(&opened.store))?;
        if names.len() != opened.keys {
            return Err(format!("{} keys at the start, {} in the listing", opened.keys, names.len()));
        }
        Ok(Found { names })
    }

    /// Checks an open store and returns the names in it.
    pub async fn check_store(&self, store: &impl KeyStore) -> Result<BTreeSet<String>, String> {
        let mut names = BTreeSet::new();
        loop {
            let after: Option<String> = names.last().cloned();
            let query = ListQuery { after: after.as_deref(), ..ListQuery::prefix("") };
            let page = store.list(&query).await.map_err(|error| format!("{error:?}"))?;
            names.extend(page.names.iter().map(ToString::to_string));
            if !page.more {
                break;
            }
        }
        let lost: Vec<_> = self.present.difference(&names).collect();
        if let Some(first) = lost.first() {
            return Err(format!("{} acknowledged entries are lost, '{first}' is one", lost.len()));
        }
        if let Some(name) = self.absent.intersection(&names).next() {
            return Err(format!("entry '{name}' was deleted and is there"));
        }
        for name in &names {
            let entry: EntryName = content::entry(name);
            match store.get(&entry).await {
                Ok(record) if record == content::record(name) => {}
                Ok(_) => return Err(format!("entry '{name}' holds something else")),
                Err(error) => {
                    let known = if self.present.contains(name) { "acknowledged" } else { "not acknowledged" };
                    return Err(format!("{known}: {error:?}"));
                }
            }
        }
        match store.get(&content::entry("never-made")).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(names),
            other => Err(format!("an entry that was never made: {:?}", other.err())),
        }
    }
}

/// The content of a store.
pub struct Found {
    pub names: BTreeSet<String>,
}

impl Found {
    /// Returns the expectation that everything stays as it is.
    pub fn into_expectation(self) -> Expectation {
        Expectation { present: self.names, absent: BTreeSet::new() }
    }
}
