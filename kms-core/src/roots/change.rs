//! What an operator changes: giving a store its key, and adding roots.

use super::anchor::Anchor;
use super::establish::{create_and_prove, wrap};
use super::id::RootId;
use super::look::{Seen, Shown, State};
use super::mark::{Purpose, absent};
use super::records::{RecordCount, TRIED};
use super::root::Root;
use super::set::Roots;
use super::store_key::StoreKey;
use crate::error::{Error, ErrorKind, Result};
use crate::listing::ListQuery;
use crate::store::EntryName;

/// A store that got its key.
#[derive(Debug)]
#[non_exhaustive]
pub struct Established {
    /// The anchor.
    pub anchor: Anchor,
    /// The records that were there.
    pub records: RecordCount,
    /// What an operator should know, a sentence each.
    pub notes: Vec<String>,
}

/// What [`Roots::add`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// The root has an entry now, and was seen to open it.
    New,
    /// The root had one already, and opens it.
    Already,
}

impl Roots {
    /// Gives an empty store its key.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Conflict`]: the store has a key, or records.
    /// - [`ErrorKind::Corrupt`]: the entry of a root does not open under it.
    /// - Those of the store and of each root: all have to answer, and a listing has to work.
    pub async fn init(&self) -> Result<Established> {
        self.establish("give the store its key", false).await
    }

    /// Gives a store whose records have the earlier form its key, and rewrites none of them.
    ///
    /// A root that [holds](Root::holding) a store key gives that one.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Conflict`]: the store has a key already, or its records are not those of the roots.
    /// - [`ErrorKind::Corrupt`]: the entry of a root does not open under it.
    /// - Those of the store and of each root: all have to answer, and a listing has to work.
    pub async fn adopt(&self) -> Result<Established> {
        self.establish("adopt the store", true).await
    }

    async fn establish(&self, doing: &str, with_records: bool) -> Result<Established> {
        let conflict = |why: String| Error::with_source(ErrorKind::Conflict, doing, why);
        let seen = self.look().await?;
        if let Some(anchor) = &seen.anchor {
            let fingerprint = Shown(anchor.fingerprint);
            return Err(conflict(format!("it has the store key {fingerprint} already")));
        }
        for (id, state) in &seen.states {
            if let State::Foreign(error) | State::Away(error) | State::Refused(error) = state {
                return Err(no_answer(doing, id, error));
            }
            if let State::Same(_) = state {
                return Err(conflict(format!("root '{id}' {}", state.told(None))));
            }
        }
        let (key, records) = self.key_for(&seen, with_records, &conflict).await?;
        let wrapped = self.wrap_all(&key).await.map_err(|(id, error)| no_answer(doing, &id, &error))?;
        self.write_entries(&wrapped).await?;
        let seen = self.anchor(&key).await?;
        let Some(anchor) = seen.anchor else {
            let absent = absent(&*self.store, &Anchor::entry());
            return Err(conflict(format!("another server gives it one at this moment, try again; {absent}")));
        };
        let key = seen.key().ok_or_else(|| {
            let fingerprint = Shown(anchor.fingerprint);
            conflict(format!(
                "another server gave it the store key {fingerprint}, and no root here opens that"
            ))
        })?;
        let mut notes = self.realign(&seen, key).await?.notes;
        for (id, state) in self.look().await?.states {
            match &state {
                State::Opens(held) if anchor.names(held) => {}
                state => notes.push(format!("root '{id}' {}", state.told(Some(&anchor)))),
            }
        }
        Ok(Established { anchor, records, notes })
    }

    /// Returns the key that the store gets: one that is there, or else a new one.
    async fn key_for(
        &self,
        seen: &Seen,
        with_records: bool,
        conflict: &(dyn Fn(String) -> Error + Sync),
    ) -> Result<(StoreKey, RecordCount)> {
        let held = self.all.iter().find_map(Root::held);
        let keys = seen.keys();
        let (opens, seen_so_far) = self.which_opens(&keys).await?;
        if let Some(held) = held {
            let records = self.count_records().await?;
            return Ok((held.clone(), records));
        }
        if let Some(key) = opens {
            return Ok((key, self.count_records().await?));
        }
        let records = seen_so_far;
        if records.sealed > 0 {
            let number = records.sealed;
            return Err(conflict(format!(
                "{number} of its records are sealed under a store key that no root here opens"
            )));
        }
        if records.unreadable > 0 {
            let number = records.unreadable;
            return Err(conflict(format!(
                "{number} of its records cannot be read, and may be sealed under a store key that is lost then"
            )));
        }
        if records.all() > 0 {
            if keys.len() > 1 {
                return Err(conflict(format!(
                    "its roots hold several keys, none of which opens a record: {}",
                    seen.told()
                )));
            }
            if !with_records {
                let number = records.all();
                return Err(conflict(format!(
                    "it has {number} records; 'kms root adopt' gives a store with records its key"
                )));
            }
            if !self.opens_earlier().await? {
                return Err(conflict("its records do not open with the roots".to_owned()));
            }
        }
        // Without records any key is as good as another, and one in an entry needs no write.
        let key = keys.into_iter().next().map_or_else(StoreKey::random, Ok)?;
        Ok((key, records))
    }

