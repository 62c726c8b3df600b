//! AWS Secrets Manager as a store of keys, in the form of KES: the secret has the key's name, and its value is the
//! key's record.

mod check;
mod config;
mod presence;
mod refusals;
mod store;

pub use check::check_secrets;
pub use config::SecretsConfig;
pub use store::SecretsManager;
