//! What has to be known to use AWS KMS.

use std::fmt;
use std::time::Duration;

use kms_core::{Error, InvalidSetting, Result};
use zeroize::Zeroizing;

/// The longest prefix: an alias has 256 characters, and the longest of ours holds a key's name and an id too.
const MAX_PREFIX_LEN: usize = 100;

/// How AWS KMS is reached, and who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsConnection {
    /// Another address than that of the region: a VPC endpoint, or an emulator.
    pub endpoint: Option<String>,
    /// The region; if absent, that of the environment, the profile or the instance.
    pub region: Option<String>,
    /// Who asks; if absent, the SDK's default chain: environment, profile, web identity, container, instance.
    pub credentials: Option<Credentials>,
}

/// Where the keys are in AWS KMS, and how they are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsConfig {
    /// How AWS KMS is reached.
    pub connection: AwsConnection,
    /// What stands between `alias/` and a key's name; `kms/k/`.
    pub prefix: String,
    /// How long, and for how much, a working key seals.
    pub reuse: Reuse,
    /// After how many days AWS erases a deleted key, 7 to 30; 30. Until then it can be restored there.
    pub deletion_window: u32,
    /// How long what a name stands for is believed: so long may a key that was disabled go on working; 5 minutes.
    pub any: Duration,
    /// How long after the last good answer keys in memory serve while AWS is away; zero is never.
    pub offline: Duration,
}

/// The CMK that is the root key of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrapperConfig {
    /// How AWS KMS is reached.
    pub connection: AwsConnection,
    /// Its ARN or id; or an alias, which has to stay on this CMK as long as there are records.
    pub key: String,
}

/// How long, and for how much, a working key seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reuse {
    /// Since it began to seal, which is up to a fifth of this after it came; zero asks AWS for each data encryption
    /// key. 5 minutes.
    pub max_age: Duration,
    /// The number of seals; 2^32. It bounds what one working key that leaks can open.
    pub max_uses: u64,
}

impl Default for Reuse {
    fn default() -> Self {
        Self { max_age: Duration::from_secs(300), max_uses: 1 << 32 }
    }
}

/// A static access key.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The id of the access key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: Zeroizing<String>,
    /// The session's token, for temporary credentials.
    pub token: Option<Zeroizing<String>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

impl AwsConfig {
    /// Makes the configuration that a server has by default.
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

    /// Checks what can be checked without AWS; fails with `InvalidInput`, told with the field's name.
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
    /// Checks what can be checked without AWS; fails with `InvalidInput`, told with the field's name.
    pub fn validate(&self) -> Result<()> {
        self.connection.validate()?;
        // The longest that AWS takes.
        if self.key.is_empty() || self.key.len() > 2048 {
            return Err(invalid("key", "expected the ARN, the id or the alias of a CMK"));
        }
        Ok(())
    }
}

impl AwsConnection {
    pub(crate) fn validate(&self) -> Result<()> {
        if let Some(endpoint) = &self.endpoint
            && !endpoint.starts_with("https://")
            && !endpoint.starts_with("http://")
        {
            return Err(invalid(
                "endpoint",
                "expected it to begin with 'https://' or 'http://', such as 'https://host:port'",
            ));
        }
        if self.region.as_deref().is_some_and(str::is_empty) {
            return Err(invalid("region", "it is empty"));
        }
        match &self.credentials {
            Some(keys) if keys.access_key.is_empty() || keys.secret_key.is_empty() => Err(invalid(
                "credentials",
                "'accesskey' and 'secretkey' belong together, one of them is missing",
            )),
            _ => Ok(()),
        }
    }
}

pub(crate) fn invalid(field: &str, why: &str) -> Error {
    InvalidSetting::error(format!("use the AWS setting '{field}'"), field, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> AwsConfig {
        AwsConfig::new(AwsConnection::default())
    }

    #[test]
    fn debug_output_tells_no_secret() {
        let credentials = Credentials {
            access_key: "AKIA".to_owned(),
            secret_key: "s3cr3t".to_owned().into(),
            token: Some("t0k3n".to_owned().into()),
        };
        let connection = AwsConnection { credentials: Some(credentials), ..AwsConnection::default() };
        let text = format!("{:?}", AwsConfig::new(connection));
        assert!(text.contains("AKIA") && !text.contains("s3cr3t") && !text.contains("t0k3n"), "{text}");
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
