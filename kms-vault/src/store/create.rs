//! Creating an entry where none is.
//!
//! K/V version 2 has an atomic create. Version 1 has none, so a create there reads, writes with a short deadline, waits
//! until every writer that may have seen the same absence is done, and reads back.

use std::time::{Duration, Instant};

use bytes::Bytes;
use kms_core::primitives::SecretBytes;
use kms_core::store::EntryName;
use kms_core::{Error, ErrorKind, Result};

use super::engine::{Found, KvEngine};
use crate::config::VaultConfig;
use crate::http::{Answer, Call};
use crate::session::Written;

/// How many looks on K/V version 1 may take so long that no safe write can follow.
const LOOKS: usize = 3;

/// The times of a create on K/V version 1.
#[derive(Clone, Copy)]
pub struct Times {
    write_deadline: Duration,
    settle: Duration,
}

impl Times {
    /// Takes the times that `config` names.
    pub fn new(config: &VaultConfig) -> Self {
        Self { write_deadline: config.write_deadline, settle: config.settle }
    }
}

/// Writes an entry on K/V version 2, which refuses to replace what is there.
pub async fn on_v2(engine: &KvEngine, name: &EntryName, body: Bytes) -> Result<()> {
    let session = engine.session();
    let operation = format!("create '{}' in Vault", engine.path(name));
    let call = Call::put(engine.path(name), body);
    let mut written = session.write_once(&operation, &call, session.token().await?).await?;
    for resent in [false, true] {
        if written.answer.is_success() {
            return Ok(());
        }
        // The entry decides: a 403 may be the policy's refusal of an update, and a 400 is the refusal by `cas`.
        if let Some(error) = taken(&operation, engine.find(name).await?) {
            return Err(error);
        }
        if resent || !is_to_be_resent(engine, &written).await? {
            break;
        }
        written = session.write_once(&operation, &call, session.token().await?).await?;
    }
    Err(refused(operation, &call.path, &written.answer))
}

/// Writes an entry on K/V version 1, which takes every write.
pub async fn on_v1(
    engine: &KvEngine,
    times: Times,
    name: &EntryName,
    record: &SecretBytes,
    body: Bytes,
) -> Result<()> {
    let session = engine.session();
    let operation = format!("create '{}' in Vault", engine.path(name));
    let call = Call { timeout: Some(times.write_deadline), ..Call::put(engine.path(name), body) };
    for resent in [false, true] {
        // The token comes first: a login between the look and the write would take time that the look is good for.
        let token = session.token().await?;
        see_nothing(engine, times, name, &operation).await?;
        let outcome = match session.write_once(&operation, &call, token).await {
            Err(error) if !error.kind().leaves_outcome_unknown() => return Err(error),
            Ok(written) if written.answer.is_success() => Ok(()),
            Ok(written) if written.answer.code != 403 => {
                return Err(refused(operation, &call.path, &written.answer));
            }
            // The policy refuses, perhaps because there is an entry by now, which may even be ours.
            Ok(written) => Err((refused(operation.clone(), &call.path, &written.answer), Some(written))),
            Err(error) => Err((error, None)),
        };
        tokio::time::sleep(times.settle).await;
        match (engine.find(name).await?, outcome) {
            (Found::Record(found), _) if found == *record => return Ok(()),
            (Found::Record(_), _) => return Err(exists(&operation, "another record was read back")),
            (Found::Unusable(error), _) => return Err(exists(&operation, error)),
            (_, Ok(())) => return Err(exists(&operation, "it was deleted before it was read back")),
            (_, Err((error, written))) => {
                let Some(written) = written.filter(|_| !resent) else { return Err(error) };
                if !is_to_be_resent(engine, &written).await? {
                    return Err(error);
                }
            }
        }
    }
    Err(exists(&operation, "vault took and refused it by turns"))
}

/// Checks that there is no entry.
///
/// The check is so quick that the settle time, counted from its start, covers the write that follows.
async fn see_nothing(engine: &KvEngine, times: Times, name: &EntryName, operation: &str) -> Result<()> {
    let patience = times.settle.saturating_sub(times.write_deadline);
    for _ in 0..LOOKS {
        let began = Instant::now();
        if let Some(error) = taken(operation, engine.find(name).await?) {
            return Err(error);
        }
        if began.elapsed() < patience {
            return Ok(());
        }
    }
    let why = "vault is too slow for a safe create on K/V version 1; see the settle time";
    Err(Error::with_source(ErrorKind::Throttled, operation, why))
}

/// Returns whether a write was refused only because Vault no longer knew the token.
async fn is_to_be_resent(engine: &KvEngine, written: &Written) -> Result<bool> {
    Ok(written.answer.code == 403 && engine.session().has_new_token(written).await?)
}

/// Creates the error of a create at a path that is taken. Returns `None` if it is free.
fn taken(operation: &str, found: Found) -> Option<Error> {
    Some(match found {
        Found::Nothing => return None,
        Found::Record(_) => exists(operation, "there is an entry"),
        Found::Unusable(error) => exists(operation, error),
        Found::Deleted(deletion) => exists(operation, deletion.text()),
    })
}

fn exists(operation: &str, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::with_source(ErrorKind::AlreadyExists, operation, why)
}

fn refused(operation: String, path: &str, answer: &Answer) -> Error {
    match answer.code {
        403 => answer.failure().into_denied(operation, "create", path),
        _ => answer.failure().into_error(operation),
    }
}
