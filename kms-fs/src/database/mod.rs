//! sled, held to a discipline under which what it acknowledges is on the disk.

mod directory;
mod engine;
mod quiet;
mod read;
mod trees;

pub use directory::{DATABASE, SLED_LOG, UNFINISHED, write_back};
pub use engine::{Engine, MAX_COMMIT_LEN, MAX_VALUE_LEN};
