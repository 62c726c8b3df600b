//! AWS Secrets Manager as a store of keys, in the form of KES: a key's name is its secret's, and its record the value.

mod check;
mod config;
mod store;

pub use check::check_secrets;
pub use config::SecretsConfig;
pub use store::SecretsManager;
