//! One attempt to open a store: which key it has, who may give it one, and whether it is served.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::anchor::Anchor;
use super::establish::Realigned;
use super::id::RootId;
use super::known::Known;
use super::look::{Seen, Shown, State, without_entry};
use super::mark::absent;
use super::root::Root;
use super::set::Roots;
use super::store_key::StoreKey;
use crate::error::{Error, ErrorKind, Result};
use crate::store::Wrapper;

/// Whether an opening may give an empty store its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Making {
    /// It may, if all roots answer and the store is known to be empty.
    OnEmpty,
    /// Only [`Roots::init`] and [`Roots::adopt`] may: the store has no atomic create, or a root has no id of its own.
    Explicit,
}

/// What one attempt to open a store came to.
pub(super) struct Attempt {
    pub outcome: Outcome,
    pub notes: Vec<String>,
    pub is_new: bool,
    /// The roots that do not open the store key.
    pub closed: Vec<String>,
    /// The roots that open the store key in force; `None` where they were not asked.
    pub opened: Option<Vec<RootId>>,
}

pub(super) enum Outcome {
    /// The store has this key.
    Open(StoreKey),
    /// The store has no key, and its records are wrapped one by one.
    Earlier,
    /// Nobody knows yet: a root or the store is away.
    Pending(Error),
}

/// How often a start looks again while other servers give the store its key.
const LOOKS: u32 = 80;
/// The wait between two such looks.
const PAUSE: Duration = Duration::from_millis(25);

/// What is gone of a store whose first records are sealed under a store key that no root here has.
enum Lost {
    /// None of the first records has another form.
    OfAll(Error),
    /// Some were wrapped one by one, and are served.
    OfSome(Error),
}

/// What came of a store without anchor: an attempt, or a reason to look again.
pub(super) enum Unanchored {
    Done(Attempt),
    /// Others are at it. What to say if they do not come to an end.
    Again(Error),
}

impl Roots {
    /// Tries to open the store.
    ///
    /// A server that opened it before says what it knows: it makes no other store key, and writes back what the store lost.
    pub(super) async fn attempt(&self, making: Making, known: Option<&Known>) -> Result<Attempt> {
        let mut looks = 0;
        loop {
            looks += 1;
            let seen = match self.look().await {
                Ok(seen) => seen,
                Err(error) if error.kind().is_outage() => return Ok(Attempt::pending(error, Vec::new())),
                Err(error) if error.kind() == ErrorKind::Denied => {
                    let why = format!("whether the store has a store key is not known: {}", error.chain());
                    return self.earlier_or(&why);
                }
                Err(error) => return Err(error),
            };
            // What rests in the header of a store is not lost with its entries.
            let known = known.filter(|_| self.all.iter().all(|root| root.held().is_none()));
            if let Some(anchor) = seen.anchor {
                if looks < LOOKS
                    && let Some(known) = known
                    && self.write_entries_back(&seen, known).await?
                {
                    continue;
                }
                return self.anchored(&anchor, &seen).await;
            }
            let outcome = match known {
                Some(known) => self.anchored_again(&seen, known).await,
                None => self.unanchored(&seen, making).await,
            };
            let again = match outcome {
                Ok(Unanchored::Done(attempt)) if !matches!(attempt.outcome, Outcome::Earlier) => {
                    return Ok(attempt);
                }
                Ok(Unanchored::Again(error)) => error,
                // Another server may have given the store its key since the look, and have made records under it.
                _ if looks < LOOKS && self.has_anchor().await => continue,
                Ok(Unanchored::Done(attempt)) => return Ok(attempt),
                Err(error) => return Err(error),
            };
            if looks == LOOKS {
                return Err(again);
            }
            sleep(PAUSE).await;
        }
    }

