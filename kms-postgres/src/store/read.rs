//! Reads. Only a server that takes writes can say that something is not there.

use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_postgres::Row;

use crate::connection::Value;
use crate::error::Failure;
use crate::pool::{Lease, Pool};

/// How often a read is made in all, over another connection each time.
const TRIES: usize = 4;

/// Makes a read of which the first column says whether the server takes writes. Fails unless it does.
pub async fn of_primary(
    pool: &Pool,
    statement: &str,
    values: &[Value<'_>],
    within: Duration,
) -> Result<Vec<Row>, Failure> {
    let deadline = Instant::now() + within;
    let mut tries = 0;
    loop {
        tries += 1;
        // Whoever cannot connect tried every host.
        let lease = pool.lease(deadline).await?;
        let failure = match ask(lease, statement, values, deadline, true).await {
            Ok(rows) => return Ok(rows),
            Err(failure) => failure,
        };
        // The other idle connections lead to the same server.
        if failure.is_lost() {
            pool.clear();
        }
        if tries == TRIES || !failure.is_passing() || Instant::now() >= deadline {
            return Err(failure);
        }
    }
}

/// Makes a read of any server. What it does not have may be elsewhere.
pub async fn of_any(
    pool: &Pool,
    statement: &str,
    values: &[Value<'_>],
    within: Duration,
) -> Result<Vec<Row>, Failure> {
    let deadline = Instant::now() + within;
    ask(pool.lease(deadline).await?, statement, values, deadline, false).await
}

async fn ask(
    lease: Lease,
    statement: &str,
    values: &[Value<'_>],
    deadline: Instant,
    of_primary: bool,
) -> Result<Vec<Row>, Failure> {
    let left = deadline.saturating_duration_since(Instant::now());
    let asked = timeout(left, lease.query(statement, values)).await;
    let rows = match asked.unwrap_or(Err(Failure::Timeout(left.as_millis()))) {
        Ok(rows) => rows,
        Err(failure) => {
            if !failure.is_lost() {
                lease.give_back();
            }
            return Err(failure);
        }
    };
    let Some(first) = rows.first() else {
        return Err(Failure::Internal("a SELECT without a row".to_owned()));
    };
    let Some(takes_writes) = first.try_get::<_, Option<bool>>(0)? else {
        lease.give_back();
        return Err(Failure::hidden());
    };
    if of_primary && !takes_writes {
        return Err(Failure::ReadOnly);
    }
    lease.give_back();
    Ok(rows)
}
