//! Names of keys and of the entries that hold them, and prefixes of such names.

use std::borrow::Borrow;
use std::fmt;

/// The most characters that a name may have.
pub const MAX_NAME_LEN: usize = 80;

/// The most names that one page of a listing holds.
pub const MAX_PAGE_LEN: usize = 1024;

/// The name of a key: 1 to 80 characters of `0-9 A-Z a-z - _`, no leading or trailing `-`, not `_` alone.
///
/// The rule is that of KES, and the reason why a name can stand as it is in a path, an alias or a secret's
/// name of any backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(Box<str>);

impl KeyName {
    /// Checks `name` against the rule.
    pub fn new(name: impl Into<Box<str>>) -> Result<Self, InvalidName> {
        let name = name.into();
        if is_valid(&name) { Ok(Self(name)) } else { Err(InvalidName(name)) }
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for KeyName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for KeyName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        Self::new(name)
    }
}

/// Tells whether `name` obeys the rule of [`KeyName`], which policies and identities share.
pub fn is_valid(name: &str) -> bool {
    is_valid_prefix(name) && !name.is_empty() && !name.ends_with('-')
}

/// Tells whether a name may begin with `prefix`; unlike a name it may be empty or end in `-`.
pub fn is_valid_prefix(prefix: &str) -> bool {
    prefix.len() <= MAX_NAME_LEN
        && !prefix.starts_with('-')
        && prefix != "_"
        && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// A text that is no name; holds the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidName(pub Box<str>);

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key name '{}' is empty, too long or contains invalid characters", self.0.escape_default())
    }
}

impl std::error::Error for InvalidName {}

/// The name of an entry in a [`KeyStore`](crate::KeyStore): a key, or the slot of one of its later versions.
///
/// Records are immutable, so a further version of a key is an entry beside the first. Its name,
/// `.v/<fingerprint of version 1>/<n>`, is one that no key can have, and listings hide it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryName(Box<str>);

impl EntryName {
    /// What the names of all slots begin with.
    pub const SLOT_PREFIX: &'static str = ".v/";

    /// Names the slot of version `version` (2 or more) of the key whose first version has this fingerprint.
    pub fn slot(fingerprint: &crate::Fingerprint, version: u32) -> Self {
        Self(format!("{}{}/{version}", Self::SLOT_PREFIX, hex::encode(fingerprint.as_bytes())).into())
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tells whether this is the slot of a later version, to be hidden from listings.
    pub fn is_slot(&self) -> bool {
        self.0.starts_with(Self::SLOT_PREFIX)
    }
}

impl From<&KeyName> for EntryName {
    fn from(name: &KeyName) -> Self {
        Self(name.0.clone())
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule_of_kes() {
        let longest = "a".repeat(MAX_NAME_LEN);
        for good in ["a", "my-key", "A_b-9", "__", "_a", "0", longest.as_str()] {
            assert!(KeyName::new(good).is_ok(), "{good}");
        }
        let too_long = "a".repeat(MAX_NAME_LEN + 1);
        for bad in ["", "-a", "a-", "-", "_", "a.b", "a/b", "ä", "a b", "a\0", ".v", "a~", too_long.as_str()]
        {
            assert!(KeyName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_may_be_empty_or_end_in_a_hyphen() {
        for good in ["", "my-", "my", "__"] {
            assert!(is_valid_prefix(good), "{good}");
        }
        for bad in ["_", "-", "a*", "a/"] {
            assert!(!is_valid_prefix(bad), "{bad}");
        }
    }
}
