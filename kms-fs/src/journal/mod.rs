//! The journal: every create and every delete in order, in a text file beside the database.
//!
//! sled ends its replay silently where its log is damaged, and erases what lies behind. So each batch is
//! written to the journal and synced before it goes to sled, and every start compares the two (see the module
//! `recovery`).
//!
//! Batches are numbered from 1. A journal that is written anew begins with one batch that holds everything that
//! was in the store then. That batch came with the file's name. So where one of its lines is missing, the line
//! was lost later, and was not torn while it was written.

mod file;
mod line;
mod mark;
mod names;
mod scan;
mod whole;

pub use file::{JOURNAL_FILE, Journal};
pub use line::{Head, Says};
pub use mark::{MARK_FILE, Mark};
pub use names::Line;
pub use scan::{Damage, Scan};
pub use whole::Whole;
