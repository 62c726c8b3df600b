//! What suites, scripts and configs in the field rely on, and directories that KES left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod addresses;
mod commands;
mod directory;
mod forms;
mod judged;
mod mounts;
mod policy;
mod scripts;
mod server_key;
mod suites;
mod unit;
