//! Records in a K/V engine, at the paths and in the form of KES.

mod create;
mod engine;
mod record;
mod routes;
mod vault_store;

pub use vault_store::VaultStore;
