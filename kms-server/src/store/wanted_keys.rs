//! Keys that the configuration names: created at the start, or later if the key store is away at the start.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kms_core::{Error, ErrorKind, Identity, KeyName, Kms, Request};
use tokio::sync::{Notify, watch};

use super::inventory::START_TIMEOUT;
use crate::error::StartError;

/// How long the start waits for each key before it continues without.
const FIRST_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause after a key could not be created. It doubles each time, up to the longest one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The most names in a message.
const TOLD: usize = 3;

/// The keys that the configuration in force names.
pub struct WantedKeys {
    state: Mutex<State>,
    /// Notified when there is another list.
    changed: Notify,
    /// The number of the last list that was tried.
    tried: watch::Sender<u64>,
}

struct State {
    /// The number of this list.
    number: u64,
    creator: Identity,
    /// The keys that may be missing.
    open: Vec<KeyName>,
    /// Whether these were tried, and are missing.
    are_missing: bool,
    /// The last line that was logged about them.
    told: Option<String>,
}

impl State {
    /// Takes the result for the list with this number, and logs it if it is new.
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

/// The result of a try.
struct Outcome {
    missing: Vec<KeyName>,
    /// The error of the first missing key.
    why: Option<Error>,
}

impl WantedKeys {
    /// Creates the keys at a start. If the key store is away or takes no writes, [`run`](Self::run) creates them later.
    ///
    /// Fails with an error that waiting does not mend.
    pub async fn at_start(
        creator: Identity,
        names: &[KeyName],
        kms: &dyn Kms,
    ) -> Result<Arc<Self>, StartError> {
        let Outcome { missing, why } = create(kms, creator, names, FIRST_TIMEOUT).await;
        if let Some(error) = &why
            && !error.kind().is_retryable()
        {
            let line = format!("keys: cannot create {}: {}", list(&missing), error.chain());
            return Err(StartError::with_source(line, error.clone()));
        }
        let mut state = State { number: 0, creator, open: Vec::new(), are_missing: false, told: None };
        state.note(0, missing, why.as_ref());
        Ok(Arc::new(Self { state: Mutex::new(state), changed: Notify::new(), tried: watch::Sender::new(0) }))
    }

    /// Takes another list. Waits a moment until its keys exist or cannot be created now.
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

    /// Returns a message about missing keys, if there are any.
    pub fn describe(&self) -> Option<String> {
        let state = self.state();
        let names = Some(&state.open).filter(|open| state.are_missing && !open.is_empty())?;
        Some(match names.len() {
            1 => format!("1 key of the config is not there yet: {}", list(names)),
            count => format!("{count} keys of the config are not there yet: {}", list(names)),
        })
    }

    /// Creates missing keys, until it is dropped.
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

/// Creates those keys that do not exist. It stops at the first outage, instead of waiting once for each key.
async fn create(kms: &dyn Kms, creator: Identity, names: &[KeyName], timeout: Duration) -> Outcome {
    let mut outcome = Outcome { missing: Vec::new(), why: None };
    let mut answers = true;
    for (index, name) in names.iter().enumerate() {
        match kms.create(&Request::new(creator, timeout), name).await {
            Ok(()) => tracing::info!(key = %name, "key created"),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let described = if answers {
                    kms.describe(&Request::new(creator, timeout), name).await.map(drop)
                } else {
                    Ok(())
                };
                match described {
                    Err(error) if error.kind() == ErrorKind::Deleted => {
                        tracing::error!(key = %name, cause = error.as_dyn(), "a key of the config is deleted");
                    }
                    // The key is there, which is all that matters now. No other one is waited for.
                    Err(error) => answers &= !error.kind().is_outage(),
                    Ok(()) => {}
                }
            }
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

/// Returns the first names as text.
fn list(names: &[KeyName]) -> String {
    let told: Vec<_> = names.iter().take(TOLD).map(|name| format!("'{name}'")).collect();
    let more = names.len().saturating_sub(TOLD);
    if more == 0 { told.join(", ") } else { format!("{} and {more} more", told.join(", ")) }
}
