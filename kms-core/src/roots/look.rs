//! What a store and its roots say: the anchor, and what each root makes of its entry.

use std::fmt;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::anchor::Anchor;
use super::id::RootId;
use super::mark::Mark;
use super::root::Root;
use super::set::Roots;
use super::store_key::StoreKey;
use crate::error::{Error, ErrorKind, Result};
use crate::primitives::{Fingerprint, SecretBytes};

/// How long a root may take to open its entry.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is known of a store and its roots.
pub(super) struct Seen {
    pub anchor: Option<Anchor>,
    /// The mark of who removes a root or writes an entry anew. An error ends no start: nothing is deleted without the mark.
    pub mark: Result<Option<Mark>>,
    /// The state of each root, in the order of the roots.
    pub states: Vec<(RootId, State)>,
}

/// The state of a root.
pub(super) enum State {
    /// It opens this store key.
    Opens(StoreKey),
    /// It has no entry.
    NoEntry,
    /// Its entry does not open under it.
    Foreign(Error),
    /// It is another configured root once more, which could not be known before it was read.
    Same(RootId),
    /// It, or the store, cannot be asked now.
    Away(Error),
    /// It, or the store, refuses.
    Refused(Error),
}

impl State {
    /// Sorts the error of a root.
    pub fn of_error(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Corrupt | ErrorKind::NotAuthentic => Self::Foreign(error),
            kind if kind.is_outage() => Self::Away(error),
            _ => Self::Refused(error),
        }
    }

    /// Describes the state; `anchor` is the store key in force.
    pub fn told(&self, anchor: Option<&Anchor>) -> String {
        match self {
            Self::Opens(key) => match anchor {
                Some(anchor) if !anchor.names(key) => {
                    format!("holds another store key, {}", Shown(key.fingerprint()))
                }
                _ => "opens".to_owned(),
            },
            Self::NoEntry => "has no entry".to_owned(),
            Self::Same(other) => format!(
                "has the root key of '{other}', so they are one root, which protects nothing twice: take one out of the config"
            ),
            Self::Foreign(error) => format!("does not open its entry: {}", error.chain()),
            Self::Away(error) => format!("is away: {}", error.chain()),
            Self::Refused(error) => format!("refuses: {}", error.chain()),
        }
    }
}

impl Seen {
    /// Returns the store key in force, if a root opens it.
    pub fn key(&self) -> Option<&StoreKey> {
        let anchor = self.anchor.as_ref()?;
        self.opened().map(|(_, key)| key).find(|key| anchor.names(key))
    }

    /// Returns the roots that open a store key, whichever it is.
    pub fn opened(&self) -> impl Iterator<Item = (&RootId, &StoreKey)> {
        self.states.iter().filter_map(|(id, state)| match state {
            State::Opens(key) => Some((id, key)),
            _ => None,
        })
    }

    /// Returns the store keys that roots open, each once.
    pub fn keys(&self) -> Vec<StoreKey> {
        let mut keys: Vec<StoreKey> = Vec::new();
        for (_, key) in self.opened() {
            if !keys.iter().any(|one| Anchor::of(one) == Anchor::of(key)) {
                keys.push(key.clone());
            }
        }
        keys
    }

    /// Returns the error of the first root that is away.
    pub fn away(&self) -> Option<&Error> {
        self.states.iter().find_map(|(_, state)| match state {
            State::Away(error) => Some(error),
            _ => None,
        })
    }

    /// Says that a change of a root is under way or was cut off, or that nobody knows; `None` if there is none.
    pub fn told_of_mark(&self) -> Option<String> {
        match &self.mark {
            Ok(mark) => mark.as_ref().map(Mark::told),
            Err(error) => Some(format!("whether a root is being removed is not known: {}", error.chain())),
        }
    }

    /// Returns what each root says, as one text.
    pub fn told(&self) -> String {
        let told = self.states.iter();
        let told = told.map(|(id, state)| format!("root '{id}' {}", state.told(self.anchor.as_ref())));
        told.collect::<Vec<_>>().join("; ")
    }
}

