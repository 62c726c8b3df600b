//! Backups: the archive of all keys of a store, sealed to people who keep the keys that open it elsewhere.
//!
//! `docs/backup-format.md` describes the archive, so that it can be opened without this program.

pub mod evidence;
mod facts;
mod keys;
mod reader;
mod summary;
mod tar_file;
mod time;
mod writer;

pub use self::facts::Manifest;
pub use self::keys::{Found, Keys, Unreadable};
pub use self::reader::{ArchiveReader, Stored};
pub use self::summary::Summary;
pub use self::time::{CLOCKS, Time};
pub use self::writer::ArchiveWriter;

#[cfg(test)]
mod tests;
