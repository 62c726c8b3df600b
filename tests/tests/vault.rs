//! The Vault backend against a real OpenBao with real faults.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::format_push_string,
    clippy::similar_names,
    clippy::items_after_statements,
    clippy::large_const_arrays,
    clippy::type_complexity,
    clippy::print_stdout,
    dead_code,
    reason = "tests, and support code for more of them"
)]

#[path = "vault/bao.rs"]
mod bao;
#[path = "vault/common.rs"]
mod common;
#[path = "vault/contract.rs"]
mod contract;
#[path = "vault/faults.rs"]
mod faults;
#[path = "vault/login.rs"]
mod login;
#[path = "vault/proxy.rs"]
mod proxy;
#[path = "vault/records.rs"]
mod records;
