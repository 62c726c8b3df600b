//! The settings of AWS KMS.

use std::time::Duration;

use kms_core::Result;

use crate::config::{AwsConnection, invalid};

/// The longest prefix. An alias has 256 characters, and the longest alias here holds a key's name and an id, too.
const MAX_PREFIX_LEN: usize = 100;

/// The place of the keys in AWS KMS, and the rules of their use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsConfig {
    /// The connection to AWS.
    pub connection: AwsConnection,
    /// The text between `alias/` and a key's name. The default is `kms/k/`.
    pub prefix: String,
    /// The limits of one working key: how long it seals, and how often.
    pub reuse: Reuse,
    /// The number of days after which AWS erases a deleted key, from 7 to 30. Until then the key can be restored there.
    /// The default is 30.
    pub deletion_window: u32,
    /// How long an answer about a name is believed. A key that was disabled may go on working for as long. The default
    /// is 5 minutes.
    pub any: Duration,
    /// How long after the last good answer keys in memory serve while AWS is away. Zero is never.
    pub offline: Duration,
}

/// The CMK that is the root key of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrapperConfig {
    /// The connection to AWS.
    pub connection: AwsConnection,
    /// Its ARN, its id or an alias. An alias has to stay on this CMK as long as there are records.
    pub key: String,
}

/// The limits of one working key: how long it seals, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reuse {
    /// How long it seals. This counts from its first use, which may be up to a fifth of this time after it was fetched.
    /// Zero asks AWS for each data encryption key. The default is 5 minutes.
    pub max_age: Duration,
    /// How often it seals. It bounds how much a leaked working key can open. The default is 2^32.
    pub max_uses: u64,
}

impl Default for Reuse {
    fn default() -> Self {
        Self { max_age: Duration::from_secs(300), max_uses: 1 << 32 }
    }
}

impl AwsConfig {
    /// Creates the configuration that a server has by default.
    pub fn new(connection: AwsConnection) -> Self {
        Self {
            connection,
            prefix: "kms/k/".to_owned(),
            reuse: Reuse::default(),
            deletion_window: 30,
            any: Duration::from_secs(300),
            offline: Duration::ZERO,
        }
    }

    /// Checks all that can be checked without AWS.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidInput`](kms_core::ErrorKind::InvalidInput): a setting cannot be used. The error names it.
    pub fn validate(&self) -> Result<()> {
        self.connection.validate()?;
        let prefix = self.prefix.as_str();
        let is_alias = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_');
        if prefix.len() > MAX_PREFIX_LEN || !prefix.chars().all(is_alias) {
            let why = format!("expected at most {MAX_PREFIX_LEN} characters of 0-9 A-Z a-z / - _");
            return Err(invalid("prefix", &why));
        }
        if prefix.starts_with("aws/") || prefix.starts_with('/') || prefix.contains("//") {
            return Err(invalid("prefix", "it begins with 'aws/' or has an empty segment"));
        }
        if !prefix.ends_with('/') {
            return Err(invalid("prefix", "expected a '/' at its end, which keeps keys of others apart"));
        }
        if !(7..=30).contains(&self.deletion_window) {
            return Err(invalid("deletion_window", "expected 7 to 30 days"));
        }
        if self.reuse.max_uses == 0 {
            return Err(invalid("reuse.max_uses", "it is zero; a max_age of \"0s\" asks AWS every time"));
        }
        Ok(())
    }
}

impl WrapperConfig {
    /// Checks all that can be checked without AWS.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidInput`](kms_core::ErrorKind::InvalidInput): a setting cannot be used. The error names it.
    pub fn validate(&self) -> Result<()> {
        self.connection.validate()?;
        // AWS takes no longer ones.
        if self.key.is_empty() || self.key.len() > 2048 {
            return Err(invalid("key", "expected the ARN, the id or the alias of a CMK"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> AwsConfig {
        AwsConfig::new(AwsConnection::default())
    }

    #[test]
    fn prefixes_that_mix_keys_up_are_refused() {
        for good in ["kms/k/", "minio/", "a-b_c/d/"] {
            AwsConfig { prefix: good.to_owned(), ..config() }.validate().unwrap();
        }
        for bad in ["", "kms", "aws/kms/", "/", "/kms/", "a//b/", "a.b/", "ä/"] {
            assert!(AwsConfig { prefix: bad.to_owned(), ..config() }.validate().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_deletion_window_is_that_of_aws() {
        for days in [0, 6, 31] {
            assert!(AwsConfig { deletion_window: days, ..config() }.validate().is_err(), "{days}");
        }
    }
}
