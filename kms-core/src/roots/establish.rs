//! Giving a store its key: each root's entry first, and then the anchor, which decides.

use std::time::Duration;

use tokio::time::sleep;

use super::anchor::Anchor;
use super::id::RootId;
use super::look::{Seen, Shown, State, open_wrapped};
use super::mark::{Mark, Purpose, absent};
use super::root::Root;
use super::set::Roots;
use super::store_key::StoreKey;
use crate::error::{Error, ErrorKind, Result};
use crate::primitives::SecretBytes;
use crate::store::KeyStore;

/// How often a server looks again while another one writes an entry anew.
const LOOKS: u32 = 40;
/// The wait between two such looks.
const PAUSE: Duration = Duration::from_millis(25);

/// What became of entries that held another key than the anchor names.
#[derive(Default)]
pub(super) struct Realigned {
    pub notes: Vec<String>,
    /// The roots whose entries still hold the other key.
    pub stay: Vec<RootId>,
}

impl Roots {
    /// Has each root wrap `key`. All of them have to answer.
    ///
    /// # Errors
    ///
    /// That of the first root that does not answer, or that does not give back what it wrapped.
    pub(super) async fn wrap_all(
        &self,
        key: &StoreKey,
    ) -> std::result::Result<Vec<(Root, SecretBytes)>, (RootId, Error)> {
        let mut wrapped = Vec::new();
        for root in self.all.iter().filter(|root| root.held().is_none()) {
            let content = wrap(root, key).await.map_err(|error| (root.id().clone(), error))?;
            wrapped.push((root.clone(), content));
        }
        Ok(wrapped)
    }

    /// Has each root wrap `key` that can do so now.
    pub(super) async fn wrap_where_possible(&self, key: &StoreKey) -> Vec<(Root, SecretBytes)> {
        let mut wrapped = Vec::new();
        for root in self.all.iter().filter(|root| root.held().is_none()) {
            if let Ok(content) = wrap(root, key).await {
                wrapped.push((root.clone(), content));
            }
        }
        wrapped
    }

    /// Returns `true` if there is an anchor by now.
    pub(super) async fn has_anchor(&self) -> bool {
        Anchor::read(&*self.store).await.is_ok_and(|anchor| anchor.is_some())
    }

