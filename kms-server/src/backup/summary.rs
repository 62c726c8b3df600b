//! What a backup holds, in figures: a server tells them at its end, and a command prints them.

use serde::{Deserialize, Serialize};

use super::facts::Manifest;

/// What a backup holds.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The number of keys.
    pub keys: u64,
    /// The number of versions of all keys.
    pub versions: u64,
    /// The number of keys that were listed and have no copy.
    pub left_out: u64,
    /// How many of these cannot be read.
    pub unreadable: u64,
    /// The number of those who can open it.
    pub recipients: usize,
}

impl Summary {
    /// Creates the summary of a backup that was sealed to this number of recipients.
    pub fn of(manifest: &Manifest, recipients: usize) -> Self {
        let Manifest { keys, versions, left_out, unreadable, .. } = *manifest;
        Self { keys, versions, left_out, unreadable, recipients }
    }
}
