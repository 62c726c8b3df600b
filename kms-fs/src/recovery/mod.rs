//! What a start makes of the files that it finds: it reads them, judges what the store holds, and puts them right.
//!
//! A database that does not open is read from a copy. It is set aside as `sled.damaged-<time>` when another one was made
//! of what the journal and it hold. Every step can be cut off: the next start finds the journal as it was or as it will
//! be. It finds a database, too, or none, and then it makes another one of the journal.

mod directory;
mod find;
mod merge;
mod settle;

pub use directory::{clean_up, exists, foreign_file};
pub use find::{Found, find, read_copy};
pub use merge::{Merged, merge};
pub use settle::{Known, settle};
