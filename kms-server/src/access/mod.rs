//! Who the client is, and what it may do.

pub mod certificate_header;
pub mod expiry;
pub mod forwarded;
pub mod glob;
pub mod identify;
pub mod policy;
