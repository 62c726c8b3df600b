//! The journal: every create and every delete in order, in a text file beside the database.
//!
//! sled ends its replay without a word where its log is damaged, and erases what lies behind. So each batch is written to
//! the journal and synced before it goes to sled, and every start compares the two (see the module `recovery`).
//!
//! Batches are numbered from 1. A journal that is written anew begins with one batch that holds all that the store held
//! then. That batch came with the file's name, so where one of its lines is missing, the line was lost and never torn.

mod file;
mod line;
mod mark;
mod scan;

pub use file::{JOURNAL_FILE, Journal};
pub use line::{Head, Says};
pub use mark::{MARK_FILE, Mark};
pub use scan::{Damage, Line, Scan};
