//! Transactions that write. Each is acknowledged only if every step did what it had to, and no warning came.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_core::primitives::SecretBytes;
use kms_core::store::EntryName;
use tokio::time::timeout;
use tokio_postgres::types::Type;

use crate::connection::Value;
use crate::error::Failure;
use crate::pool::{Lease, Pool};
use crate::sql::{BEGIN, Sql};

/// How often a connection is taken before a write that proves to be of no use. Nothing was sent by then.
const TRIES: usize = 4;

/// One statement of a transaction.
pub enum Step {
    /// Inserts a row, which has to be absent.
    Insert(EntryName, Arc<SecretBytes>),
    /// Deletes a row, which has to be there.
    Delete(EntryName),
    /// Inserts a row in the place of one that may be there.
    Note(EntryName, Arc<SecretBytes>),
    /// Deletes a row if it is there.
    Clear(EntryName),
    /// Tells those who listen of the key.
    Notify(String),
}

/// A transaction that failed.
#[derive(Debug)]
pub struct Trouble {
    /// Why.
    pub failure: Failure,
    /// Whether it may have been committed, or may still be.
    pub may_be_kept: bool,
}

/// Makes transactions.
pub struct Transactions {
    pool: Pool,
    sql: Arc<Sql>,
    /// The longest time until the first statement is sent.
    patience: Duration,
}

impl Transactions {
    /// Takes connections from `pool`.
    pub fn new(pool: Pool, sql: Arc<Sql>, patience: Duration) -> Self {
        Self { pool, sql, patience }
    }

    /// Makes a transaction of `steps`. Returns the number of the step that found the store otherwise, in which case nothing
    /// was changed; `None` if the transaction is kept.
    ///
    /// It waits as long as the server does: a create that waits for a standby is not cut off.
    pub async fn make(&self, steps: &[Step]) -> Result<Option<usize>, Trouble> {
        let unsent = |failure| Trouble { failure, may_be_kept: false };
        let lease = self.begin().await.map_err(unsent)?;
        let Some((last, before)) = steps.split_last() else { return Ok(None) };
        for (number, step) in before.iter().enumerate() {
            // Nothing is committed yet. The server undoes it when the connection ends.
            if !self.step(&lease, step).await.map_err(unsent)? {
                return self.undo(lease, number).await;
            }
        }
        // Both at once. After a failed step COMMIT undoes the transaction. After a step that changed nothing it is only
        // sent along if there is nothing else to commit.
        if before.is_empty() {
            let (stepped, committed) = tokio::join!(biased; self.step(&lease, last), lease.run("COMMIT"));
            if stepped.map_err(in_doubt)? {
                return kept(lease, committed);
            }
            if committed.is_ok() {
                lease.give_back();
            }
            return Ok(Some(0));
        }
        if !self.step(&lease, last).await.map_err(unsent)? {
            return self.undo(lease, before.len()).await;
        }
        let committed = lease.run("COMMIT").await;
        kept(lease, committed)
    }

    /// Reads a row by a transaction that writes and that is kept; `None` if there is no row.
    ///
    /// The commit stands behind that of the row, so wherever the one is kept, so is the other. It waits as long as the server
    /// does: a session that waits for a standby does not notice that its client went away.
    pub async fn read_kept(&self, name: &EntryName) -> Result<Option<SecretBytes>, Failure> {
        let probe = EntryName::probe().map_err(|error| Failure::Internal(error.to_string()))?;
        let content = Arc::new(SecretBytes::from(b"probe".as_slice()));
        let (insert, delete) = (Step::Insert(probe.clone(), content), Step::Delete(probe));
        let lease = self.begin().await?;
        let rows = lease.query(&self.sql.read, &[(&name.as_str(), Type::TEXT)]).await?;
        let record: Option<Vec<u8>> = match rows.first() {
            Some(row) => row.try_get(1)?,
            None => return Err(Failure::Internal("a SELECT without a row".to_owned())),
        };
        let (inserted, deleted) =
            tokio::join!(biased; self.step(&lease, &insert), self.step(&lease, &delete));
        if !inserted? || !deleted? {
            return Err(Failure::Internal("a row of our own could not be inserted and deleted".to_owned()));
        }
        let committed = lease.run("COMMIT").await;
        kept(lease, committed).map_err(|trouble| trouble.failure)?;
        Ok(record.map(SecretBytes::new))
    }

    /// Begins a transaction, over another connection if the first leads nowhere.
    async fn begin(&self) -> Result<Lease, Failure> {
        let deadline = Instant::now() + self.patience;
        let mut tries = 0;
        loop {
            tries += 1;
            // Whoever cannot connect tried every host.
            let lease = self.pool.lease(deadline).await?;
            let failure = match begin_over(&lease, deadline).await {
                Ok(()) => return Ok(lease),
                Err(failure) => failure,
            };
            drop(lease);
            if failure.is_lost() {
                self.pool.clear();
            }
            if tries == TRIES || !failure.is_passing() || Instant::now() >= deadline {
                return Err(failure);
            }
        }
    }

    /// Sends one statement. Returns whether it did what it has to.
    async fn step(&self, lease: &Lease, step: &Step) -> Result<bool, Failure> {
        let Sql { insert, delete, notify, .. } = &*self.sql;
        match step {
            Step::Insert(name, record) => {
                let values: [Value<'_>; 2] = [(&name.as_str(), Type::TEXT), (&record.expose(), Type::BYTEA)];
                Ok(lease.query(insert, &values).await?.len() == 1)
            }
            Step::Note(name, record) => {
                let values: [Value<'_>; 2] = [(&name.as_str(), Type::TEXT), (&record.expose(), Type::BYTEA)];
                // The time in a note is that of the newest removal. There is no UPDATE, and both go out at once.
                let older = [(&name.as_str() as _, Type::TEXT)];
                let (deleted, inserted) =
                    tokio::join!(biased; lease.query(delete, &older), lease.query(insert, &values));
                // One that another transaction made meanwhile is as new.
                deleted.and(inserted).map(|_| true)
            }
            Step::Delete(name) => Ok(lease.query(delete, &[(&name.as_str(), Type::TEXT)]).await?.len() == 1),
            Step::Clear(name) => lease.query(delete, &[(&name.as_str(), Type::TEXT)]).await.map(|_| true),
            Step::Notify(key) => lease.query(notify, &[(key, Type::TEXT)]).await.map(|_| true),
        }
    }

    async fn undo(&self, lease: Lease, step: usize) -> Result<Option<usize>, Trouble> {
        // A connection that ends undoes it, too.
        if lease.run("ROLLBACK").await.is_ok() {
            lease.give_back();
        }
        Ok(Some(step))
    }
}

async fn begin_over(lease: &Lease, deadline: Instant) -> Result<(), Failure> {
    lease.begin_watch();
    let left = deadline.saturating_duration_since(Instant::now());
    timeout(left, lease.run(BEGIN)).await.unwrap_or(Err(Failure::Timeout(left.as_millis())))
}

/// Judges the end of a transaction.
fn kept(lease: Lease, committed: Result<(), Failure>) -> Result<Option<usize>, Trouble> {
    committed.map_err(in_doubt)?;
    let warned = lease.warned();
    lease.give_back();
    match warned {
        None => Ok(None),
        Some(warning) => Err(in_doubt(Failure::Warned(warning))),
    }
}

/// Creates the trouble of a transaction whose COMMIT was sent.
fn in_doubt(failure: Failure) -> Trouble {
    Trouble { may_be_kept: failure.leaves_outcome_unknown(), failure }
}
