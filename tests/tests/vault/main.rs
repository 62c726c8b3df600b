//! The Vault backend against a real OpenBao, with injected faults and beside a real KES.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::similar_names, reason = "tests")]

mod backup;
mod bounds;
mod chaos;
mod check;
mod common;
mod contract;
mod cut_off;
mod faults;
mod guide;
mod guide_2020;
mod kes;
mod login;
mod memory;
mod proxy;
mod races;
mod records;
mod recovery;
mod roots;
mod server;
mod tls;
mod transit;
mod unreadable;
mod versions;
