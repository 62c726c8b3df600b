//! The sections `keystore.aws.kms` and `keystore.aws.secretsmanager`.

use kms_aws::{AwsConfig, AwsConnection, Credentials, Reuse, SecretsConfig};
use kms_core::store::InvalidSetting;
use kms_core::{CacheConfig, Error};

use super::super::problem::Problem;
use super::super::schema::{RawAws, RawAwsCredentials, RawAwsKms, RawAwsSecrets};
use super::context::{Context, given};
use crate::settings::KeyStoreSettings;

/// Checks the section that is there. Both at once are an error.
pub fn aws(raw: RawAws, cache: &CacheConfig, context: &Context<'_>) -> Result<KeyStoreSettings, Problem> {
    match (raw.kms, raw.secretsmanager) {
        (Some(raw), None) => Ok(KeyStoreSettings::AwsKms(Box::new(kms(raw, cache, context)?))),
        (None, Some(raw)) => Ok(KeyStoreSettings::AwsSecrets(Box::new(secrets(raw, context)?))),
        (Some(_), Some(_)) => {
            let kms = "keystore.aws.kms";
            let (name, place) = (context.layers.name_of(kms), context.layers.place_of(kms));
            let message = format!("two key stores, expected one: {name} is at {place}");
            Err(context.problem("keystore.aws.secretsmanager", message))
        }
        (None, None) => {
            let message = "empty, expected keystore.aws.kms or keystore.aws.secretsmanager";
            Err(context.problem("keystore.aws", message))
        }
    }
}

/// Checks `keystore.aws.kms`. The settings of the cache decide how long an answer of AWS is believed.
fn kms(raw: RawAwsKms, cache: &CacheConfig, context: &Context<'_>) -> Result<AwsConfig, Problem> {
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
    config.validate().map_err(|error| refused(&error, "keystore.aws.kms", context))?;
    Ok(config)
}

/// Returns how AWS is reached, and with which credentials.
pub fn connection(
    endpoint: Option<String>,
    region: Option<String>,
    keys: RawAwsCredentials,
) -> AwsConnection {
    AwsConnection { endpoint: given(endpoint), region: given(region), credentials: credentials(keys) }
}

/// Checks `keystore.aws.secretsmanager`, which KES has, too.
fn secrets(raw: RawAwsSecrets, context: &Context<'_>) -> Result<SecretsConfig, Problem> {
    let RawAwsSecrets { endpoint, region, kmskey, credentials: keys, recovery_window } = raw;
    // Configs for KES name the host only.
    let endpoint = given(endpoint)
        .map(|endpoint| if endpoint.contains("://") { endpoint } else { format!("https://{endpoint}") });
    let default = SecretsConfig::new(connection(endpoint, region, keys));
    let recovery_window = recovery_window.unwrap_or(default.recovery_window);
    if !SecretsConfig::is_recovery_window(recovery_window) {
        let message =
            format!("{recovery_window} is not possible, expected {}", SecretsConfig::RECOVERY_WINDOW);
        return Err(context.problem("keystore.aws.secretsmanager.recovery_window", message));
    }
    let config = SecretsConfig { kms_key: given(kmskey), recovery_window, ..default };
    config.validate().map_err(|error| refused(&error, "keystore.aws.secretsmanager", context))?;
    Ok(config)
}

/// Creates the problem of a section that its backend refuses, with the key of the setting at fault if it is known.
pub fn refused(error: &Error, section: &str, context: &Context<'_>) -> Problem {
    match InvalidSetting::under(error) {
        Some(InvalidSetting { field, why }) => context.problem(&format!("{section}.{field}"), why),
        None => context.problem(section, error.chain().to_string()),
    }
}

/// Returns the access key. Without one the SDK follows its default chain.
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
