//! Stores with damaged files. What was acknowledged is served or reported as unreadable, and never absent.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
#![allow(clippy::print_stdout, reason = "what was tried is worth a line")]

#[path = "damage/files.rs"]
mod files;
#[path = "damage/formats.rs"]
mod formats;
#[path = "damage/store.rs"]
mod store;
#[path = "damage/unreadable.rs"]
mod unreadable;
