//! The aliases by which the CMKs of one prefix are found.

use kms_core::KeyName;

/// The aliases of one prefix.
#[derive(Clone, Debug)]
pub struct Aliases {
    keys: String,
    siblings: String,
}

impl Aliases {
    /// Derives the aliases from the configured prefix. The siblings stand beside `…/k/`, or below any other prefix.
    ///
    /// No key's name has a '/', so siblings below the prefix are never keys.
    pub fn new(prefix: &str) -> Self {
        let siblings = match prefix.strip_suffix("k/") {
            Some(parent) if parent.is_empty() || parent.ends_with('/') => parent,
            _ => prefix,
        };
        Self { keys: format!("alias/{prefix}"), siblings: format!("alias/{siblings}") }
    }

    /// Returns the alias of a key.
    pub fn key(&self, name: &KeyName) -> String {
        format!("{}{name}", self.keys)
    }

    /// Returns the alias of the CMK that makes a key's HMACs.
    pub fn hmac(&self, name: &KeyName) -> String {
        format!("{}hmac/{name}", self.siblings)
    }

    /// Returns the prefix below which `kms check` has its key. None of the server's keys is there.
    pub fn check_prefix(&self) -> String {
        format!("{}check/", self.siblings.trim_start_matches("alias/"))
    }

    /// Reads a key's name off an alias; `None` for any other alias.
    pub fn name_of(&self, alias: &str) -> Option<KeyName> {
        KeyName::new(alias.strip_prefix(&self.keys)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_stand_beside_k_or_below_the_prefix() {
        let name = KeyName::new("my-key").unwrap();
        let aliases = Aliases::new("kms/k/");
        assert_eq!(aliases.key(&name), "alias/kms/k/my-key");
        assert_eq!(aliases.hmac(&name), "alias/kms/hmac/my-key");
        assert_eq!(aliases.name_of("alias/kms/deleted/my-key/id"), None, "as former releases made them");
        assert_eq!(aliases.check_prefix(), "kms/check/");
        let aliases = Aliases::new("team/disk/");
        assert_eq!(aliases.hmac(&name), "alias/team/disk/hmac/my-key");
        assert_eq!(aliases.name_of("alias/team/disk/hmac/my-key"), None);
        assert_eq!(aliases.name_of("alias/team/disk/my-key"), Some(name));
    }
}
