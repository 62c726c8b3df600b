//! A key store in a PostgreSQL of its own.

use kms_tests::cluster::Cluster;
use kms_tests::postgres::Postgres;

/// What `kms check` prints for an empty table.
pub const TOLD: &str = "postgres: keys: 0 in 'kms.kms_keys'";

/// A PostgreSQL with the table, and a root key.
pub struct Store {
    /// Ends with this.
    pub server: Postgres,
    root: Cluster,
}

impl Store {
    /// Starts the database.
    pub async fn start() -> Self {
        Self { server: Postgres::start().await, root: Cluster::new() }
    }

    /// Does what [`start`](Self::start) does where nothing is asynchronous.
    pub fn start_blocking() -> Self {
        tokio::runtime::Runtime::new().unwrap().block_on(Self::start())
    }

    /// Returns the sections of the config.
    pub fn sections(&self) -> String {
        self.root.store(&[self.server.port()], "")
    }
}
