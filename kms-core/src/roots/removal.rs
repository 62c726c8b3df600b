//! Removing a root. The mark `.r/removing` excludes every other removal.

use super::anchor::Removing;
use super::id::RootId;
use super::look::Seen;
use super::set::Roots;
use crate::error::{Error, ErrorKind, Result};
use crate::primitives::SecretBytes;
use crate::store::KeyStore as _;

impl Roots {
    /// Removes a root: the same call completes a removal that was cut off.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidInput`]: the store has no such root.
    /// - [`ErrorKind::Conflict`]: no other root opens now; a record opens with this root only, or nobody can know; or
    ///   another removal is under way.
    /// - Those of the store.
    pub async fn remove(&self, id: &RootId) -> Result<()> {
        self.begin_removal(id, false).await?;
        self.finish_removal(id).await
    }

    /// Does all of [`remove`](Self::remove) but its last step, so that the caller can forget a wrapped key that rests
    /// `elsewhere`, such as in the header of a local store.
    ///
    /// # Errors
    ///
    /// Those of [`remove`](Self::remove).
    pub async fn begin_removal(&self, id: &RootId, elsewhere: bool) -> Result<()> {
        let doing = format!("remove root '{id}'");
        let conflict = |why: String| Error::with_source(ErrorKind::Conflict, &*doing, why);
        let seen = self.look().await?;
        if seen.anchor.is_none() {
            return Err(conflict(
                "the store has no store key, so its records open with their roots only".into(),
            ));
        }
        match &seen.removing {
            Some(other) if other != id => return Err(conflict(under_way(other))),
            Some(_) => {}
            None if elsewhere || self.has_entry(id).await? => {}
            None => {
                let why = format!("the store has no root '{id}': {}", seen.told());
                return Err(Error::with_source(ErrorKind::InvalidInput, doing, why));
            }
        }
        if !another_opens(&seen, id) {
            return Err(conflict(last(&seen)));
        }
        match self.only_under(id).await {
            Ok(None) => {}
            Ok(Some(name)) => {
                return Err(conflict(format!(
                    "the record of entry '{name}' was wrapped one by one and opens with no other root that is \
                     configured; 'kms migrate' moves the keys to a store where it does"
                )));
            }
            Err(error) => {
                return Err(conflict(format!(
                    "whether a record opens with this root only is not known: {}; 'kms migrate' moves the keys to a \
                     store where none does",
                    error.chain()
                )));
            }
        }
        self.mark(id, &conflict).await?;
        let again = self.look().await;
        match &again {
            Ok(seen) if another_opens(seen, id) => {}
            _ => {
                self.finish_removal(id).await?;
                return Err(match again {
                    Ok(seen) => conflict(last(&seen)),
                    Err(error) => error,
                });
            }
        }
        self.delete_entry(id, &conflict).await
    }

    /// Does the last step of a removal: it ends the exclusion of others.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn finish_removal(&self, id: &RootId) -> Result<()> {
        if Removing::read(&*self.store).await?.as_ref() != Some(id) {
            return Ok(());
        }
        match self.store.delete(&Removing::entry()).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    /// Makes the mark, or finds it made for the same root.
    async fn mark(&self, id: &RootId, conflict: &(dyn Fn(String) -> Error + Sync)) -> Result<()> {
        match self.store.create(&Removing::entry(), &Removing::content(id)).await {
            Ok(()) => {}
            Err(error)
                if error.kind() == ErrorKind::AlreadyExists || error.kind().leaves_outcome_unknown() => {}
            Err(error) => return Err(error),
        }
        match Removing::read(&*self.store).await? {
            Some(marked) if marked == *id => Ok(()),
            Some(other) => Err(conflict(under_way(&other))),
            None => Err(conflict("another removal ended at this moment; try again".to_owned())),
        }
    }

    /// Deletes the entry, and writes it back if no other root opens after that.
    async fn delete_entry(&self, id: &RootId, conflict: &(dyn Fn(String) -> Error + Sync)) -> Result<()> {
        let entry = id.entry();
        let content: Option<SecretBytes> = match self.store.get(&entry).await {
            Ok(content) => Some(content),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind().is_outage() => return Err(error),
            Err(_) => None,
        };
        match self.store.delete(&entry).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            deleted => deleted?,
        }
        let seen = self.look().await;
        if seen.as_ref().is_ok_and(|seen| another_opens(seen, id)) {
            return Ok(());
        }
        if let Some(content) = content {
            self.store.create(&entry, &content).await?;
        }
        self.finish_removal(id).await?;
        Err(conflict(match seen {
            Ok(seen) => format!("it was written back: {}", last(&seen)),
            Err(error) => format!("it was written back: {}", error.chain()),
        }))
    }

    /// Returns `true` if there is an entry of a root with this id, configured or not.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn has_entry(&self, id: &RootId) -> Result<bool> {
        match self.store.get(&id.entry()).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// Returns `true` if a root other than `id` opens the store key in force.
fn another_opens(seen: &Seen, id: &RootId) -> bool {
    let Some(anchor) = &seen.anchor else { return false };
    seen.opened().any(|(other, key)| other != id && anchor.names(key))
}

fn last(seen: &Seen) -> String {
    format!("no other root opens the store key now, and the last one is never removed: {}", seen.told())
}

fn under_way(other: &RootId) -> String {
    format!("a removal of root '{other}' is under way: 'kms root remove {other}' completes it")
}