    /// Writes the entries of roots that have none yet. What is there is left as it is.
    ///
    /// It ends where others made the anchor meanwhile: a root may have been removed since then.
    pub(super) async fn write_entries(&self, wrapped: &[(Root, SecretBytes)]) -> Result<()> {
        for (root, content) in wrapped {
            if self.has_anchor().await {
                return Ok(());
            }
            match self.store.create(&root.id().entry(), content).await {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Creates the anchor of `key`, if a root holds that key and there is no anchor.
    ///
    /// Returns what is there then. An entry of a store without anchor is never changed. So the key that was seen in
    /// one is there when the anchor is.
    ///
    /// # Errors
    ///
    /// Those of the store. Only another look tells what became of the anchor.
    pub(super) async fn anchor(&self, key: &StoreKey) -> Result<Seen> {
        let seen = self.look().await?;
        let is_held = seen.opened().any(|(_, held)| Anchor::of(held) == Anchor::of(key));
        if seen.anchor.is_some() || !is_held {
            return Ok(seen);
        }
        match self.store.create(&Anchor::entry(), &Anchor::of(key).encode()?).await {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            // What is read decides, and not what was written.
            _ => self.look().await,
        }
    }

    /// Writes the entries anew that hold another key than the anchor names.
    ///
    /// # Errors
    ///
    /// The key in such an entry opens a record, or may do so. Nothing was written then.
    pub(super) async fn realign(&self, seen: &Seen, key: &StoreKey) -> Result<Realigned> {
        let Realigned { mut notes, mut stay } = Realigned::default();
        let mut replaced = Vec::new();
        for (root, (id, state)) in self.all.iter().zip(&seen.states) {
            let State::Opens(other) = state else { continue };
            if Anchor::of(other) == Anchor::of(key) {
                continue;
            }
            let both = format!(
                "the entry of root '{id}' holds the store key {}, and the anchor of the store names {}",
                Shown(other.fingerprint()),
                Shown(key.fingerprint())
            );
            if root.held().is_some() {
                return Err(Error::with_source(ErrorKind::Conflict, "open the store", both));
            }
            if root.is_later() {
                stay.push(id.clone());
                notes.push(format!("{both}: this root could not be read at the start, so its entry stays"));
                continue;
            }
            match self.which_opens(std::slice::from_ref(other)).await {
                Ok((None, count)) if count.unreadable == 0 => {}
                Ok((Some(_), _)) => {
                    let why = format!("{both}: both open records of this store, so nothing was changed");
                    return Err(Error::with_source(ErrorKind::Conflict, "open the store", why));
                }
                Ok((None, count)) => {
                    let unreadable = count.unreadable;
                    notes.push(format!(
                        "{both}: {unreadable} records cannot be read and may need it, so the entry stays"
                    ));
                    stay.push(id.clone());
                    continue;
                }
                Err(error) => {
                    stay.push(id.clone());
                    notes.push(format!(
                        "{both}: whether it opens a record is not known, so the entry stays: {}",
                        error.chain()
                    ));
                    continue;
                }
            }
            replaced.push((root, other, both));
        }
        // Nothing is written before every entry was judged.
        for (root, other, both) in replaced {
            match self.replace(root, other, key).await {
                Ok(()) => {
                    notes.push(format!(
                        "{both}: the other key opened no record, and the entry is written anew"
                    ));
                }
                Err(error) => {
                    stay.push(root.id().clone());
                    notes.push(format!("{both}: the entry could not be written anew: {}", error.chain()));
                }
            }
        }
        Ok(Realigned { notes, stay })
    }

    /// Replaces the key in a root's entry.
    ///
    /// The mark excludes removals: while this entry is deleted, no other one goes. A process that dies before the end leaves
    /// the mark, and an operator ends that.
    async fn replace(&self, root: &Root, other: &StoreKey, key: &StoreKey) -> Result<()> {
        let wrapped = wrap(root, key).await?;
        let mark = Mark::new(root.id(), Purpose::Rewrite, false)?;
        let mut looks = 0;
        while let Some(present) = mark.make(&*self.store).await? {
            if present.purpose == Purpose::Remove || looks == LOOKS {
                return Err(Error::with_source(
                    ErrorKind::Conflict,
                    format!("write the entry of root '{}' anew", root.id()),
                    present.told(),
                ));
            }
            looks += 1;
            sleep(PAUSE).await;
        }
        let replaced = self.replace_under(&mark, root, &wrapped, other, key).await;
        let released = mark.release(&*self.store).await;
        replaced.and(released)
    }

    async fn replace_under(
        &self,
        mark: &Mark,
        root: &Root,
        wrapped: &SecretBytes,
        other: &StoreKey,
        key: &StoreKey,
    ) -> Result<()> {
        let entry = root.id().entry();
        let before = match self.store.get(&entry).await {
            Ok(before) => before,
            // An operator removed the root.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if Anchor::of(&open_wrapped(root, &before).await?) != Anchor::of(other) {
            // Another server was faster.
            return Ok(());
        }
        if self.store.get(&entry).await? != before || !mark.is_there(&*self.store).await? {
            let doing = format!("write the entry of root '{}' anew", root.id());
            let why = "it is changed from another place at this moment";
            return Err(Error::with_source(ErrorKind::Conflict, doing, why));
        }
        match self.store.delete(&entry).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            deleted => deleted?,
        }
        create_and_prove(&*self.store, root, wrapped, key).await
    }
}

/// Wraps `key` for the entry of `root`, and unwraps it again.
pub(super) async fn wrap(root: &Root, key: &StoreKey) -> Result<SecretBytes> {
    let entry = root.id().entry();
    let doing = || format!("wrap the store key with root '{}'", root.id());
    let wrapped = root.wrapper().wrap(&entry, &key.to_wrap()).await;
    let wrapped = SecretBytes::new(wrapped.map_err(|error| of_root(doing(), &error))?);
    let opened = open_wrapped(root, &wrapped).await.map_err(|error| of_root(doing(), &error))?;
    if opened.key() == key.key() && opened.store_id() == key.store_id() {
        Ok(wrapped)
    } else {
        Err(Error::with_source(ErrorKind::Denied, doing(), "it gives back another key than it was given"))
    }
}

/// Converts an error of a root that was given something of its own to open, so that it never reads as an answer about an
/// entry.
fn of_root(doing: String, error: &Error) -> Error {
    let kind = match error.kind() {
        kind if kind.is_answer() || kind == ErrorKind::Corrupt => ErrorKind::Denied,
        kind => kind,
    };
    Error::with_source(kind, doing, error.chain().to_string())
}

/// Creates the entry of a root, reads it back, and has the root open it.
///
/// What does not prove good stays: another root may have been removed since it was written. It is told at each look.
///
/// # Errors
///
/// - [`ErrorKind::AlreadyExists`]: there is an entry that holds something else.
/// - Those of store and root.
pub(super) async fn create_and_prove(
    store: &dyn KeyStore,
    root: &Root,
    wrapped: &SecretBytes,
    key: &StoreKey,
) -> Result<()> {
    let entry = root.id().entry();
    let created = store.create(&entry, wrapped).await;
    let read = match &created {
        Err(error) if error.kind() != ErrorKind::AlreadyExists && !error.kind().leaves_outcome_unknown() => {
            return created;
        }
        _ => store.get(&entry).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                let doing = format!("prove the entry of root '{}'", root.id());
                Error::with_source(ErrorKind::Conflict, doing, absent(store, &entry))
            }
            _ => error,
        })?,
    };
    let (kind, why) = match open_wrapped(root, &read).await {
        Ok(opened) if Anchor::of(&opened) == Anchor::of(key) && opened.key() == key.key() => return Ok(()),
        Err(error) if error.kind().is_outage() => (error.kind(), error.chain().to_string()),
        _ if created.is_err() => (ErrorKind::AlreadyExists, "it holds something else".to_owned()),
        Ok(_) => (ErrorKind::Corrupt, "it holds another store key".to_owned()),
        Err(error) => (ErrorKind::Corrupt, error.chain().to_string()),
    };
    let doing = format!("prove the entry of root '{}', which stays", root.id());
    Err(Error::with_source(kind, doing, why))
}
