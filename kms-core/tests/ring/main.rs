//! The key ring: its cache keeps its promises also when the store does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod at_once;
mod creates_and_deletes;
mod deletion_faults;
mod deletion_imports;
mod deletion_races;
mod deletions;
mod former_keys;
mod hooked;
mod lifetime;
mod losses;
mod news;
mod outages;
mod purges;
mod reads;
mod replica;
mod retired;
mod scripted;
mod servers;
mod shared;
mod unreadable;
mod versions;
mod versions_lost;
