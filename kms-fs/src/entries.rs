//! The entries of a store, and changes to them.

use std::collections::BTreeMap;

/// The entries of a store by name.
///
/// `None` stands for a record that is lost: only its name is known.
pub type Entries = BTreeMap<String, Option<Box<[u8]>>>;

/// One change of a batch.
#[derive(Clone, Copy)]
pub enum Change<'a> {
    /// Adds a value under a name that has none.
    Create(&'a str, &'a [u8]),
    /// Removes a name with its value.
    Delete(&'a str),
}
