//! The API of KES, from outside: what a client sees over HTTP/1.1 and HTTP/2.
#![allow(
    clippy::type_complexity,
    clippy::field_reassign_with_default,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "api/access.rs"]
mod access;
#[path = "api/addresses.rs"]
mod addresses;
#[path = "api/aliases.rs"]
mod aliases;
#[path = "api/audit.rs"]
mod audit;
#[path = "api/bodies.rs"]
mod bodies;
#[path = "api/bounds.rs"]
mod bounds;
#[path = "api/certificates.rs"]
mod certificates;
#[path = "api/cut_off.rs"]
mod cut_off;
#[path = "api/errors.rs"]
mod errors;
#[path = "api/expiry.rs"]
mod expiry;
#[path = "api/framing.rs"]
mod framing;
#[path = "api/keys.rs"]
mod keys;
#[path = "api/logs.rs"]
mod logs;
#[path = "api/metrics.rs"]
mod metrics;
#[path = "api/order.rs"]
mod order;
#[path = "api/probes.rs"]
mod probes;
#[path = "api/proxy.rs"]
mod proxy;
#[path = "api/reload.rs"]
mod reload;
#[path = "api/reload_waits.rs"]
mod reload_waits;
#[path = "api/start_stop.rs"]
mod start_stop;
#[path = "api/stopped_log.rs"]
mod stopped_log;
#[path = "api/store_status.rs"]
mod store_status;
#[path = "api/transcript.rs"]
mod transcript;
#[path = "api/unreadable.rs"]
mod unreadable;
#[path = "api/wanted_keys.rs"]
mod wanted_keys;
