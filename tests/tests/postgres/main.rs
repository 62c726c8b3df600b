//! The PostgreSQL backend against a real PostgreSQL, its standbys and a PgBouncer, with faults.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::similar_names, reason = "tests")]

mod changes;
mod check;
mod common;
mod contract;
mod doubt;
mod failover;
mod faults;
mod login;
mod pooler;
mod races;
mod tls;
