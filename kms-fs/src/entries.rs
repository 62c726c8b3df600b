//! The entries of a store, and changes to them.

use std::collections::BTreeMap;

/// Entries by name; `None` where all that is known is that there is one.
pub type Entries = BTreeMap<String, Option<Box<[u8]>>>;

/// One change of a batch.
#[derive(Clone, Copy)]
pub enum Change<'a> {
    /// Put a value where none is.
    Create(&'a str, &'a [u8]),
    /// Take a value away.
    Delete(&'a str),
}
