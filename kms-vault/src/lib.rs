//! Key store in HashiCorp Vault or OpenBao: K/V version 1 and 2, and the transit engine as a [`Wrapper`].
//!
//! Paths, field and encoding are those of KES 0.24, so that the entries of either are read by the other.
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
//! # What is of `vaultrs`, and what is not
//!
//! The requests are those that the crate `vaultrs` defines: path, method and, where it holds no secret, the body.
//! They are sent, and the answers read, by a client of ours. That of `vaultrs` reads an answer whatever its size
//! (1.1 GB were seen) into buffers that nobody wipes, has no timeout of its own, follows redirects with the token,
//! and cannot pin a certificate; and it drops the body of a 404, a 400 or a 403, which is an ordinary answer here
//! and whose body decides.
//!
//! [`Wrapper`]: kms_core::Wrapper

mod auth;
mod check;
mod config;
mod error;
mod http;
mod session;
mod store;
mod wrap;

use std::sync::Arc;

pub use check::{Finding, Level, check};
pub use config::{
    AppRole, Kubernetes, KvVersion, Login, Secret, SecretSource, TlsConfig, TransitConfig, VaultConfig,
};
use kms_core::{KeyStore, Result, Wrapped};
pub use store::VaultStore;
pub use wrap::Transit;

/// Opens the key store that `config` describes: K/V, under transit if that is configured.
///
/// Checks the configuration and reads the TLS files, and fails with `InvalidInput` if there is something
/// wrong with them. Nothing is asked of Vault before that is needed or done in the background, so a Vault that
/// is away or sealed shows in the operations. Needs a tokio runtime.
pub fn open(config: VaultConfig) -> Result<Arc<dyn KeyStore>> {
    let store = VaultStore::connect(config)?;
    Ok(match store.transit() {
        None => Arc::new(store),
        Some(transit) => Arc::new(Wrapped::new(store, transit)),
    })
}
