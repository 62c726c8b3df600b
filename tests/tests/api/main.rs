//! The API of KES as a client sees it over HTTP/1.1 and HTTP/2.
#![allow(
    clippy::type_complexity,
    clippy::field_reassign_with_default,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod access;
mod addresses;
mod aliases;
mod audit;
mod backup;
mod bodies;
mod bounds;
mod certificates;
mod cut_off;
mod deletions;
mod errors;
mod expiry;
mod framing;
mod keys;
mod logs;
mod metrics;
mod order;
mod probes;
mod proxy;
mod reload;
mod start_stop;
mod stopped_log;
mod store_status;
mod transcript;
mod unreadable;
mod versions;
mod wanted_keys;
