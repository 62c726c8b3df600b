//! Removing a root. The mark `.r/removing` excludes every other removal.

use super::id::RootId;
use super::look::{Seen, State};
use super::mark::{Mark, Purpose};
use super::records::Goes;
use super::set::Roots;
use crate::error::{Error, ErrorKind, Result};
use crate::primitives::SecretBytes;
use crate::store::KeyStore as _;

/// A removal whose last step is due: [`Roots::finish_removal`].
pub struct Removal(Option<Mark>);

impl Removal {
    /// Returns `true` if the root is not in the store: a removal before came to its end, or there never was such a root.
    pub fn is_past(&self) -> bool {
        self.0.is_none()
    }
}

impl Roots {
    /// Removes a root: the same call completes a removal that was cut off. If the root is not there, and another one opens, it
    /// does nothing.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidInput`]: the store has no such root, and no other one opens; or `id` stands for a root that
    ///   could not be read, and is none.
    /// - [`ErrorKind::Conflict`]: no other root opens now; a record opens with this root only, or nobody can know; or
    ///   another removal is under way.
    /// - Those of the store.
    pub async fn remove(&self, id: &RootId) -> Result<Removal> {
        let removal = self.begin_removal(id, false).await?;
        self.finish_removal(&removal).await?;
        Ok(removal)
    }

    /// Does all of [`remove`](Self::remove) but its last step, so that the caller can forget the wrapped key of the root
    /// that rests in the header of a local store, if `in_header`.
    ///
    /// # Errors
    ///
    /// Those of [`remove`](Self::remove), and [`ErrorKind::Conflict`] if a removal that was cut off did not mean the header.
    pub async fn begin_removal(&self, id: &RootId, in_header: bool) -> Result<Removal> {
        let doing = format!("remove root '{id}'");
        let conflict = |why: String| Error::with_source(ErrorKind::Conflict, &*doing, why);
        let seen = self.look().await?;
        let Some(anchor) = seen.anchor else {
            return Err(conflict(
                "the store has no store key, so its records open with their roots only".into(),
            ));
        };
        let present = seen.mark.clone()?;
        match &present {
            Some(mark) if mark.root != *id => return Err(conflict(mark.told())),
            Some(mark) if mark.purpose == Purpose::Remove && in_header && !mark.in_header => {
                return Err(conflict(mark.told()));
            }
            Some(_) => {}
            None if in_header || self.has_entry(id).await? => {}
            // A command that was cut off after its last step, and is repeated.
            None if another_opens(&seen, id)
                && !self.is_later(id)
                && Mark::read(&*self.store).await?.is_none() =>
            {
                return Ok(Removal(None));
            }
            None => {
                let why = format!("the store has no root '{id}': {}", seen.told());
                return Err(Error::with_source(ErrorKind::InvalidInput, doing, why));
            }
        }
        let in_header = in_header || present.as_ref().is_some_and(|mark| mark.in_header);
        if !another_opens(&seen, id) {
            return Err(conflict(last(&seen)));
        }
        self.refuse_if_needed(id, &seen, in_header, &conflict).await?;
        let mark = self.mark(id, in_header, &conflict).await?;
        let content = self.content_of(id).await;
        let again = self.look().await;
        match (&again, content) {
            (Ok(seen), Ok(content)) if seen.anchor == Some(anchor) && another_opens(seen, id) => {
                self.delete_entry(&mark, content, &conflict).await?;
                Ok(Removal(Some(mark)))
            }
            (_, content) => {
                mark.release(&*self.store).await?;
                content?;
                Err(conflict(last(&again?)))
            }
        }
    }

    /// Does the last step of a removal: it ends the exclusion of others.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn finish_removal(&self, removal: &Removal) -> Result<()> {
        match &removal.0 {
            Some(mark) => mark.release(&*self.store).await,
            None => Ok(()),
        }
    }

    /// Returns `true` if `id` stands for a root that could not be read, whose entry has another name.
    fn is_later(&self, id: &RootId) -> bool {
        self.all.iter().any(|root| root.id() == id && root.is_later())
    }

    /// Returns `true` if a removal of this root that was cut off meant the header of a local store.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn is_removed_from_header(&self, id: &RootId) -> Result<bool> {
        let mark = Mark::read(&*self.store).await?;
        Ok(mark.is_some_and(|mark| mark.root == *id && mark.in_header))
    }

    /// Refuses a removal while a record opens with this root only, or while nobody can know.
    async fn refuse_if_needed(
        &self,
        id: &RootId,
        seen: &Seen,
        in_header: bool,
        conflict: &(dyn Fn(String) -> Error + Sync),
    ) -> Result<()> {
        let needed = match seen.key() {
            Some(key) => self.only_under(id, key, &self.holds(id, seen, in_header).await?).await,
            None => return Err(conflict(last(seen))),
        };
        match needed {
            Ok(None) => Ok(()),
            Ok(Some(why)) => Err(conflict(why)),
            Err(error) => Err(conflict(format!(
                "whether a record opens with this root only is not known: {}; 'kms migrate' moves the keys to a \
                 store where none does",
                error.chain()
            ))),
        }
    }

    /// Returns what is known of the key that goes with the root.
    async fn holds(&self, id: &RootId, seen: &Seen, in_header: bool) -> Result<Goes> {
        let state = seen.states.iter().find(|(configured, _)| configured == id);
        Ok(match state.map(|(_, state)| state) {
            Some(State::Opens(key)) => Goes::Key(key.clone()),
            Some(State::NoEntry) if !in_header => Goes::Nothing,
            None if !in_header && !self.has_entry(id).await? => Goes::Nothing,
            _ => Goes::Unknown,
        })
    }

    /// Makes the mark. One that was made for the same root is replaced: its owner stops when it finds that.
    async fn mark(
        &self,
        id: &RootId,
        in_header: bool,
        conflict: &(dyn Fn(String) -> Error + Sync),
    ) -> Result<Mark> {
        let mark = Mark::new(id, Purpose::Remove, in_header)?;
        let mut present = mark.make(&*self.store).await?;
        if let Some(before) = present.take_if(|before| before.root == *id) {
            before.release(&*self.store).await?;
            present = mark.make(&*self.store).await?;
        }
        present.map_or(Ok(mark), |other| Err(conflict(other.told())))
    }

    /// Reads the entry of a root; `None` if there is none, or if it cannot be read for good.
    async fn content_of(&self, id: &RootId) -> Result<Option<SecretBytes>> {
        match self.store.get(&id.entry()).await {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind().is_outage() => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Deletes the entry, and writes it back if no other root opens after that.
    async fn delete_entry(
        &self,
        mark: &Mark,
        content: Option<SecretBytes>,
        conflict: &(dyn Fn(String) -> Error + Sync),
    ) -> Result<()> {
        let id = &mark.root;
        let entry = id.entry();
        // A process that was slow until here deletes nothing that changed meanwhile. No store deletes under a condition,
        // so this is as late as it can be asked.
        let present = self.content_of(id).await?;
        if present != content || !mark.is_there(&*self.store).await? {
            mark.release(&*self.store).await?;
            return Err(conflict(
                "the same root was removed or added from another place meanwhile".to_owned(),
            ));
        }
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
        mark.release(&*self.store).await?;
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
