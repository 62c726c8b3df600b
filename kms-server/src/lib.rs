//! The key server: configuration, TLS, the HTTP API and the command line, over any [`kms_core::Kms`].

pub mod access;
mod api;
mod backup;
pub mod cli;
pub mod config;
mod conn;
pub mod credentials;
mod error;
pub mod escrow;
pub mod host;
mod json;
pub mod recipients;
pub mod server;
pub mod settings;
mod store;
mod telemetry;
mod text;
mod tls;

pub use error::StartError;
pub use server::{Bounds, Limits, Listening, Server};

#[cfg(doctest)]
mod readme;
