//! The key ring: a [`Kms`](crate::Kms) in this process over any key store.

mod away;
mod backend;
mod cache;
mod cached_versions;
mod change;
mod config;
mod counters;
mod creators;
mod deleted;
mod deletion;
mod entries;
mod export;
mod former;
mod gate;
mod key;
mod key_ring;
mod lookups;
mod loss;
mod losses;
mod lost_restore;
mod markers;
#[cfg(test)]
#[cfg(feature = "model")]
mod models;
mod names;
mod news;
mod notes;
pub mod policy;
mod purge;
mod report;
mod run;
mod search;
mod slot;
mod unreadable;
mod uses;
mod versions;

pub use self::away::{Away, Outage};
pub use self::config::CacheConfig;
pub use self::counters::{Counter, Counters};
pub use self::gate::{Gate, Pass};
pub use self::key_ring::KeyRing;
pub use self::unreadable::Unreadable;
