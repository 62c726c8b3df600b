//! The ids of roots.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::name::KeyName;
use crate::primitives::Fingerprint;
use crate::store::EntryName;

/// The entries beside those of roots, whose names no root can have.
const RESERVED: [&str; 2] = ["store", "removing"];

/// The id of a root: the last segment of the name of its entry.
///
/// It follows from the root or is given, so that a server needs no listing to find the entries of its roots. Its text
/// obeys the rule of [`KeyName`], so that every store takes it, and is neither `store` nor `removing`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootId(Box<str>);

impl RootId {
    /// Creates an id from a text.
    ///
    /// # Errors
    ///
    /// [`InvalidRootId`], if the text breaks the rule.
    pub fn new(id: &str) -> Result<Self, InvalidRootId> {
        if KeyName::is_valid(id) && !RESERVED.contains(&id) {
            Ok(Self(id.into()))
        } else {
            Err(InvalidRootId(id.into()))
        }
    }

    /// Returns the id of a local root key with this fingerprint: `local-<32 hex digits>`.
    pub fn of_local(fingerprint: &Fingerprint) -> Self {
        Self(format!("local-{}", hex::encode(fingerprint.as_bytes())).into())
    }

    /// Returns the id of a key of Vault's transit engine: `vault-<32 hex digits>`, of SHA-256.
    ///
    /// The address of Vault does not count, so a Vault may move. Slashes around namespace and engine do not count either.
    pub fn of_vault(namespace: Option<&str>, engine: &str, key: &str) -> Self {
        let [namespace, engine] = [namespace.unwrap_or_default(), engine].map(|path| path.trim_matches('/'));
        Self(format!("vault-{}", digest(&[namespace, engine, key])).into())
    }

    /// Returns the id of a CMK of AWS KMS with this ARN: `aws-<32 hex digits>`, of SHA-256.
    pub fn of_aws(arn: &str) -> Self {
        Self(format!("aws-{}", digest(&[arn])).into())
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name of the root's entry: `.r/<id>`.
    pub fn entry(&self) -> EntryName {
        EntryName::of_roots(&self.0)
    }
}

impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The error for a text that is no id of a root; it holds the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidRootId(pub Box<str>);

impl fmt::Display for InvalidRootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "invalid id of a root '{}', expected 1 to {} characters of 0-9 A-Z a-z - _ that begin and end with no '-', \
             and neither 'store' nor 'removing'",
            self.0.escape_default(),
            KeyName::MAX_LEN
        )
    }
}

impl std::error::Error for InvalidRootId {}

/// Computes 32 hex digits of a SHA-256. The length of each part stands before it, so no two lists give the same bytes.
fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex::encode(&hash.finalize()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_segments_and_none_is_that_of_another_entry() {
        for good in ["local-00", "my_root", "A", "vault-2", "stores"] {
            assert_eq!(RootId::new(good).map(|id| id.entry().to_string()), Ok(format!(".r/{good}")));
        }
        let too_long = "a".repeat(81);
        for bad in ["", "store", "removing", "a/b", "a.b", ".r", "-a", "a-", "_", "ä", too_long.as_str()] {
            assert_eq!(RootId::new(bad), Err(InvalidRootId(bad.into())));
        }
    }

    #[test]
    fn derived_ids_differ_wherever_the_roots_do() {
        let ids = [
            RootId::of_vault(None, "transit", "key"),
            RootId::of_vault(Some("team"), "transit", "key"),
            RootId::of_vault(Some("teamtransit"), "", "key"),
            RootId::of_vault(None, "transi", "tkey"),
            RootId::of_vault(None, "transit", "key2"),
            RootId::of_aws("arn:aws:kms:eu-west-1:1:key/1"),
            RootId::of_aws("arn:aws:kms:eu-west-1:1:key/2"),
            RootId::of_local(&Fingerprint::from_bytes([1; 16])),
        ];
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
        for id in &ids {
            assert_eq!(RootId::new(id.as_str()).as_ref(), Ok(id), "a derived id is a valid one");
        }
        assert_eq!(ids[7].as_str(), "local-01010101010101010101010101010101");
        assert_eq!(RootId::of_vault(Some("/team/"), "/transit/", "key"), ids[1]);
        // A change of these digits would make every server lose its root's entry.
        assert_eq!(ids[0].as_str(), "vault-61b1a67f17217b6b1eeda5feab2cbe53");
        assert_eq!(ids[5].as_str(), "aws-4949e9eba2058e7d67c1c4d567e7cbee");
    }
}
