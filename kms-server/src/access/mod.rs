//! Who is at the other end, and what they may do.

pub mod certificate_header;
pub mod expiry;
pub mod forwarded;
pub mod glob;
pub mod identify;
pub mod policy;
