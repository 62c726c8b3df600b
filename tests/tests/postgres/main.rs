//! The PostgreSQL backend against a real PostgreSQL, its standbys and a PgBouncer, with faults.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::similar_names, reason = "tests")]

mod administrator;
mod changes;
mod check;
mod commands;
mod common;
mod contract;
mod doubt;
mod failover;
mod faults;
mod first_starts;
mod guide;
mod leaks;
mod login;
mod lost;
mod notices;
mod pooler;
mod races;
mod standby;
mod tls;
