//! Deleted keys: how long they can be restored, and what ends that.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::name::KeyName;
use crate::primitives::Fingerprint;

/// What a delete did to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deletion {
    /// Whether [`Kms::restore`](crate::Kms::restore) can bring the key back.
    pub is_restorable: bool,
    /// Until when the key is kept for that, if the service knows.
    pub until: Option<Timestamp>,
    /// Whether the key is only marked as deleted, so that a program that does not know the mark still uses it.
    pub is_marked: bool,
}

impl Deletion {
    /// Creates the description of a deletion that cannot be undone.
    pub const fn for_ever() -> Self {
        Self { is_restorable: false, until: None, is_marked: false }
    }

    /// Creates the description of a deletion that the backend can undo.
    pub const fn restorable(until: Option<Timestamp>) -> Self {
        Self { is_restorable: true, until, is_marked: false }
    }

    /// Creates the description of a key that is marked as deleted.
    pub const fn marked(until: Timestamp) -> Self {
        Self { is_restorable: true, until: Some(until), is_marked: true }
    }
}

/// A deleted key, as [`Kms::deleted`](crate::Kms::deleted) lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeletedKey {
    /// The name of the key.
    pub name: KeyName,
    /// The fingerprint of the key's first version.
    pub fingerprint: Fingerprint,
    /// Whether the key is there and can be restored. If not, a purge has begun and was cut off or goes on.
    pub is_restorable: bool,
    /// When it was deleted, if that can be read.
    pub deleted_at: Option<Timestamp>,
    /// Who deleted it, if that can be read.
    pub deleted_by: String,
    /// Until when it is kept. After that a purge needs no special word.
    pub kept_until: Option<Timestamp>,
    /// Until when a server that is cut off from the key store may use the key.
    pub in_use_until: Option<Timestamp>,
    /// What is under way, or was cut off.
    pub under_way: Option<Resolution>,
}

impl DeletedKey {
    /// Creates the entry of a key of which no more is known.
    pub fn new(name: KeyName, fingerprint: Fingerprint) -> Self {
        Self {
            name,
            fingerprint,
            is_restorable: false,
            deleted_at: None,
            deleted_by: String::new(),
            kept_until: None,
            in_use_until: None,
            under_way: None,
        }
    }
}

/// One page of a listing of deleted keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeletedPage {
    /// The deleted keys, in byte order of the names. A name may have several.
    pub keys: Vec<DeletedKey>,
    /// The last name of this page, if further names follow it. The keys of a name may all be missing from the page: the
    /// marker of a deletion may be of somebody who does not know the key.
    pub continue_at: Option<KeyName>,
}

/// How the time of a deleted key ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resolution {
    /// It comes back.
    Restore,
    /// It is removed for ever.
    Purge,
}

impl Resolution {
    /// Returns the word for it: `restore` or `purge`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restore => "restore",
            Self::Purge => "purge",
        }
    }
}

/// What a purge may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purge {
    /// The key with this fingerprint is purged, and no other. It is needed if the entry of the key is gone already.
    pub fingerprint: Option<Fingerprint>,
    /// The key is purged although it would be kept for longer.
    pub now: bool,
    /// The server of a restore or purge that is under way is dead, by the word of an operator.
    pub resume: bool,
}

/// A key that was removed for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Purged {
    /// The fingerprint of the key's first version.
    pub fingerprint: Fingerprint,
    /// The number of its versions.
    pub versions: u32,
}

impl Purged {
    /// Creates the description of a purged key.
    pub const fn new(fingerprint: Fingerprint, versions: u32) -> Self {
        Self { fingerprint, versions }
    }
}
