//! Escrow with real servers and real stores: what a client hears, what is in the files, and what comes back from them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::print_stdout, reason = "figures of a run")]

mod config;
mod contract;
mod race;
mod server;
