//! The names of keys, and the prefixes of such names.

use std::borrow::Borrow;
use std::fmt;

/// The name of a key: 1 to 80 characters of `0-9 A-Z a-z - _`, no leading or trailing `-`, not `_` alone.
///
/// KES has the same rule. Thanks to it, a name needs no escaping in a path, an alias or a secret's name of any backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(Box<str>);

impl KeyName {
    /// The maximal length of a name, in characters.
    pub const MAX_LEN: usize = 80;

    /// Creates a name from a text.
    ///
    /// # Errors
    ///
    /// [`InvalidName`], if the text breaks the rule.
    pub fn new(name: impl Into<Box<str>>) -> Result<Self, InvalidName> {
        let name = name.into();
        if Self::is_valid(&name) { Ok(Self(name)) } else { Err(InvalidName(name)) }
    }

    /// Returns `true` if `name` obeys the rule. The names of policies obey it too.
    pub fn is_valid(name: &str) -> bool {
        Self::is_valid_prefix(name) && !name.is_empty() && !name.ends_with('-')
    }

    /// Returns `true` if a name may begin with `prefix`. Unlike a name, a prefix may be empty or end in `-`.
    pub fn is_valid_prefix(prefix: &str) -> bool {
        prefix.len() <= Self::MAX_LEN
            && !prefix.starts_with('-')
            && prefix != "_"
            && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
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

/// The error for a text that is not a valid name; it holds the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidName(pub Box<str>);

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key name '{}' is empty, too long or contains invalid characters", self.0.escape_default())
    }
}

impl std::error::Error for InvalidName {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule_of_kes() {
        let longest = "a".repeat(KeyName::MAX_LEN);
        for good in ["a", "my-key", "A_b-9", "__", "_a", "0", longest.as_str()] {
            assert!(KeyName::new(good).is_ok(), "{good}");
        }
        let too_long = "a".repeat(KeyName::MAX_LEN + 1);
        for bad in ["", "-a", "a-", "-", "_", "a.b", "a/b", "ä", "a b", "a\0", ".v", "a~", too_long.as_str()]
        {
            assert!(KeyName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_may_be_empty_or_end_in_a_hyphen() {
        for good in ["", "my-", "my", "__"] {
            assert!(KeyName::is_valid_prefix(good), "{good}");
        }
        for bad in ["_", "-", "a*", "a/"] {
            assert!(!KeyName::is_valid_prefix(bad), "{bad}");
        }
    }
}