impl Roots {
    /// Reads the anchor, and has each root open its entry, all at once.
    ///
    /// # Errors
    ///
    /// The anchor cannot be read. Then nothing is known.
    pub(super) async fn look(&self) -> Result<Seen> {
        let anchor = Anchor::read(&*self.store).await?;
        let mark = Mark::read(&*self.store).await;
        let mut asked = JoinSet::new();
        for (n, root) in self.all.iter().cloned().enumerate() {
            let roots = self.clone();
            asked.spawn(async move { (n, roots.state_of(&root).await) });
        }
        let gone = || {
            let error = Error::with_source(ErrorKind::Internal, "ask a root", "the question was ended");
            State::Refused(error)
        };
        let mut states: Vec<_> = self.all.iter().map(|root| (root.id().clone(), gone())).collect();
        while let Some(answer) = asked.join_next().await {
            if let Ok((n, state)) = answer {
                states[n].1 = state;
            }
        }
        self.count_once(&mut states);
        Ok(Seen { anchor, mark, states })
    }

    /// Counts only one of the roots that open and show to have one root key: the first one in the configuration, and one that
    /// could be read at the start before all that could not.
    fn count_once(&self, states: &mut [(RootId, State)]) {
        for n in (0..self.all.len()).filter(|n| self.all[*n].is_later()) {
            let State::Opens(held) = &states[n].1 else { continue };
            let others = (0..self.all.len()).filter(|m| *m < n || !self.all[*m].is_later());
            let mut opens = others.filter(
                |m| matches!(&states[*m].1, State::Opens(other) if Anchor::of(other) == Anchor::of(held)),
            );
            if let Some(m) = opens.find(|m| self.all[*m].has_key_of(&self.all[n])) {
                states[n].1 = State::Same(states[m].0.clone());
            }
        }
    }

    async fn state_of(&self, root: &Root) -> State {
        if let Some(key) = root.held() {
            return State::Opens(key.clone());
        }
        let late = || {
            let why = format!("no answer within {} s", PATIENCE.as_secs());
            Error::with_source(ErrorKind::Timeout, format!("ask root '{}'", root.id()), why)
        };
        let root = match root.loaded() {
            Ok(root) => root,
            Err(error) => return State::of_error(error),
        };
        let opened = async {
            let wrapped = self.store.get(&root.id().entry()).await?;
            open_wrapped(&root, &wrapped).await
        };
        match timeout(PATIENCE, opened).await {
            Err(_) => State::Away(late()),
            Ok(Ok(key)) => State::Opens(key),
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => State::NoEntry,
            Ok(Err(error)) => State::of_error(error),
        }
    }
}

/// Says of the root `id` that the store has a store key, and no entry of this root.
pub(super) fn without_entry(id: &RootId) -> String {
    format!(
        "is in the config but has no entry in this store: it was removed or never added, and does not protect the store; take \
         it out of the config, or 'kms root add {id}' adds it"
    )
}

/// Opens the content of a root's entry.
///
/// # Errors
///
/// Those of the wrapper. None of them is [`ErrorKind::NotFound`], which would read as an answer about the entry.
pub(super) async fn open_wrapped(root: &Root, wrapped: &SecretBytes) -> Result<StoreKey> {
    let doing = || format!("open the entry of root '{}'", root.id());
    let opened = root.wrapper().unwrap(&root.id().entry(), wrapped.expose()).await;
    let opened = opened.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::with_source(ErrorKind::Denied, doing(), error.chain().to_string()),
        _ => error,
    })?;
    StoreKey::of_unwrapped(&opened).map_err(|why| Error::with_source(ErrorKind::Corrupt, doing(), why))
}

/// Prints a fingerprint in hex.
pub(super) struct Shown(pub Fingerprint);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0.as_bytes()))
    }
}
