//! The binary `kms` as people and scripts use it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod backup;
mod config;
mod damaged;
mod deletion;
mod dev;
mod fake;
mod identity;
mod keys;
mod migrate;
mod names;
mod node;
mod pasted;
mod protection;
mod received;
mod refusals;
mod roots;
mod secrets;
mod signals;
mod trust;
