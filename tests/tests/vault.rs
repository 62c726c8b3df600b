//! The Vault backend against a real OpenBao, with real faults, and beside a real KES.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::similar_names, reason = "tests")]

#[path = "vault/bao.rs"]
mod bao;
#[path = "vault/bounds.rs"]
mod bounds;
#[path = "vault/chaos.rs"]
mod chaos;
#[path = "vault/check.rs"]
mod check;
#[path = "vault/common.rs"]
mod common;
#[path = "vault/contract.rs"]
mod contract;
#[path = "vault/cut_off.rs"]
mod cut_off;
#[path = "vault/faults.rs"]
mod faults;
#[path = "vault/guide.rs"]
mod guide;
#[path = "vault/guide_2020.rs"]
mod guide_2020;
#[path = "vault/kes.rs"]
mod kes;
#[path = "vault/login.rs"]
mod login;
#[path = "vault/memory.rs"]
mod memory;
#[path = "vault/proxy.rs"]
mod proxy;
#[path = "vault/races.rs"]
mod races;
#[path = "vault/records.rs"]
mod records;
#[path = "vault/server.rs"]
mod server;
#[path = "vault/tls.rs"]
mod tls;
#[path = "vault/transit.rs"]
mod transit;
#[path = "vault/unreadable.rs"]
mod unreadable;