    /// Returns the wrapper of the records as they are now, and writes nothing.
    ///
    /// # Errors
    ///
    /// No root opens the store key, or the store cannot be asked.
    pub async fn peek(&self) -> Result<Arc<dyn Wrapper>> {
        let seen = self.look().await?;
        match (&seen.anchor, seen.key()) {
            (_, Some(key)) => self.form.under(key),
            (None, None) => {
                let keys = seen.keys();
                match (self.which_opens(&keys).await, keys.as_slice()) {
                    (Ok((Some(key), _)), _) => self.form.under(&key),
                    // It opens records of both forms, and what it does not open nothing here opens.
                    (_, [key]) => self.form.under(key),
                    (_, []) if let Some(Lost::OfAll(why)) = self.lost_key().await => Err(why),
                    _ => self.form.earlier().ok_or_else(|| no_key("the store has no anchor")),
                }
            }
            (Some(anchor), None) => {
                let kind = seen.away().map_or(ErrorKind::Corrupt, Error::kind);
                let doing = format!("open the store key {}", Shown(anchor.fingerprint));
                Err(Error::with_source(kind, doing, seen.told()))
            }
        }
    }

    /// Opens a store that has a key.
    async fn anchored(&self, anchor: &Anchor, seen: &Seen) -> Result<Attempt> {
        let Some(key) = seen.key() else {
            let doing = format!("open the store key {}", Shown(anchor.fingerprint));
            if let Some(away) = seen.away() {
                let error = Error::with_source(away.kind(), doing, seen.told());
                return Ok(Attempt {
                    closed: closed(seen),
                    opened: Some(opened(seen)),
                    ..Attempt::pending(error, Vec::new())
                });
            }
            let why = format!("no root opens it: {}", seen.told());
            return Err(Error::with_source(ErrorKind::Corrupt, doing, why));
        };
        if let Some(tried) = self.none_opens(key).await {
            let doing = format!("serve the store under the store key {}", Shown(anchor.fingerprint));
            let why = format!(
                "the anchor names it, and none of the first {tried} sealed records opens under it: anchor or records are \
                 those of another store"
            );
            return Err(Error::with_source(ErrorKind::Corrupt, doing, why));
        }
        let Realigned { mut notes, stay } = self.realign(seen, key).await?;
        notes.extend(seen.told_of_mark());
        let (mut closed, mut opened) = (Vec::new(), Vec::new());
        for (id, state) in &seen.states {
            let told = state.told(Some(anchor));
            match state {
                State::Opens(_) if !stay.contains(id) => {
                    opened.push(id.clone());
                    continue;
                }
                State::Opens(_) => {}
                State::NoEntry => notes.push(format!("root '{id}' {}", without_entry(id))),
                _ => notes.push(format!("root '{id}' {told}")),
            }
            closed.push(is_closed(id, state));
        }
        let (outcome, opened) = (Outcome::Open(key.clone()), Some(opened));
        Ok(Attempt { outcome, notes, is_new: false, closed, opened })
    }

    /// Finds out what a store without anchor is.
    async fn unanchored(&self, seen: &Seen, making: Making) -> Result<Unanchored> {
        let keys = seen.keys();
        if let Some(held) = self.all.iter().find_map(Root::held) {
            return self.held(held, making).await;
        }
        if !keys.is_empty() {
            return self.completed(seen, &keys, making).await;
        }
        if let Some(away) = seen.away() {
            return Ok(Unanchored::Done(Attempt::pending(away.clone(), Vec::new())));
        }
        if seen.states.iter().any(|(_, state)| !matches!(state, State::NoEntry | State::Same(_))) {
            let why = format!("the store has no anchor, and {}", seen.told());
            if let Some(Lost::OfAll(lost)) = self.lost_key().await {
                let why = format!("{why}; {}", lost.chain());
                return Err(Error::with_source(ErrorKind::Conflict, "open the roots of the store", why));
            }
            return self.earlier_or(&why).map(Unanchored::Done);
        }
        match self.is_empty().await {
            // Sealed records are not to be told as wrapped one by one.
            Ok(false) if let Some(lost) = self.lost_key().await => match lost {
                Lost::OfSome(why) if self.is_served_earlier() => {
                    Ok(Unanchored::Done(Attempt::earlier(vec![why.chain().to_string()])))
                }
                Lost::OfAll(why) | Lost::OfSome(why) => Err(why),
            },
            Ok(false) if self.is_served_earlier() => {
                let unprotected = "the records are wrapped one by one, each by one root: a second root protects none \
                    of them, and 'kms root adopt' has it protect what is made from then on";
                let notes = (self.all.len() > 1).then(|| unprotected.to_owned());
                Ok(Unanchored::Done(Attempt::earlier(notes.into_iter().collect())))
            }
            Ok(false) => Err(no_key("the store has records and no anchor")),
            Ok(true) if making == Making::OnEmpty => self.first_key().await,
            Ok(true) => {
                let why = "the store is empty and has no store key";
                self.earlier_or(why).map(Unanchored::Done)
            }
            Err(error) if error.kind().is_outage() => {
                Ok(Unanchored::Done(Attempt::pending(error, Vec::new())))
            }
            Err(error) => {
                let why = format!("whether the store is empty is not known: {}", error.chain());
                self.earlier_or(&why).map(Unanchored::Done)
            }
        }
    }

