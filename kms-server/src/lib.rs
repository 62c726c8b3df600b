//! The key server: configuration, TLS, the HTTP API and the command line, over any [`kms_core::Kms`].

mod api;
pub mod apikey;
mod audit;
mod auth;
mod backend;
pub mod certificate;
mod check;
pub mod cli;
pub mod client;
pub mod config;
mod conn;
mod dev;
mod error_log;
mod expiry;
mod files;
mod forwarded;
mod init;
mod kes_directory;
mod lines;
mod local_store;
mod log_limit;
mod mask;
mod metrics;
mod mounts;
pub mod policy;
mod private_key;
mod probes;
pub mod process;
pub mod reload;
pub mod server;
mod stream;
mod terminal;
mod tls;
mod wanted_keys;

pub use conn::Bounds;
pub use server::{Limits, Listening, Server, StartError};
