//! Key store in HashiCorp Vault or OpenBao: K/V version 1 and 2, and the transit engine as a [`Wrapper`].
//!
//! Paths, fields and encoding are those of KES 0.24, so that each reads the entries of the other.
//!
//! ```no_run
//! use kms_core::{KeyRing, Kms};
//! use kms_vault::{AppRole, Login, Secret, VaultConfig};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> kms_core::Result<()> {
//! let login = Login::AppRole(AppRole::new("role-id", Secret::from("secret-id")));
//! let config = VaultConfig::new("https://vault.example:8200", login);
//! let kms = KeyRing::new(kms_vault::open(config)?, Default::default());
//! assert!(kms.status().await?.reachable);
//! # Ok(())
//! # }
//! ```
//!
//! # The use of `vaultrs`
//!
//! The crate `vaultrs` defines the requests: path, method and, where it holds no secret, the body. A client of
//! our own sends them and reads the answers. The client of `vaultrs` reads an answer of any size (1.1 GB were
//! seen) into buffers that nobody wipes. It has no timeout of its own, follows redirects with the token, and
//! cannot pin a certificate. It also drops the body of a 400, a 403 or a 404. Those are ordinary answers here,
//! and their bodies decide.
//!
//! [`Wrapper`]: kms_core::store::Wrapper

mod auth;
mod check;
mod config;
mod error;
mod http;
mod session;
mod store;
mod wrap;

use std::sync::Arc;

pub use check::check;
pub use config::{AppRole, Kubernetes, KvVersion, Login, TlsConfig, TransitConfig, VaultConfig};
use kms_core::Result;
pub use kms_core::primitives::{Secret, SecretSource};
pub use kms_core::store::{Finding, Level};
use kms_core::store::{KeyStore, Wrapped};
pub use store::VaultStore;
pub use wrap::Transit;

/// Opens the key store that `config` describes: K/V, under transit if that is configured.
///
/// The configuration is checked and the TLS files are read at once. The login begins in the background, and
/// nothing else is asked of Vault until it is needed. So if Vault is away or sealed, the operations fail and
/// not this function.
///
/// # Errors
///
/// - [`ErrorKind::InvalidInput`](kms_core::ErrorKind::InvalidInput): the configuration or a TLS file cannot be
///   used.
///
/// # Panics
///
/// Panics outside of a tokio runtime.
pub fn open(config: VaultConfig) -> Result<Arc<dyn KeyStore>> {
    let store = VaultStore::connect(config)?;
    Ok(match store.transit() {
        None => Arc::new(store),
        Some(transit) => Arc::new(Wrapped::new(store, transit)),
    })
}
