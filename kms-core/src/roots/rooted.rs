//! The store of plain records over a store with roots.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard, Weak};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::anchor::Anchor;
use super::attempt::{Attempt, Making, Outcome, closed, opened};
use super::id::RootId;
use super::known::Known;
use super::look::Shown;
use super::noticed::Noticed;
use super::opened::Openings;
use super::root::Root;
use super::set::Roots;
use super::store_key::StoreKey;
use crate::error::{Error, ErrorKind, Result};
use crate::listing::{ListQuery, Page};
use crate::primitives::SecretBytes;
use crate::status::StoreStatus;
use crate::store::{Changes, EntryName, KeyStore, Notes, StoreCapabilities, Wrapped, Wrapper};

/// The first and the longest wait before a store or a root is tried again.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The time between two looks while all roots open the store key: a root that was lost meanwhile is told before it is needed.
const LOOKS: Duration = Duration::from_secs(300);

/// The least time between two looks for the store key because of requests.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// An opened store, and what an operator should know about it.
#[non_exhaustive]
pub struct Opened {
    /// The store of plain records.
    pub store: Arc<Rooted>,
    /// What an operator should know, a sentence each.
    pub warnings: Vec<String>,
    /// Whether the store got its key just now.
    pub is_new: bool,
}

/// A [`KeyStore`] of plain records over a store with roots.
///
/// Until a root opens, every operation fails with the error of the root that may open the store.
pub struct Rooted {
    roots: Roots,
    making: Making,
    state: RwLock<State>,
    /// When the store key was last looked for because of a request.
    looked: Mutex<Option<Instant>>,
    openings: Openings,
    /// Wakes who looks at the roots.
    look_now: Arc<Notify>,
}

type Serving = Arc<Wrapped<Arc<dyn KeyStore>, Arc<dyn Wrapper>>>;

#[derive(Clone)]
struct State {
    serving: Result<Serving>,
    /// The store key, as the anchor names it.
    key: Option<Anchor>,
    /// The same key itself, with the roots that opened it last.
    known: Option<Arc<Known>>,
    /// The roots that do not open.
    closed: Arc<[String]>,
    /// Why nothing is created any more: the anchor names another store key by now.
    outdated: Option<Arc<str>>,
}

impl Roots {
    /// Opens the store.
    ///
    /// If no root opens now, and one that may open is away, the store is returned all the same. Its operations fail
    /// with the error of that root until it opens. [`Rooted::keep_trying`] tries again.
    ///
    /// # Errors
    ///
    /// Each error is a reason not to start. Nothing was written after it was found.
    ///
    /// - [`ErrorKind::Corrupt`]: every root answered, and none opens the key that the anchor names; or the anchor
    ///   cannot be read as one.
    /// - [`ErrorKind::Conflict`]: a root's entry holds another key than the anchor names, and that key opens a record;
    ///   or the store has no anchor, and only [`Roots::init`] may decide.
    /// - [`ErrorKind::Denied`], [`ErrorKind::LoginRefused`], [`ErrorKind::Disabled`], [`ErrorKind::Internal`]: the
    ///   store, or a root that would have to wrap the first key, refuses.
    pub async fn open(self, making: Making) -> Result<Opened> {
        let Attempt { outcome, notes, is_new, closed, opened } = self.attempt(making, None).await?;
        let openings = Openings::of(self.roots());
        if let Some(opened) = &opened {
            openings.note(self.roots(), opened);
        }
        let store = Arc::new(Rooted::new(self, making, (outcome, closed, opened), openings));
        Ok(Opened { store, warnings: notes, is_new })
    }
}

impl Rooted {
    fn new(
        roots: Roots,
        making: Making,
        (outcome, closed, opened): (Outcome, Vec<String>, Option<Vec<RootId>>),
        openings: Openings,
    ) -> Self {
        let state = State::of(&roots, outcome, closed, opened);
        Self {
            roots,
            making,
            state: RwLock::new(state),
            looked: Mutex::new(None),
            openings,
            look_now: Arc::default(),
        }
    }

    /// Returns `true` if records can be read: a root opened, or the store is served in its earlier form.
    pub fn is_open(&self) -> bool {
        self.state().serving.is_ok()
    }

