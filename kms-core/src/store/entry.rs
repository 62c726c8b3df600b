//! The names of the entries in a key store.

use std::fmt;

use crate::name::KeyName;
use crate::primitives::Fingerprint;

/// The name of an entry in a [`KeyStore`](super::KeyStore): a key, or the slot of one of its later versions.
///
/// Records are immutable, so a later version of a key is an entry beside the first. The name of such a slot is
/// `.v/<fingerprint of version 1>/<n>`. No key can have that name, and listings hide it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryName(Box<str>);

impl EntryName {
    /// The prefix of the names of all slots.
    pub const SLOT_PREFIX: &'static str = ".v/";

    /// Returns the name of the slot of version `version` (2 or more) of the key whose first version has this fingerprint.
    pub fn slot(fingerprint: &Fingerprint, version: u32) -> Self {
        Self(format!("{}{}/{version}", Self::SLOT_PREFIX, hex::encode(fingerprint.as_bytes())).into())
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns `true` if this is the slot of a later version, which listings hide.
    pub fn is_slot(&self) -> bool {
        self.0.starts_with(Self::SLOT_PREFIX)
    }
}

impl From<&KeyName> for EntryName {
    fn from(name: &KeyName) -> Self {
        Self(name.as_str().into())
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
