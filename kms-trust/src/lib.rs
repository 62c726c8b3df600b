//! Whom a TLS connection trusts: certificates that files, directories or the system hold, and the rule by which that of a
//! server is accepted.

mod authorities;
mod certificates;
mod client;
mod dates;
mod file;
mod pem;
mod proven;
mod signature;
mod verifier;

pub use certificates::{Trusted, Unusable, files_of};
pub use client::ClientVerifier;
pub use file::{MAX_FILE, describe_io_error, read_file};
pub use pem::{describe_pem_error, wrong_in_pem};
pub use proven::ProvenKey;
pub use signature::{UnusableKey, verify_tls12, verify_tls13};
pub use verifier::ServerVerifier;

#[cfg(test)]
mod tests;
