//! The server's files that are fuzzed, in modules as they are there.

#![allow(dead_code, unused_imports, missing_docs, reason = "parts of another crate")]

#[path = "../../kms-aws/src/kms/format.rs"]
pub mod aws_format;

pub mod backup;
pub mod config;
pub mod conn;
pub mod escrow;