    /// Judges a store without anchor whose store key rests elsewhere, as in the header of a local store.
    async fn held(&self, key: &StoreKey, making: Making) -> Result<Unanchored> {
        let unprotected =
            "the store key is under one root only, and 'kms root adopt' has the others protect it too";
        let is_new = match self.is_empty().await {
            Ok(is_empty) => is_empty && making == Making::OnEmpty,
            Err(error) if error.kind().is_outage() => {
                return Ok(Unanchored::Done(Attempt::pending(error, Vec::new())));
            }
            Err(error) => return Err(error),
        };
        if is_new {
            match self.wrap_all(key).await {
                Ok(wrapped) => {
                    self.write_entries(&wrapped).await?;
                    return self.anchored_now(key).await;
                }
                // What is made before all roots have the key would be under one of them.
                Err((_, error)) if error.kind().is_outage() => {
                    return Ok(Unanchored::Done(Attempt::pending(error, Vec::new())));
                }
                Err((id, error)) => {
                    return Err(no_key(&format!("root '{id}' takes no store key: {}", error.chain())));
                }
            }
        }
        if !self.is_served_earlier() {
            return Err(no_key("the store has no anchor"));
        }
        let notes = (self.all.len() > 1).then(|| unprotected.to_owned());
        Ok(Unanchored::Done(Attempt::earlier(notes.into_iter().collect())))
    }

    /// Goes on with root entries of a store without anchor.
    async fn completed(&self, seen: &Seen, keys: &[StoreKey], making: Making) -> Result<Unanchored> {
        let (key, count) = match self.which_opens(keys).await {
            Ok((Some(key), _)) => (key, None),
            // A root that is away may have the key of this store.
            Ok((None, _)) if let Some(away) = seen.away() => {
                return Ok(Unanchored::Done(Attempt::pending(away.clone(), Vec::new())));
            }
            Ok((None, count)) => match keys {
                [key] if count.all() == 0 => (key.clone(), Some(count)),
                _ if count.all() == 0 => {
                    let why =
                        format!("the store has no anchor, and its roots hold several keys: {}", seen.told());
                    return Ok(Unanchored::Again(no_key(&why)));
                }
                _ => {
                    let why = format!(
                        "the store has no anchor, and the store keys in its roots' entries open none of its {} records: {}",
                        count.all(),
                        seen.told()
                    );
                    return self.earlier_or(&why).map(Unanchored::Done);
                }
            },
            Err(error) if error.kind().is_outage() => {
                return Ok(Unanchored::Done(Attempt::pending(error, Vec::new())));
            }
            Err(error) => {
                let why = format!(
                    "the store has no anchor, and whether a store key in its roots' entries opens a record is not known: {}",
                    error.chain()
                );
                return self.earlier_or(&why).map(Unanchored::Done);
            }
        };
        if making == Making::Explicit {
            let why = "the store has entries of roots and no anchor";
            return self.earlier_or(why).map(Unanchored::Done);
        }
        if count.is_none() {
            return self.anchored_now(&key).await;
        }
        // A first start was cut off: it would have written the entries of all roots. One that is away gets none.
        self.write_entries(&self.wrap_where_possible(&key).await).await?;
        let mut outcome = self.anchored_now(&key).await?;
        if let Unanchored::Done(attempt) = &mut outcome {
            attempt.notes.push(
                "the store was empty and its roots had entries, so their key was taken, as after a first start that was cut \
                 off; if there was none, the entries are copies from another store, whose key is now this one's too"
                    .to_owned(),
            );
        }
        Ok(outcome)
    }