    /// Returns `true` if the store has a store key, and a root opened it.
    pub fn has_key(&self) -> bool {
        self.state().key.is_some()
    }

    /// Returns the number of roots that do not open the store key; all of them while none does.
    pub fn closed(&self) -> usize {
        let state = self.state();
        if state.serving.is_err() { self.roots.roots().len() } else { state.closed.len() }
    }

    /// Has `tell` told when each root last opened the store key: now, and after each look at the roots. It must not wait.
    pub fn tell_openings(&self, tell: impl Fn(&BTreeMap<RootId, Timestamp>) + Send + Sync + 'static) {
        self.openings.tell(tell);
    }

    /// Looks at the roots in the background until the store is dropped: often while one does not open, else each five
    /// minutes. What changes is logged.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn keep_trying(self: &Arc<Self>) {
        self.keep_trying_each(LOOKS);
    }

    /// Does what [`keep_trying`](Self::keep_trying) does, with another time between two looks while all roots open.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn keep_trying_each(self: &Arc<Self>, looks: Duration) {
        tokio::spawn(keep_trying(Arc::downgrade(self), looks));
    }

    /// Tries once more to open the store and all of its roots.
    ///
    /// # Errors
    ///
    /// Those of [`Roots::open`].
    pub async fn try_again(&self) -> Result<()> {
        let known = self.state().known;
        match self.roots.attempt(self.making, known.as_deref()).await {
            Ok(attempt) => {
                self.take(attempt);
                Ok(())
            }
            Err(error) => {
                // A store that was opened stays so: its key is known.
                if self.is_open() {
                    if let Ok(seen) = self.roots.look().await {
                        self.openings.note(self.roots.roots(), &opened(&seen));
                        let mut state = self.write();
                        state.closed = closed(&seen).into();
                        if let (Some(key), Some(anchor)) = (state.key, seen.anchor) {
                            state.outdated = (anchor != key).then(|| outdated(&key, &anchor));
                        }
                    }
                } else {
                    self.write().serving = Err(of_no_key(&error));
                }
                Err(error)
            }
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, attempt: Attempt) {
        let Attempt { outcome, notes, closed, opened, .. } = attempt;
        if let Some(opened) = &opened {
            self.openings.note(self.roots.roots(), opened);
        }
        let new = State::of(&self.roots, outcome, closed, opened);
        let mut state = self.write();
        let was_open = state.serving.is_ok();
        if new.closed != state.closed || new.serving.is_ok() != was_open {
            for note in notes {
                tracing::warn!("{note}");
            }
            if new.closed.is_empty() && new.serving.is_ok() {
                tracing::info!("all roots of the store open");
            }
        }
        // Nothing that is known is lost by a look that learned less.
        if let Some(key) = state.key {
            if let Some(other) = new.key {
                state.outdated = (other != key).then(|| outdated(&key, &other));
                if let Some(why) = &state.outdated {
                    tracing::error!("{why}");
                }
            }
            if new.key == Some(key) && new.known.as_ref().is_some_and(|known| !known.roots.is_empty()) {
                state.known = new.known;
            }
            if new.key.is_some() || !new.closed.is_empty() {
                state.closed = new.closed;
            }
        } else if new.serving.is_ok() || !was_open {
            *state = new;
        }
    }

    fn state(&self) -> State {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the store of records. Where no root opened yet, they are tried once more, at most once in a second.
    async fn serving(&self) -> Result<Serving> {
        let serving = self.state().serving;
        if serving.is_err() && self.may_look() {
            let _ = self.try_again().await;
            return self.state().serving;
        }
        serving
    }

    /// Returns the store that a new record goes to.
    ///
    /// The anchor is read before each creation. An operator may have given the store its key since this server started, or
    /// another key, and then have removed the root without which the new record does not open. Where a store can lose what it
    /// acknowledged, it may have lost the entries without which nothing opens after the next start.
    async fn for_creation(&self) -> Result<Serving> {
        let serving = self.serving().await?;
        let (anchor, can_be_opened) = tokio::try_join!(self.anchor(), self.can_be_opened())?;
        match (anchor, self.state().key) {
            (None, None) => return Ok(serving),
            (Some(anchor), Some(key)) if anchor == key && can_be_opened => return Ok(serving),
            // A store that is served under another key gains nothing by a look at each creation.
            (_, Some(_)) if !self.may_look() => {}
            _ => drop(self.try_again().await),
        }
        let (anchor, can_be_opened) = tokio::try_join!(self.anchor(), self.can_be_opened())?;
        match (anchor, self.state().key) {
            (Some(anchor), Some(key)) if anchor == key && can_be_opened => self.serving().await,
            (anchor, key) => Err(refused_creation(anchor.as_ref(), key.as_ref())),
        }
    }

    /// Returns whether a root has an entry, so that what is made now can be opened by the next start.
    async fn can_be_opened(&self) -> Result<bool> {
        let known = self.state().known.filter(|_| self.roots.store.capabilities().notes_removals);
        let Some(known) = known else { return Ok(true) };
        if let Some(first) = known.roots.first() {
            match self.roots.store.get(&first.entry()).await {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(of_no_key(&error)),
            }
        }
        self.roots.has_entries().await.map_err(|error| of_no_key(&error))
    }

    async fn anchor(&self) -> Result<Option<Anchor>> {
        Anchor::read(&*self.roots.store).await.map_err(|error| of_no_key(&error))
    }

    fn may_look(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_some_and(|at| at.elapsed() < LOOK_AGAIN) {
            return false;
        }
        *looked = Some(Instant::now());
        true
    }

    /// Returns whether the store has a key by now, which another server or an operator gave it.
    async fn has_key_by_now(&self) -> bool {
        if !self.may_look() {
            return self.has_key();
        }
        let _ = self.try_again().await;
        self.has_key()
    }
}

impl State {
    fn of(roots: &Roots, outcome: Outcome, closed: Vec<String>, opened: Option<Vec<RootId>>) -> Self {
        let over = |wrapper| Arc::new(Wrapped::new(Arc::clone(&roots.store), wrapper));
        let known = match &outcome {
            Outcome::Open(key) => {
                Some(Arc::new(Known { key: key.clone(), roots: opened.unwrap_or_default() }))
            }
            Outcome::Earlier | Outcome::Pending(_) => None,
        };
        let (serving, key) = match outcome {
            Outcome::Open(key) => (roots.form.under(&key).map(over), Some(Anchor::of(&key))),
            Outcome::Earlier => (roots.form.earlier().map(over).ok_or_else(no_form), None),
            Outcome::Pending(error) => (Err(of_no_key(&error)), None),
        };
        Self { serving, key, known, closed: closed.into(), outdated: None }
    }
}

fn no_form() -> Error {
    Error::with_source(ErrorKind::Internal, "open the store", "it has no earlier form")
}

/// Converts an error of roots or of their entries, so that no client takes it for an answer about a key.
fn of_no_key(error: &Error) -> Error {
    if error.kind().is_answer() {
        Error::with_source(ErrorKind::Denied, "open the store", error.chain().to_string())
    } else {
        error.clone()
    }
}

fn outdated(key: &Anchor, other: &Anchor) -> Arc<str> {
    let (key, other) = (Shown(key.fingerprint), Shown(other.fingerprint));
    let why = format!(
        "this server opened the store key {key}, and the anchor of the store names {other} by now: nothing is created \
         before the server starts anew"
    );
    why.into()
}

/// Creates the error of a record that is not made, since the store key that this server has is not in force.
fn refused_creation(anchor: Option<&Anchor>, key: Option<&Anchor>) -> Error {
    let why = match (anchor, key) {
        (Some(anchor), Some(key)) if anchor == key => {
            "the store lost the entries of its roots, so the next start could not open it: see 'kms root status'".to_owned()
        }
        (Some(anchor), Some(key)) => outdated(key, anchor).to_string(),
        (Some(anchor), None) => {
            let anchor = Shown(anchor.fingerprint);
            format!("the store got the store key {anchor}, which no root of this server opened yet")
        }
        (None, _) => "the store has no anchor, and had one: see 'kms root status'".to_owned(),
    };
    Error::with_source(ErrorKind::ReadOnly, "create a record under the store key in force", why)
}

async fn keep_trying(store: Weak<Rooted>, looks: Duration) {
    let mut wait = WAITS.0;
    loop {
        let all_open = match store.upgrade() {
            Some(store) => store.is_open() && store.closed() == 0 && store.has_key(),
            None => return,
        };
        wait = if all_open { looks } else { wait };
        let Some(look_now) = store.upgrade().map(|store| Arc::clone(&store.look_now)) else { return };
        // A server that was promoted may have lost the entries.
        let _ = timeout(wait, look_now.notified()).await;
        let Some(store) = store.upgrade() else { return };
        if let Err(error) = store.try_again().await {
            tracing::error!(cause = error.as_dyn(), "the roots of the store were tried again");
        }
        wait = if all_open { WAITS.0 } else { (wait * 2).min(WAITS.1) };
    }
}

#[async_trait]
impl KeyStore for Rooted {
    fn capabilities(&self) -> StoreCapabilities {
        if let Ok(serving) = self.state().serving {
            return serving.capabilities();
        }
        let mut capabilities = self.roots.store.capabilities();
        capabilities.reads_at_once = false;
        capabilities
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        self.for_creation().await?.create(name, record).await
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        let outcome = self.serving().await?.get(name).await;
        match outcome {
            Err(error) if error.kind() == ErrorKind::Corrupt && !self.has_key() => {
                // It may be sealed under a key that the store got since this server started.
                let record = self.roots.store.get(name).await?;
                if StoreKey::sealed_so(record.expose()) && self.has_key_by_now().await {
                    self.serving().await?.get(name).await
                } else {
                    Err(error)
                }
            }
            outcome => outcome,
        }
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.serving().await?.delete(name).await
    }

    async fn erase(&self, name: &EntryName) -> Result<()> {
        self.serving().await?.erase(name).await
    }

    async fn remove(&self, name: &EntryName, gone: &EntryName, record: &SecretBytes) -> Result<()> {
        // The note is a new record. One that nobody can open would make a loss of the removal.
        let notes = self.roots.store.capabilities().notes_removals;
        let serving = if notes { self.for_creation().await? } else { self.serving().await? };
        serving.remove(name, gone, record).await
    }

    async fn bring_back(&self, name: &EntryName, record: &SecretBytes, gone: &EntryName) -> Result<()> {
        self.for_creation().await?.bring_back(name, record, gone).await
    }

    async fn replace(&self, name: &EntryName, record: &SecretBytes, notes: &Notes<'_>) -> Result<()> {
        self.for_creation().await?.replace(name, record, notes).await
    }

    async fn restore(&self, name: &EntryName) -> Result<()> {
        self.serving().await?.restore(name).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.serving().await?.list(query).await
    }

    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        self.serving().await?.segments(directory).await
    }

    fn changes(&self) -> Option<Changes> {
        let (changes, look_now) = (self.roots.store.changes()?, Arc::clone(&self.look_now));
        Some(Box::pin(Noticed { changes, look_now }))
    }

    async fn status(&self) -> Result<StoreStatus> {
        let status = self.serving().await?.status().await?;
        let State { closed, outdated, .. } = self.state();
        let why = closed.iter().map(String::as_str).chain(outdated.as_deref());
        Ok(why.fold(status, StoreStatus::degraded))
    }

    fn login_ends(&self) -> Option<Timestamp> {
        let of_roots = self.roots.roots().iter().filter_map(|root| root.wrapper().login_ends());
        of_roots.chain(self.roots.store.login_ends()).min()
    }

    fn closed_roots(&self) -> Option<usize> {
        Some(self.closed())
    }

    fn roots_opened(&self) -> Vec<(String, Option<Timestamp>)> {
        // Before a store has a store key, its roots have nothing to open.
        let is_earlier = self.is_open() && !self.has_key();
        let ids = self.roots.roots().iter().map(Root::id);
        let opened = ids.map(|id| (id.to_string(), self.openings.last(id)));
        opened.filter(|(_, at)| !is_earlier || at.is_some()).collect()
    }

    fn place(&self, name: &EntryName) -> String {
        self.roots.store.place(name)
    }
}
