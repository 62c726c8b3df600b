//! The notes of keys that were removed for good.

use std::fmt::Display;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::entry::EntryName;
use crate::error::{Error, ErrorKind, Result};
use crate::primitives::SecretBytes;

/// The notes that change with a [`KeyStore::replace`](super::KeyStore::replace).
#[derive(Clone, Copy)]
pub struct Notes<'a> {
    /// The note of the key that goes, which is made.
    pub gone: &'a EntryName,
    /// The record of that note.
    pub record: &'a SecretBytes,
    /// The note of the key that comes, which is removed.
    pub back: &'a EntryName,
}

/// What the note of a removed key says: JSON with the fields `at` and `by`.
#[derive(Serialize, Deserialize)]
pub struct GoneNote {
    at: String,
    by: String,
}

impl GoneNote {
    /// Creates the note of a key that `by` removes now.
    pub fn now(by: impl Display) -> Self {
        Self { at: Timestamp::now().to_string(), by: by.to_string() }
    }

    /// Reads the record of a note; `None` if it is of a later release, or no note.
    pub fn parse(record: &[u8]) -> Option<Self> {
        serde_json::from_slice(record).ok()
    }

    /// Returns when the key was removed.
    pub fn removed_at(&self) -> Option<Timestamp> {
        self.at.parse().ok()
    }

    /// Returns the record of the note.
    pub fn record(&self) -> Result<SecretBytes> {
        let failed = |error| Error::with_source(ErrorKind::Internal, "write a note as JSON", error);
        serde_json::to_vec(self).map(SecretBytes::new).map_err(failed)
    }
}
