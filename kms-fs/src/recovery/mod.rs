//! What a start makes of the files that it finds: it reads them, judges what the store holds, and repairs them.
//!
//! A database that does not open is read from a copy. When another one was made of what the journal and the
//! copy hold, the damaged one is set aside as `sled.damaged-<time>`.
//!
//! Every step can be interrupted. The next start finds the journal as it was or as it will be. If it finds no
//! database, it makes one of the journal.

mod agreed;
mod directory;
mod find;
mod merge;
mod settle;
mod told;

pub use agreed::{Agreed, Look, look};
pub use directory::{clean_up, exists, foreign_file};
pub use find::{Found, find, read_copy};
pub use merge::{Database, Merged, merge};
pub use settle::{Known, settle};
pub use told::told;
