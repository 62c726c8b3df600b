//! The binary `kms` as people and scripts use it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "cli/config.rs"]
mod config;
#[path = "cli/damaged.rs"]
mod damaged;
#[path = "cli/dev.rs"]
mod dev;
#[path = "cli/fake.rs"]
mod fake;
#[path = "cli/identity.rs"]
mod identity;
#[path = "cli/keys.rs"]
mod keys;
#[path = "cli/names.rs"]
mod names;
#[path = "cli/node.rs"]
mod node;
#[path = "cli/pasted.rs"]
mod pasted;
#[path = "cli/process.rs"]
mod process;
#[path = "cli/protection.rs"]
mod protection;
#[path = "cli/received.rs"]
mod received;
#[path = "cli/refusals.rs"]
mod refusals;
#[path = "cli/secrets.rs"]
mod secrets;
#[path = "cli/signals.rs"]
mod signals;
#[path = "cli/trust.rs"]
mod trust;
