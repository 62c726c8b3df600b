//! Whom a TLS connection trusts: certificates that files, directories or the system hold, and the rule by which that of a
//! server is accepted.

mod certificates;
mod file;
mod verifier;

pub use certificates::{Trusted, Unusable, files_of};
pub use file::{MAX_FILE, describe_io_error, read_file};
pub use verifier::ServerVerifier;
