//! The certificates that a TLS connection trusts, and the rules by which it accepts a server or a client.
//!
//! [`Trusted`] reads certificates from a file, a directory or the system. Each verifier implements one rule for rustls:
//!
//! | verifier | accepts |
//! | --- | --- |
//! | [`ServerVerifier`] | a server with a chain to a trusted authority, or with a pinned certificate |
//! | [`ClientVerifier`] | a client by the same rule, without names |
//! | [`ProvenKey`] | any client that holds the key of its certificate |
//! | [`AnyServer`] | any server that holds the key of its certificate |
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use kms_trust::{ServerVerifier, Trusted};
//!
//! # fn example() -> Result<(), kms_trust::Unusable> {
//! let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
//! let verifier = ServerVerifier::new(Trusted::of(Path::new("/etc/kms/ca.pem"))?, &provider);
//! # Ok(())
//! # }
//! ```

mod authorities;
mod certificates;
mod client;
mod dates;
mod file;
mod pem;
mod proven;
mod server;
mod signature;

pub use certificates::{Trusted, Unusable, files_of};
pub use client::ClientVerifier;
pub use file::{MAX_FILE, describe_io_error, read_file};
pub use pem::{describe_pem_error, wrong_in_pem};
pub use proven::{AnyServer, ProvenKey};
pub use server::ServerVerifier;
pub use signature::UnusableKey;

#[cfg(test)]
mod tests;
