//! The kept connections.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use deadpool::managed::{self, Metrics, Object, PoolError, RecycleError, RecycleResult};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::config::{Host, PostgresConfig};
use crate::connection::{Connection, Wanted};
use crate::error::Failure;
use crate::schema;
use crate::tls::Tls;

/// Makes connections for a pool.
pub struct Manager {
    config: Arc<PostgresConfig>,
    tls: Tls,
    wanted: Wanted,
    /// The host that is tried first: that of the last connection, since a host that is away costs its time at each attempt.
    first: AtomicUsize,
    is_made: OnceCell<()>,
}

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = Failure;

    async fn create(&self) -> Result<Connection, Failure> {
        let hosts: &[Host] = &self.config.hosts;
        let began = self.first.load(Ordering::Relaxed);
        let mut attempt = Attempt { first: &self.first, began, hosts: hosts.len(), has_ended: false };
        let connected = Connection::to_one_of(hosts, began, self.wanted, &self.config, &self.tls, None).await;
        attempt.has_ended = true;
        let (connection, index) = connected?;
        self.first.store(index, Ordering::Relaxed);
        if self.config.create_schema && self.wanted == Wanted::Primary {
            self.is_made.get_or_try_init(|| schema::make(&connection, &self.config)).await?;
        }
        Ok(connection)
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<Failure> {
        if connection.is_closed() { Err(RecycleError::message("it ended")) } else { Ok(()) }
    }
}

/// An attempt to connect. A host that hangs can take all the time that a call has. So after an attempt that was given up
/// the next one begins with another host.
struct Attempt<'a> {
    first: &'a AtomicUsize,
    began: usize,
    hosts: usize,
    has_ended: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            let next = (self.began + 1) % self.hosts.max(1);
            // Of several attempts that were given up, one moves on.
            let _ = self.first.compare_exchange(self.began, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// Connections to servers of one kind.
#[derive(Clone)]
pub struct Pool(managed::Pool<Manager>);

impl Pool {
    /// Creates a pool without connections.
    pub fn new(config: &Arc<PostgresConfig>, tls: &Tls, wanted: Wanted) -> Result<Self, Failure> {
        let manager = Manager {
            config: Arc::clone(config),
            tls: tls.clone(),
            wanted,
            first: AtomicUsize::new(0),
            is_made: OnceCell::new(),
        };
        let pool = managed::Pool::builder(manager).max_size(config.pool).build();
        Ok(Self(pool.map_err(|error| Failure::Internal(error.to_string()))?))
    }

    /// Takes a connection, or makes one if there is room.
    pub async fn lease(&self, deadline: Instant) -> Result<Lease, Failure> {
        let began = Instant::now();
        let left = deadline.saturating_duration_since(began);
        match timeout(left, self.0.get()).await {
            Ok(Ok(object)) => Ok(Lease { object, is_whole: false }),
            Ok(Err(PoolError::Backend(failure))) => Err(failure),
            Ok(Err(error)) => Err(Failure::Internal(error.to_string())),
            Err(_) if self.0.status().size >= self.0.status().max_size && self.0.status().available == 0 => {
                Err(Failure::Busy("connections"))
            }
            Err(_) => Err(Failure::Timeout(left.as_millis())),
        }
    }

    /// Closes the connections that are idle now: one of their kind proved to lead nowhere.
    pub fn clear(&self) {
        self.0.retain(|_, _| false);
    }
}

/// A connection on loan. Unless it is given back as whole, it is cut: its next answer might be somebody else's.
pub struct Lease {
    object: Object<Manager>,
    is_whole: bool,
}

impl Lease {
    /// Gives the connection back. Every answer came.
    pub fn give_back(mut self) {
        self.is_whole = true;
    }
}

impl Deref for Lease {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.object
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.is_whole {
            self.object.spoil();
        }
    }
}
