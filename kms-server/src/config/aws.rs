//! The sections `keystore.aws.kms` and `keystore.aws.secretsmanager`.

use kms_aws::{AwsConfig, AwsConnection, Credentials, Reuse, SecretsConfig};
use kms_core::store::InvalidSetting;
use kms_core::{CacheConfig, Error};

use super::places::{Places, path};
use super::problem::Problem;
use super::sections::{RawAws, RawAwsCredentials, RawAwsKms, RawAwsSecrets};
use crate::settings::KeyStoreSettings;

/// Reads the one section of both that is there.
pub fn aws(raw: RawAws, cache: &CacheConfig, places: &Places) -> Result<KeyStoreSettings, Problem> {
    match (raw.kms, raw.secretsmanager) {
        (Some(raw), None) => Ok(KeyStoreSettings::AwsKms(Box::new(kms(raw, cache, places)?))),
        (None, Some(raw)) => Ok(KeyStoreSettings::AwsSecrets(Box::new(secrets(raw, places)?))),
        (Some(_), Some(_)) => {
            let kms = path("keystore.aws.kms");
            let message =
                format!("two key stores, expected one: {} is at {}", places.name(&kms), places.of(&kms));
            Err(places.problem(&path("keystore.aws.secretsmanager"), message))
        }
        (None, None) => {
            let message = "empty, expected keystore.aws.kms or keystore.aws.secretsmanager";
            Err(places.problem(&path("keystore.aws"), message))
        }
    }
}

/// Reads `keystore.aws.kms`; how long an answer of AWS is believed is told by the cache's settings.
fn kms(raw: RawAwsKms, cache: &CacheConfig, places: &Places) -> Result<AwsConfig, Problem> {
    let RawAwsKms { endpoint, region, prefix, credentials: keys, reuse, deletion_window } = raw;
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
    config.validate().map_err(|error| refused(&error, "keystore.aws.kms", places))?;
    Ok(config)
}

/// Reads how AWS is reached, and who asks.
pub fn connection(
    endpoint: Option<String>,
    region: Option<String>,
    keys: RawAwsCredentials,
) -> AwsConnection {
    AwsConnection { endpoint: given(endpoint), region: given(region), credentials: credentials(keys) }
}

/// Reads `keystore.aws.secretsmanager`, as KES has it.
fn secrets(raw: RawAwsSecrets, places: &Places) -> Result<SecretsConfig, Problem> {
    let key = |name: &str| path(&format!("keystore.aws.secretsmanager{name}"));
    let RawAwsSecrets { endpoint, region, kmskey, credentials: keys, recovery_window } = raw;
    // KES's configs name the host alone.
    let endpoint = given(endpoint)
        .map(|endpoint| if endpoint.contains("://") { endpoint } else { format!("https://{endpoint}") });
    let default = SecretsConfig::new(connection(endpoint, region, keys));
    let recovery_window = recovery_window.unwrap_or(default.recovery_window);
    if !SecretsConfig::is_recovery_window(recovery_window) {
        let message =
            format!("{recovery_window} is not possible, expected {}", SecretsConfig::RECOVERY_WINDOW);
        return Err(places.problem(&key(".recovery_window"), message));
    }
    let config = SecretsConfig { kms_key: given(kmskey), recovery_window, ..default };
    config.validate().map_err(|error| refused(&error, "keystore.aws.secretsmanager", places))?;
    Ok(config)
}

/// Names the setting of a section that cannot be used.
pub fn refused(error: &Error, section: &str, places: &Places) -> Problem {
    match InvalidSetting::under(error) {
        Some(InvalidSetting { field, why }) => places.problem(&path(&format!("{section}.{field}")), why),
        None => places.problem(&path(section), error.chain().to_string()),
    }
}

/// Takes an empty text, such as that of a variable that is not set, for none.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// Reads an access key; none is the SDK's default chain.
fn credentials(raw: RawAwsCredentials) -> Option<Credentials> {
    let [access_key, secret_key, token] = [raw.accesskey, raw.secretkey, raw.token].map(given);
    if access_key.is_none() && secret_key.is_none() && token.is_none() {
        return None;
    }
    Some(Credentials {
        access_key: access_key.unwrap_or_default(),
        secret_key: secret_key.unwrap_or_default().into(),
        token: token.map(Into::into),
    })
}
