//! What the suites share: servers, clients, certificates, and the real programs that they run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test that cannot be set up has to fail"
)]

pub mod bao;
pub mod cable;
pub mod client;
pub mod cluster;
pub mod content;
pub mod converted;
pub mod cut_off;
pub mod escrow;
pub mod faults;
pub mod identity;
pub mod kes;
pub mod localstack;
pub mod moving;
pub mod postgres;
pub mod process;
pub mod programs;
pub mod racers;
pub mod recipient;
pub mod server;
pub mod shell;
pub mod spoilt;

pub use client::{Answer, Client, Protocol, ask_at_once};
pub use identity::TestIdentity;
pub use server::{STATUS_KEPT, TestServer, TestServerBuilder};
