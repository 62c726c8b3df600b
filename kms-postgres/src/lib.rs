//! Key store in PostgreSQL, for any number of servers at once.
//!
//! ```no_run
//! use kms_core::{KeyRing, Kms};
//! use kms_postgres::{Environment, PostgresOptions, Secret};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> kms_core::Result<()> {
//! let url = Some(Secret::from("postgresql://kms@db.example/keys"));
//! let options = PostgresOptions { url, ..PostgresOptions::default() };
//! let config = options.resolve(&Environment::of_process())?;
//! let kms = KeyRing::new(kms_postgres::open(config)?, Default::default());
//! assert!(kms.status().await?.reachable);
//! # Ok(())
//! # }
//! ```
//!
//! # The use of `tokio-postgres`
//!
//! Each query is sent with the types of its values, in one round trip and without a prepared statement. Settings last for
//! a transaction. So there is no state of a session, and a PgBouncer in transaction mode may stand between.
//!
//! The connection of the driver is moved by a loop of our own, which notes the server's warnings before it hands on the
//! answer behind them. A commit that was cut off in its wait for a standby returns with such a warning, and is no
//! acknowledgement.

mod changes;
mod check;
mod config;
mod connection;
mod error;
mod pool;
mod schema;
mod sql;
mod store;
mod tls;

use std::sync::Arc;

pub use check::check;
pub use config::{
    ChannelBinding, Environment, Host, NoPassword, OfUrl, PassFile, PostgresConfig, PostgresOptions,
    TlsConfig, TlsMode,
};
use kms_core::Result;
pub use kms_core::primitives::{Secret, SecretSource};
use kms_core::store::KeyStore;
pub use kms_core::store::{Finding, Level};
pub use schema::{Roles, schema};
pub use store::PostgresStore;

/// Opens the key store that `config` describes.
///
/// The configuration is checked and the TLS files are read at once. Nothing is asked of PostgreSQL until it is needed. So
/// if PostgreSQL is away, the operations fail and not this function. Less TLS than `verify-full` is told in the log.
///
/// # Errors
///
/// - [`ErrorKind::InvalidInput`](kms_core::ErrorKind::InvalidInput): the configuration or a TLS file cannot be used.
pub fn open(config: PostgresConfig) -> Result<Arc<dyn KeyStore>> {
    let warning = config.tls.mode.warning().filter(|_| !config.hosts.iter().all(Host::is_socket));
    if let Some(warning) = warning {
        tracing::warn!(mode = %config.tls.mode, "the connection to PostgreSQL is less protected than by verify-full: {warning}");
    }
    if let Some(warning) = config.ignored_pass_file() {
        tracing::warn!("{warning}");
    }
    Ok(Arc::new(PostgresStore::connect(config)?))
}
