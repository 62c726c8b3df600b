//! Transactions that write. Each is acknowledged only if every step did what it had to, and no warning came.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_core::primitives::SecretBytes;
use kms_core::store::EntryName;
use tokio::time::{sleep, timeout};
use tokio_postgres::types::Type;

use super::read;
use crate::connection::Value;
use crate::error::Failure;
use crate::pool::{Lease, Pool};
use crate::sql::{BEGIN, SERVER, Sql};

/// How often a connection is taken before a write that proves to be of no use. Nothing was sent by then.
const TRIES: usize = 4;
/// When a write that waits begins to look whether another server took the place of its own, and the pause between two looks.
const LOOK_AROUND: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(1));

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
    /// It waits as long as the server does: a create that waits for a standby is not cut off. It only gives up a server that
    /// was replaced: one that hangs, or that waits for the standby which has its place now, never answers.
    pub async fn make(&self, steps: &[Step]) -> Result<Option<usize>, Trouble> {
        let unsent = |failure| Trouble { failure, may_be_kept: false };
        let (lease, server) = self.begin().await.map_err(unsent)?;
        tokio::select! {
            biased;
            made = self.make_over(lease, steps) => made,
            () = self.replaced(&server) => Err(in_doubt(Failure::Replaced)),
        }
    }

    async fn make_over(&self, lease: Lease, steps: &[Step]) -> Result<Option<usize>, Trouble> {
        let unsent = |failure| Trouble { failure, may_be_kept: false };
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
    /// The commit stands behind that of the row, so wherever the one is kept, so is the other. It waits as long as
    /// [`make`](Self::make): a session that waits for a standby does not notice that its client went away.
    pub async fn read_kept(&self, name: &EntryName) -> Result<Option<SecretBytes>, Failure> {
        let (lease, server) = self.begin().await?;
        tokio::select! {
            biased;
            read = self.read_kept_over(lease, name) => read,
            () = self.replaced(&server) => Err(Failure::Replaced),
        }
    }

    async fn read_kept_over(&self, lease: Lease, name: &EntryName) -> Result<Option<SecretBytes>, Failure> {
        let probe = EntryName::probe().map_err(|error| Failure::Internal(error.to_string()))?;
        let content = Arc::new(SecretBytes::from(b"probe".as_slice()));
        let (insert, delete) = (Step::Insert(probe.clone(), content), Step::Delete(probe));
        let rows = lease.query(&self.sql.read, &[(&name.as_str(), Type::TEXT)]).await?;
        let Some(row) = rows.first() else {
            return Err(Failure::Internal("a SELECT without a row".to_owned()));
        };
        if row.try_get::<_, Option<bool>>(0)?.is_none() {
            return Err(Failure::hidden());
        }
        let record: Option<Vec<u8>> = row.try_get(1)?;
        let (inserted, deleted) =
            tokio::join!(biased; self.step(&lease, &insert), self.step(&lease, &delete));
        if !inserted? || !deleted? {
            return Err(Failure::Internal("a row of our own could not be inserted and deleted".to_owned()));
        }
        let committed = lease.run("COMMIT").await;
        kept(lease, committed).map_err(|trouble| trouble.failure)?;
        Ok(record.map(SecretBytes::new))
    }

    /// Ends when another server than this one takes writes.
    async fn replaced(&self, server: &str) {
        let (mut pause, within) = (LOOK_AROUND.0, self.patience.min(LOOK_AROUND.0));
        loop {
            sleep(pause).await;
            // Who does not answer is no other server. The idle connections to it are closed by that.
            let rows = read::of_primary(&self.pool, SERVER, &[], within).await.unwrap_or_default();
            let other: Option<String> = rows.first().and_then(|row| row.try_get(1).ok());
            if other.is_some_and(|other| other != server) {
                return;
            }
            pause = LOOK_AROUND.1;
        }
    }

    /// Begins a transaction, over another connection if the first leads nowhere. Returns its server, too.
    async fn begin(&self) -> Result<(Lease, String), Failure> {
        let deadline = Instant::now() + self.patience;
        let mut tries = 0;
        loop {
            tries += 1;
            // Whoever cannot connect tried every host.
            let lease = self.pool.lease(deadline).await?;
            let failure = match begin_over(&lease, deadline).await {
                Ok(server) => return Ok((lease, server)),
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

async fn begin_over(lease: &Lease, deadline: Instant) -> Result<String, Failure> {
    lease.begin_watch();
    let left = deadline.saturating_duration_since(Instant::now());
    timeout(left, lease.run_for_one(BEGIN)).await.unwrap_or(Err(Failure::Timeout(left.as_millis())))
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