    /// Makes the first key of an empty store.
    async fn first_key(&self) -> Result<Unanchored> {
        let key = StoreKey::random()?;
        let wrapped = match self.wrap_all(&key).await {
            Ok(wrapped) => wrapped,
            Err((_, error)) if error.kind().is_outage() => {
                return Ok(Unanchored::Done(Attempt::pending(error, Vec::new())));
            }
            Err((_, error)) => {
                let why = format!("the store is empty, and no store key can be made: {}", error.chain());
                return self.earlier_or(&why).map(Unanchored::Done);
            }
        };
        self.write_entries(&wrapped).await?;
        self.anchored_now(&key).await
    }

    /// Creates the anchor, and opens the store whose key the anchor names by then.
    pub(super) async fn anchored_now(&self, key: &StoreKey) -> Result<Unanchored> {
        let seen = match self.anchor(key).await {
            Ok(seen) => seen,
            Err(error) if error.kind().is_outage() => return Ok(Unanchored::Again(error)),
            Err(error) => return Err(error),
        };
        let Some(anchor) = seen.anchor else {
            let why = format!(
                "other servers give it one, and do not come to an end; {}",
                absent(&*self.store, &Anchor::entry())
            );
            return Ok(Unanchored::Again(no_key(&why)));
        };
        let mut attempt = self.anchored(&anchor, &seen).await?;
        attempt.is_new = anchor.names(key);
        Ok(Unanchored::Done(attempt))
    }

    /// Says what is gone, if there is a record among the first ones that is sealed under a store key.
    async fn lost_key(&self) -> Option<Lost> {
        let first = self.first_records().await;
        let why = format!(
            "the anchor is gone, no root here opens a store key, and {} of the first {} records are sealed under one: bring the \
             entries '.r/…' back from a backup of the store, or the root that has one into the config",
            first.sealed,
            first.all()
        );
        let error = Error::with_source(ErrorKind::Conflict, "open the roots of the store", why);
        match (first.sealed, first.earlier) {
            (0, _) => None,
            (_, 0) => Some(Lost::OfAll(error)),
            _ => Some(Lost::OfSome(error)),
        }
    }

    fn is_served_earlier(&self) -> bool {
        self.form.earlier().is_some()
    }

    /// Serves the store in its earlier form. Where it has none, or has several roots, which protect nothing then, the start is
    /// refused.
    fn earlier_or(&self, why: &str) -> Result<Attempt> {
        if self.is_served_earlier() && self.all.len() == 1 {
            Ok(Attempt::earlier(vec![format!("{why}; records are wrapped one by one until 'kms root init'")]))
        } else {
            Err(no_key(why))
        }
    }
}

/// Names the roots that do not open the store key in force.
pub(super) fn closed(seen: &Seen) -> Vec<String> {
    let opened = opened(seen);
    let closed = seen.states.iter().filter(|(id, _)| !opened.contains(id));
    closed.map(|(id, state)| is_closed(id, state)).collect()
}

/// Returns the roots that open the store key in force.
pub(super) fn opened(seen: &Seen) -> Vec<RootId> {
    let Some(anchor) = &seen.anchor else { return Vec::new() };
    seen.opened().filter(|(_, key)| anchor.names(key)).map(|(id, _)| id.clone()).collect()
}

fn is_closed(id: &RootId, state: &State) -> String {
    match state {
        State::Same(other) => format!("root '{id}' is '{other}' once more"),
        _ => format!("root '{id}' does not open"),
    }
}

/// Creates the error of a store that gets no key by itself.
pub(super) fn no_key(why: &str) -> Error {
    let why = format!("{why}; 'kms root init' gives the store its key once that is looked into");
    Error::with_source(ErrorKind::Conflict, "open the roots of the store", why)
}

impl Attempt {
    fn earlier(notes: Vec<String>) -> Self {
        Self { outcome: Outcome::Earlier, notes, is_new: false, closed: Vec::new(), opened: None }
    }

    pub(super) fn pending(error: Error, notes: Vec<String>) -> Self {
        Self { outcome: Outcome::Pending(error), notes, is_new: false, closed: Vec::new(), opened: None }
    }
}
