//! The AWS backend against a real LocalStack, with real faults.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::similar_names, reason = "tests")]

#[path = "aws/contract.rs"]
mod contract;
#[path = "aws/cut_off.rs"]
mod cut_off;
#[path = "aws/emulator.rs"]
mod emulator;
#[path = "aws/faults.rs"]
mod faults;
#[path = "aws/keys.rs"]
mod keys;
#[path = "aws/login.rs"]
mod login;
#[path = "aws/names.rs"]
mod names;
#[path = "aws/secrets.rs"]
mod secrets;
#[path = "aws/secrets_kes.rs"]
mod secrets_kes;
#[path = "aws/secrets_server.rs"]
mod secrets_server;
#[path = "aws/unreadable.rs"]
mod unreadable;
#[path = "aws/wrap.rs"]
mod wrap;
