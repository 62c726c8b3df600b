//! Stores with damaged files. What was acknowledged is served or reported as unreadable, and never absent.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
#![allow(clippy::print_stdout, reason = "what was tried is worth a line")]

mod files;
mod formats;
mod later;
mod store;
mod unreadable;
