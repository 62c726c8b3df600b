//! Sections of the schema beside those of `schema`: logs, routes, the TLS proxy, and key stores of KES.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::log_level::LogLevel;
use super::schema::{GoDuration, Switch, list, number};

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawLog {
    pub error: Option<LogLevel>,
    pub audit: Option<LogLevel>,
    pub audit_file: Option<String>,
    pub audit_failure: Option<String>,
}

/// The routes by their path, such as `/v1/ready`.
pub type RawApi = BTreeMap<String, RawRoute>;

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawRoute {
    pub skip_auth: Option<Switch>,
    pub timeout: Option<GoDuration>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawProxy {
    #[serde(deserialize_with = "list")]
    pub identities: Vec<String>,
    pub header: RawProxyHeader,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawProxyHeader {
    pub cert: Option<String>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawVault {
    pub endpoint: Option<String>,
    pub engine: Option<String>,
    pub version: Option<String>,
    pub namespace: Option<String>,
    pub prefix: Option<String>,
    pub transit: Option<RawTransit>,
    pub approle: Option<RawAppRole>,
    pub kubernetes: Option<RawKubernetes>,
    pub token: Option<RawToken>,
    pub tls: RawVaultTls,
    pub status: RawVaultStatus,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawTransit {
    pub engine: Option<String>,
    pub key: Option<String>,
    pub require: Option<Switch>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawAppRole {
    pub namespace: Option<String>,
    pub engine: Option<String>,
    pub id: Option<String>,
    pub secret: Option<String>,
    pub secret_file: Option<String>,
    pub retry: Option<GoDuration>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawKubernetes {
    pub namespace: Option<String>,
    pub engine: Option<String>,
    pub role: Option<String>,
    pub jwt: Option<String>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawToken {
    pub value: Option<String>,
    pub file: Option<String>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawVaultTls {
    pub key: Option<String>,
    pub cert: Option<String>,
    pub ca: Option<String>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawVaultStatus {
    pub ping: Option<GoDuration>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawOuterKms {
    pub aws: Option<RawAwsWrapper>,
    pub vault: Option<RawVault>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawAwsWrapper {
    pub key: Option<String>,
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub credentials: RawAwsCredentials,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawAws {
    pub kms: Option<RawAwsKms>,
    pub secretsmanager: Option<RawAwsSecrets>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawAwsKms {
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub prefix: Option<String>,
    pub credentials: RawAwsCredentials,
    pub reuse: RawAwsReuse,
    #[serde(deserialize_with = "number")]
    pub deletion_window: Option<u32>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawAwsSecrets {
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub kmskey: Option<String>,
    pub credentials: RawAwsCredentials,
    #[serde(deserialize_with = "number")]
    pub recovery_window: Option<u32>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawAwsCredentials {
    pub accesskey: Option<String>,
    pub secretkey: Option<String>,
    pub token: Option<String>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawAwsReuse {
    pub max_age: Option<GoDuration>,
    #[serde(deserialize_with = "number")]
    pub max_uses: Option<u64>,
}

/// A key store of KES that we do not have; what is set in its section does not matter.
pub type Unsupported = Option<Keys>;

/// The keys of a section, whatever their values are.
pub struct Keys(pub BTreeSet<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfTable;

        impl<'de> Visitor<'de> for OfTable {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Keys, A::Error> {
                let mut keys = BTreeSet::new();
                while let Some((key, IgnoredAny)) = entries.next_entry()? {
                    keys.insert(key);
                }
                Ok(Keys(keys))
            }
        }

        deserializer.deserialize_map(OfTable)
    }
}
