//! Entries in the store beside those of the configured roots.

use super::id::RootId;
use super::look::open_wrapped;
use super::root::Root;
use super::set::Roots;
use crate::error::Result;
use crate::store::KeyStore as _;

/// The directory of the entries of roots.
const DIRECTORY: &str = ".r/";

impl Roots {
    /// Returns the roots that have an entry in the store and are not configured here.
    ///
    /// # Errors
    ///
    /// Those of [`KeyStore::segments`](crate::store::KeyStore::segments) and of the reads. Then nobody knows.
    pub async fn not_configured(&self) -> Result<Vec<RootId>> {
        let mut found = Vec::new();
        for id in self.entries().await? {
            let is_configured = |root: &Root| root.loaded().is_ok_and(|root| *root.id() == id);
            // A backend may list what was deleted.
            if !self.all.iter().any(is_configured) && self.has_entry(&id).await? {
                found.push(id);
            }
        }
        Ok(found)
    }

    /// Returns the other ids under which the root key of the configured root `id` has an entry: they are one root with it.
    ///
    /// Where the store cannot be listed, only configured ids are tried.
    pub async fn other_ids_of(&self, id: &RootId) -> Vec<RootId> {
        let Some(root) = self.all.iter().find(|root| root.id() == id) else { return Vec::new() };
        let configured = || self.all.iter().map(|root| root.id().clone()).collect();
        let mut found = Vec::new();
        for other in self.entries().await.unwrap_or_else(|_| configured()) {
            let Ok(wrapped) = self.store.get(&other.entry()).await else { continue };
            let as_other = Root::new(other.clone(), root.wrapper().clone());
            if other != *id && open_wrapped(&as_other, &wrapped).await.is_ok() {
                found.push(other);
            }
        }
        found
    }

    pub(super) async fn entries(&self) -> Result<Vec<RootId>> {
        // The anchor and the mark lie there, too, and have names that no root has.
        Ok(self.store.segments(DIRECTORY).await?.iter().filter_map(|name| RootId::new(name).ok()).collect())
    }
}
