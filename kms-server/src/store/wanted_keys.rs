//! Keys that the configuration wants to be there: made at the start, or later where the key store is away then.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kms_core::{Error, ErrorKind, Identity, KeyName, Kms, Request};
use tokio::sync::{Notify, watch};

use super::inventory::START_TIMEOUT;
use crate::error::StartError;

/// How long the start waits for each key, before it goes on without.
const FIRST_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause after a key store could not make a key; it doubles with each further one, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How many names are told.
const TOLD: usize = 3;

/// The keys that the configuration in force names.
pub struct WantedKeys {
    state: Mutex<State>,
    /// There is another list.
    changed: Notify,
    /// The number of the last list that was tried.
    tried: watch::Sender<u64>,
}

struct State {
    /// The number of the list, to tell it from the one before.
    number: u64,
    creator: Identity,
    /// Those that may be missing.
    open: Vec<KeyName>,
    /// They were tried, and are missing.
    are_missing: bool,
    /// What the log was told of that.
    told: Option<String>,
}

impl State {
    /// Takes in what came of the list of this number, and tells the log what is new about it.
    fn note(&mut self, number: u64, missing: Vec<KeyName>, why: Option<&Error>) {
        if self.number != number {
            return;
        }
        let line = why.map(|error| {
            format!("keys: cannot create {} yet, trying again: {}", list(&missing), error.chain())
        });
        match &line {
            Some(line) if self.told.as_ref() != Some(line) => tracing::error!("{line}"),
            None if self.told.is_some() => tracing::info!("keys: all that the config names are there"),
            _ => {}
        }
        self.told = line;
        self.are_missing = !missing.is_empty();
        self.open = missing;
    }
}

/// What came of a try.
struct Outcome {
    missing: Vec<KeyName>,
    /// Of the first of them.
    why: Option<Error>,
}

impl WantedKeys {
    /// Makes the keys at a start; those that a key store that is away cannot make are made later, by [`run`](Self::run).
    ///
    /// An error is one that waiting does not mend, and the line that says so.
    pub async fn at_start(
        creator: Identity,
        names: &[KeyName],
        kms: &dyn Kms,
    ) -> Result<Arc<Self>, StartError> {
        let Outcome { missing, why } = create(kms, creator, names, FIRST_TIMEOUT).await;
        if let Some(error) = &why
            && !error.kind().is_outage()
        {
            let line = format!("keys: cannot create {}: {}", list(&missing), error.chain());
            return Err(StartError::with_source(line, error.clone()));
        }
        let mut state = State { number: 0, creator, open: Vec::new(), are_missing: false, told: None };
        state.note(0, missing, why.as_ref());
        Ok(Arc::new(Self { state: Mutex::new(state), changed: Notify::new(), tried: watch::Sender::new(0) }))
    }

    /// Takes another list, and waits a moment until its keys are there or cannot be made now.
    pub async fn set(&self, creator: Identity, names: Vec<KeyName>) {
        let number = {
            let mut state = self.state();
            let number = state.number + 1;
            let told = state.told.take();
            *state = State { number, creator, open: names, are_missing: false, told };
            number
        };
        self.changed.notify_one();
        let mut tried = self.tried.subscribe();
        let _ = tokio::time::timeout(FIRST_PAUSE, tried.wait_for(|tried| *tried >= number)).await;
    }

    /// Says which keys are missing, if any are.
    pub fn describe(&self) -> Option<String> {
        let state = self.state();
        let names = Some(&state.open).filter(|open| state.are_missing && !open.is_empty())?;
        Some(match names.len() {
            1 => format!("1 key of the config is not there yet: {}", list(names)),
            count => format!("{count} keys of the config are not there yet: {}", list(names)),
        })
    }

    /// Makes the keys that are missing, until it is dropped.
    pub async fn run(self: Arc<Self>, kms: Arc<dyn Kms>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let (number, creator, names) = {
                let state = self.state();
                (state.number, state.creator, state.open.clone())
            };
            let Outcome { missing, why } = create(&*kms, creator, &names, START_TIMEOUT).await;
            self.state().note(number, missing, why.as_ref());
            self.tried.send_replace(number);
            let next = async {
                match why {
                    Some(_) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = next => pause = LONGEST_PAUSE.min(pause * 2),
                () = self.changed.notified() => pause = FIRST_PAUSE,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Creates keys unless they are there. A key store that is away is not asked for one after the other.
async fn create(kms: &dyn Kms, creator: Identity, names: &[KeyName], timeout: Duration) -> Outcome {
    let mut outcome = Outcome { missing: Vec::new(), why: None };
    for (index, name) in names.iter().enumerate() {
        match kms.create(&Request::new(creator, timeout), name).await {
            Ok(()) => tracing::info!(key = %name, "key created"),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => {
                let is_away = error.kind().is_outage();
                outcome.why.get_or_insert(error);
                if is_away {
                    outcome.missing.extend_from_slice(names.get(index..).unwrap_or_default());
                    return outcome;
                }
                outcome.missing.push(name.clone());
            }
        }
    }
    outcome
}

/// Names the first of some keys.
fn list(names: &[KeyName]) -> String {
    let told: Vec<_> = names.iter().take(TOLD).map(|name| format!("'{name}'")).collect();
    let more = names.len().saturating_sub(TOLD);
    if more == 0 { told.join(", ") } else { format!("{} and {more} more", told.join(", ")) }
}
