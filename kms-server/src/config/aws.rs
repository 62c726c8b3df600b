//! The section `keystore.aws.kms`.

use kms_aws::{AwsConfig, AwsConnection, Credentials, Reuse};
use kms_core::CacheConfig;

use super::places::{Places, path};
use super::problem::Problem;
use super::sections::{RawAws, RawAwsCredentials, RawAwsKms};

/// Reads the section; how long an answer of AWS is believed is told by the cache's settings.
pub fn aws(raw: RawAws, cache: &CacheConfig, places: &Places) -> Result<AwsConfig, Problem> {
    let problem = |key: &str, message: &str| places.problem(&path(&format!("keystore.aws{key}")), message);
    let Some(RawAwsKms { endpoint, region, prefix, credentials: keys, reuse, deletion_window }) = raw.kms
    else {
        return Err(problem("", "empty, expected keystore.aws.kms"));
    };
    let default = AwsConfig::new(connection(endpoint, region, keys));
    let config = AwsConfig {
        prefix: prefix.unwrap_or(default.prefix),
        reuse: Reuse {
            max_age: reuse.max_age.map_or(default.reuse.max_age, |age| age.0),
            max_uses: reuse.max_uses.unwrap_or(default.reuse.max_uses),
        },
        deletion_window: deletion_window.unwrap_or(default.deletion_window),
        any: cache.any,
        offline: cache.offline,
        connection: default.connection,
    };
    config.validate().map_err(|error| problem(".kms", &error.chain().to_string()))?;
    Ok(config)
}

/// Reads how AWS is reached, and who asks.
pub fn connection(
    endpoint: Option<String>,
    region: Option<String>,
    keys: RawAwsCredentials,
) -> AwsConnection {
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    AwsConnection { endpoint: given(endpoint), region: given(region), credentials: credentials(keys) }
}

/// Reads an access key; none is the SDK's default chain.
fn credentials(raw: RawAwsCredentials) -> Option<Credentials> {
    let [access_key, secret_key, token] =
        [raw.accesskey, raw.secretkey, raw.token].map(|text| text.filter(|text| !text.is_empty()));
    if access_key.is_none() && secret_key.is_none() && token.is_none() {
        return None;
    }
    Some(Credentials {
        access_key: access_key.unwrap_or_default(),
        secret_key: secret_key.unwrap_or_default().into(),
        token: token.map(Into::into),
    })
}
