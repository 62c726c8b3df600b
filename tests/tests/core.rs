//! The library by itself: what KES wrote is read, and the cache keeps its promises when the store does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "core/cache.rs"]
mod cache;
#[path = "core/reuse.rs"]
mod reuse;
#[path = "core/unreadable.rs"]
mod unreadable;
#[path = "core/vectors.rs"]
mod vectors;
