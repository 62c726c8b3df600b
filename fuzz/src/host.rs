//! The server's room for what it knows of its machine.

#[path = "../../kms-server/src/host/platform.rs"]
pub mod platform;
