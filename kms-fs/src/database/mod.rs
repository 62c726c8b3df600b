//! sled, used in such a way that everything it acknowledges is on the disk.
//!
//! sled 0.34.7 does not keep what it acknowledges by itself. Its `flush` ends in `sync_file_range`, which tells
//! the disk nothing, and `flush_async` deadlocks under concurrency (spacejam/sled#1308). So one thread writes,
//! calls the blocking `flush`, and then syncs the file through a descriptor of its own. The further rules are:
//!
//! * sled's own flusher is off. It moves pages between two syncs, and frees and reuses segments whose pages are
//!   not yet on the disk in their new place. Without it a batch writes less than a segment, and the file stays
//!   within some three times its live content.
//! * A database is made under another name, synced and renamed. So it is there whole or not at all. A process
//!   that is killed may not have synced that name, so each opening syncs the names before it builds on them.
//! * The log is synced before sled is opened. A killed process leaves records in the page cache, and sled
//!   writes a snapshot that refers to them. An unfinished snapshot is removed: sled would take it for the
//!   latest one and refuse to open.
//! * sled is opened in two steps. After it has written a new snapshot, sled removes the one before and erases
//!   segments that the new one does not need, while the name of the new one is not yet on the disk. After a
//!   power cut at that moment it would find no snapshot and a log with a hole, and begin an empty database. So
//!   sled is stopped when the snapshot has its name, the directory is synced, and sled is opened again.
//! * Values are so small that no node reaches the size from which on sled keeps it in a file of its own.
//! * sled's own messages about damage, and its panics, never reach an operator. They become errors that say
//!   what they mean.

mod compare;
mod directory;
mod engine;
mod quiet;
mod read;
mod trees;

pub use directory::{DATABASE, SLED_LOG, UNFINISHED, write_back};
pub use engine::{Engine, MAX_COMMIT_LEN, MAX_VALUE_LEN};
