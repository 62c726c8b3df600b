//! The AWS backend against a real LocalStack, with injected faults.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::similar_names, reason = "tests")]

mod backup;
mod contract;
mod cut_off;
mod escrow;
mod faults;
mod keys;
mod login;
mod names;
mod roots;
mod secrets;
mod secrets_kes;
mod secrets_server;
mod unreadable;
mod wrap;