    /// Returns `true` if one of the first records opens, or if there is no key among them.
    async fn opens_earlier(&self) -> Result<bool> {
        let Some(wrapper) = self.form.earlier() else { return Ok(false) };
        let names = self.store.list(&ListQuery { limit: TRIED, ..ListQuery::prefix("") }).await?.names;
        let mut is_there = false;
        for name in names.iter().map(EntryName::from) {
            let record = match self.store.get(&name).await {
                Ok(record) => record,
                Err(error) if error.kind().is_outage() => return Err(error),
                Err(_) => continue,
            };
            is_there = true;
            match wrapper.unwrap(&name, record.expose()).await {
                Ok(_) => return Ok(true),
                Err(error) if error.kind().is_outage() => return Err(error),
                Err(_) => {}
            }
        }
        Ok(!is_there)
    }

    /// Writes the entry of a root that has none, and proves it: the root opens what was stored.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidInput`]: there is no such root among the configured ones.
    /// - [`ErrorKind::Conflict`]: the store has no key yet; no other root opens it; a removal is under way; or the
    ///   entry of this id is that of another root, or holds another store key that opens a record.
    /// - Those of the store and of the root.
    pub async fn add(&self, id: &RootId) -> Result<Added> {
        let doing = format!("add root '{id}'");
        let conflict = |why: String| Error::with_source(ErrorKind::Conflict, &*doing, why);
        let at = self.all.iter().position(|root| root.id() == id).ok_or_else(|| self.unknown(id, &doing))?;
        let root = &self.all[at];
        let seen = self.look().await?;
        let Some(anchor) = seen.anchor else {
            return Err(conflict(
                "the store has no store key: 'kms root init' or 'kms root adopt' gives it one".to_owned(),
            ));
        };
        let present = seen.mark.clone()?;
        if let Some(mark) =
            present.as_ref().filter(|mark| mark.purpose == Purpose::Remove || mark.root != *id)
        {
            return Err(conflict(mark.told()));
        }
        let key = seen.key().ok_or_else(|| {
            let fingerprint = Shown(anchor.fingerprint);
            conflict(format!("no root opens the store key {fingerprint}: {}", seen.told()))
        })?;
        let mut others = self.all.iter().filter(|other| other.id() != id);
        if let Some(same) = others.find(|other| other.has_key_of(root)) {
            let why = format!(
                "it has the root key of '{}', so they are one root, which protects nothing twice",
                same.id()
            );
            return Err(conflict(why));
        }
        if let Some(cut_off) = present {
            cut_off.release(&*self.store).await?;
        }
        match &seen.states[at].1 {
            State::Opens(held) if anchor.names(held) => Ok(Added::Already),
            State::Opens(_) => {
                let told = self.realign(&seen, key).await?.notes;
                match self.look().await?.states.into_iter().nth(at) {
                    Some((_, State::Opens(held))) if anchor.names(&held) => Ok(Added::New),
                    _ => Err(conflict(told.join("; "))),
                }
            }
            State::NoEntry => {
                let wrapped = wrap(root, key).await?;
                create_and_prove(&*self.store, root, &wrapped, key).await.map(|()| Added::New)
            }
            State::Foreign(error) => Err(conflict(format!(
                "there is an entry of another root with this id, give this one another 'id': {}",
                error.chain()
            ))),
            state @ State::Same(_) => Err(conflict(format!("it {}", state.told(None)))),
            State::Away(error) | State::Refused(error) => {
                Err(Error::with_source(error.kind(), doing.clone(), error.chain().to_string()))
            }
        }
    }

    pub(super) fn unknown(&self, id: &RootId, doing: &str) -> Error {
        let known: Vec<_> = self.all.iter().map(|root| root.id().as_str()).collect();
        let why = format!("no root '{id}' is configured, expected one of {}", known.join(", "));
        Error::with_source(ErrorKind::InvalidInput, doing, why)
    }
}

/// Creates the error of a root without which a store gets no key.
fn no_answer(doing: &str, id: &RootId, error: &Error) -> Error {
    let doing = format!("{doing}, for which all roots have to answer: root '{id}'");
    Error::with_source(error.kind(), doing, error.chain().to_string())
}
