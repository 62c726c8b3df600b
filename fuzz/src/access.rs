//! The server's room for who may do what.

#[path = "../../kms-server/src/access/glob.rs"]
pub mod glob;
