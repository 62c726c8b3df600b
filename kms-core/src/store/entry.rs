//! The names of the entries in a key store.

use std::fmt;

use crate::error::Result;
use crate::name::KeyName;
use crate::primitives::{Fingerprint, fill_random};

/// The most versions of a key.
pub const MAX_VERSIONS: u32 = 1_000;

/// The directory of the markers of deleted keys.
pub(crate) const DELETED: &str = ".d/";
/// The directory of the markers of restores and purges.
pub(crate) const UNDER_WAY: &str = ".p/";
/// The directory of the roots of a store. Its entries belong to no key.
pub(crate) const ROOTS: &str = ".r/";
/// The directory of the notes of keys that were removed for good.
pub(crate) const GONE: &str = ".g/";
/// The directory of the notes of keys that are being replaced.
pub(crate) const REPLACING: &str = ".m/";
/// All directories of what belongs to keys. The notes of [`GONE`] are not among them: they outlive their keys.
pub(crate) const DIRECTORIES: [&str; 4] = [".v/", ".x/", DELETED, UNDER_WAY];

/// The name of an entry in a [`KeyStore`](super::KeyStore): a key, or something that belongs to a key.
///
/// A record is immutable. So whatever comes to a key later is an entry beside it. The names of such entries begin with a
/// dot. No key can have such a name, and listings hide it. Name and fingerprint of the key stand in each: a name that
/// was deleted and made again meets no entry of the key that was there before, and the same bytes under two names
/// share nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryName(Box<str>);

impl EntryName {
    /// Returns the name of version `version` (2 or more) of the key `name` whose first version has this fingerprint:
    /// `.v/<name>/<fingerprint>/<version>`.
    pub fn version(name: &KeyName, first: &Fingerprint, version: u32) -> Self {
        Self(format!(".v/{name}/{}/{version}", hex::encode(first.as_bytes())).into())
    }

    /// Returns the name of the marker that disables version `version` (1 or more) of a key:
    /// `.x/<name>/<fingerprint>/<version>`.
    pub fn disabled(name: &KeyName, first: &Fingerprint, version: u32) -> Self {
        Self(format!(".x/{name}/{}/{version}", hex::encode(first.as_bytes())).into())
    }

    /// Returns the name of the marker that says that a key is deleted: `.d/<name>/<fingerprint>`.
    pub fn deleted(name: &KeyName, first: &Fingerprint) -> Self {
        Self(format!("{DELETED}{name}/{}", hex::encode(first.as_bytes())).into())
    }

    /// Returns the name of the marker that says that a restore or a purge of a key is under way:
    /// `.p/<name>/<fingerprint>`.
    pub fn under_way(name: &KeyName, first: &Fingerprint) -> Self {
        Self(format!("{UNDER_WAY}{name}/{}", hex::encode(first.as_bytes())).into())
    }

    /// Returns the name of the note that says that a key was removed for good: `.g/<name>/<fingerprint>`.
    pub fn gone(name: &KeyName, first: &Fingerprint) -> Self {
        Self(format!("{GONE}{name}/{}", hex::encode(first.as_bytes())).into())
    }

    /// Returns the name of an entry that belongs to the roots of the store: `.r/<segment>`.
    pub(crate) fn of_roots(segment: &str) -> Self {
        Self(format!("{ROOTS}{segment}").into())
    }

    /// Returns the name of an entry that a listing of segments found in a directory.
    pub(crate) fn listed(directory: &str, segment: &str) -> Self {
        Self(format!("{directory}{segment}").into())
    }

    /// Returns the name of the note that says that the key of this name is being replaced by another one: `.m/<name>`.
    pub fn replacing(name: &KeyName) -> Self {
        Self(format!("{REPLACING}{name}").into())
    }

    /// Returns a random name that no key has and no listing shows, for the probe of a check.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Internal`](crate::ErrorKind::Internal): the system has no random bytes.
    pub fn probe() -> Result<Self> {
        let mut random = [0; 16];
        fill_random(&mut random)?;
        Ok(Self(format!(".v/kms-check/{}/2", hex::encode(random)).into()))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns `true` if this is no key, but something that belongs to one or to the roots. Listings hide it.
    pub fn is_hidden(&self) -> bool {
        self.0.starts_with('.')
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

/// Returns the next segments of `names` behind a directory, for a [`KeyStore::segments`](super::KeyStore::segments).
///
/// The names are in byte order, and the first begins with `directory` if any does.
pub fn next_segments<'a>(directory: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let rests = names.map_while(|name| name.strip_prefix(directory));
    let mut segments: Vec<String> = Vec::new();
    for rest in rests {
        let segment = rest.split_once('/').map_or(rest, |(segment, _)| segment);
        if segments.last().is_none_or(|last| last != segment) {
            segments.push(segment.to_owned());
        }
    }
    segments.sort_unstable();
    segments.dedup();
    segments
}
