//! What the markers of deleted keys say.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::deletion::Resolution;
use crate::error::{Error, ErrorKind, Result};

/// What the marker `.d` says.
#[derive(Serialize, Deserialize)]
pub struct DeletedMarker {
    pub at: String,
    pub by: String,
    pub until: String,
}

impl DeletedMarker {
    /// Reads the content of a marker; `None` if it is of a later release.
    pub fn parse(content: &[u8]) -> Option<Self> {
        serde_json::from_slice(content).ok()
    }

    /// Returns when the key was deleted.
    pub fn deleted_at(&self) -> Option<Timestamp> {
        self.at.parse().ok()
    }

    /// Returns until when the key is kept.
    pub fn kept_until(&self) -> Option<Timestamp> {
        self.until.parse().ok()
    }
}

/// What the marker `.p` says.
#[derive(Serialize, Deserialize)]
pub struct UnderWayMarker {
    pub what: Resolution,
    pub run: String,
    pub at: String,
    pub by: String,
}

impl UnderWayMarker {
    /// Reads the content of a marker; `None` if it is of a later release.
    pub fn parse(content: &[u8]) -> Option<Self> {
        serde_json::from_slice(content).ok()
    }
}

/// Returns the content of a marker.
pub fn json(says: &impl Serialize) -> Result<String> {
    let failed = |error| Error::with_source(ErrorKind::Internal, "write a marker as JSON", error);
    serde_json::to_string(says).map_err(failed)
}
