//! Keys that the configuration rotates by age.
//!
//! Each server looks at each such key now and then. Of several servers that find one too old, the store lets one make the
//! version.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kms_core::{ErrorKind, Identity, KeyName, Kms, Request, Result};
use tokio::sync::Notify;

/// The longest time between two looks at a key, and the time after a failed one.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
const AFTER_FAILURE: Duration = Duration::from_secs(60);
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// How long one look or one rotation may take.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Keys, each with the age of its newest version at which it gets another.
type RotateAfter = Vec<(KeyName, Duration)>;

/// The keys that are rotated by age, by the configuration in force.
pub struct Rotations {
    state: Mutex<(Identity, RotateAfter)>,
    changed: Notify,
}

impl Rotations {
    /// Takes the first list. `creator` is noted as the creator of versions.
    pub fn new(creator: Identity, keys: RotateAfter) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new((creator, keys)), changed: Notify::new() })
    }

    /// Takes another list.
    pub fn set(&self, creator: Identity, keys: RotateAfter) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = (creator, keys);
        self.changed.notify_one();
    }

    /// Rotates keys, until it is dropped.
    pub async fn run(self: Arc<Self>, kms: Arc<dyn Kms>) {
        loop {
            let (creator, keys) = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let mut pause = LONGEST_PAUSE;
            for (name, age) in &keys {
                pause = pause.min(match look(&*kms, creator, name, *age).await {
                    Ok(left) => left,
                    // Whoever restores it has it rotated at the next look.
                    Err(error) if error.kind() == ErrorKind::Deleted => LONGEST_PAUSE,
                    Err(error) => {
                        tracing::warn!(key = %name, cause = error.as_dyn(), "key was not rotated by age, trying again");
                        AFTER_FAILURE
                    }
                });
            }
            let next = async {
                if keys.is_empty() {
                    std::future::pending::<()>().await;
                } else {
                    tokio::time::sleep(pause.max(SHORTEST_PAUSE)).await;
                }
            };
            tokio::select! {
                () = next => {}
                () = self.changed.notified() => {}
            }
        }
    }
}

/// Rotates a key if it is too old, and returns how long it is not.
async fn look(kms: &dyn Kms, creator: Identity, name: &KeyName, age: Duration) -> Result<Duration> {
    let versions = kms.versions(&Request::new(creator, TIMEOUT), name).await?;
    let Some(newest) = versions.last() else { return Ok(age) };
    // A record without a time is from before KES 0.14.
    let born = newest.created_at.map(|time| Timestamp::now().duration_since(time));
    let lived = born.map_or(age, |lived| Duration::try_from(lived).unwrap_or_default());
    if let Some(left) = age.checked_sub(lived).filter(|left| !left.is_zero()) {
        return Ok(left);
    }
    match kms.rotate(&Request::new(creator, TIMEOUT), name, Some(newest.version)).await {
        Ok(_) => {
            tracing::info!(key = %name, version = newest.version + 1, "key was rotated by age");
            Ok(age)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(SHORTEST_PAUSE),
        Err(error) => Err(error),
    }
}
