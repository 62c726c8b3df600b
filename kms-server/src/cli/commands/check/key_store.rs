//! Checks that the key store opens, and that it keeps entries.

use kms_core::store::{Finding, Level};
use std::time::Duration;

use kms_aws::{AwsKms, SecretsManager};
use kms_core::store::{Wrapped, survey, survey_kms};
use kms_fs::{FsConfig, OpenMode};
use kms_vault::VaultConfig;

use super::local_store::{NOT_LOOKED_INTO, check_fs, check_kes_directory, not_opened};
use super::probe::{SUBJECT, exercised, surveyed, wraps};
use crate::error::StartError;
use crate::settings::{BareStore, KeyStoreSettings, OuterKms};
use crate::store::{self, embedded};

/// The time limit for one key, where another machine does the work.
const KEY_PATIENCE: Duration = Duration::from_secs(15);

/// Checks the key store of the config. With `all`, each of its keys is checked.
pub async fn check(settings: &KeyStoreSettings, all: bool) -> Vec<Finding> {
    let mut findings = look(settings).await;
    if all {
        findings.extend(check_all(settings).await);
    }
    if all && let Some(in_use) = findings.iter().find(|finding| finding.detail.contains(NOT_LOOKED_INTO)) {
        findings.push(Finding::problem(SUBJECT, format!("--all: {}; stop the server first", in_use.detail)));
    }
    findings
}

/// Reads each key of a remote backend. The keys of a local store have been read in any case.
async fn check_all(settings: &KeyStoreSettings) -> Vec<Finding> {
    let (name, survey) = match settings {
        KeyStoreSettings::Vault(config) => match kms_vault::open((**config).clone()) {
            Ok(store) => ("vault", survey(store.as_ref()).await),
            Err(error) => ("vault", Err(error)),
        },
        KeyStoreSettings::AwsSecrets(config) => match SecretsManager::open((**config).clone()).await {
            Ok(store) => ("aws", survey(&store).await),
            Err(error) => ("aws", Err(error)),
        },
        KeyStoreSettings::AwsKms(config) => match AwsKms::open((**config).clone()).await {
            Ok(kms) => ("aws", survey_kms(&kms, KEY_PATIENCE).await),
            Err(error) => ("aws", Err(error)),
        },
        _ => return Vec::new(),
    };
    match survey {
        Ok(survey) => surveyed(name, &survey),
        Err(error) => vec![Finding::problem(SUBJECT, format!("{name}: {}", error.chain()))],
    }
}

async fn look(settings: &KeyStoreSettings) -> Vec<Finding> {
    if let Err(error) = refuse_at_once(settings) {
        return vec![Finding::problem(SUBJECT, error.to_string())];
    }
    match settings {
        KeyStoreSettings::Salvage(_) => vec![Finding::good(SUBJECT, "salvaged: nothing to check")],
        KeyStoreSettings::Memory => vec![Finding::good(SUBJECT, "memory: nothing to check")],
        KeyStoreSettings::Fs { path, root_key, create } => check_fs(path, root_key, *create).await,
        KeyStoreSettings::KesDirectory { path, root_key, create } => {
            check_kes_directory(path, root_key.as_ref(), *create).await
        }
        KeyStoreSettings::Wrapped { store, kms } => check_wrapped(store, kms).await,
        KeyStoreSettings::AwsKms(config) => kms_aws::check((**config).clone())
            .await
            .iter()
            .map(|finding| of_backend("aws", finding))
            .collect(),
        KeyStoreSettings::AwsSecrets(config) => kms_aws::check_secrets((**config).clone())
            .await
            .iter()
            .map(|finding| of_backend("aws", finding))
            .collect(),
        KeyStoreSettings::Vault(config) => kms_vault::check((**config).clone())
            .await
            .iter()
            .map(|finding| of_backend("vault", finding))
            .collect(),
    }
}

/// Refuses a key store that a server refuses at its start before it opens one.
fn refuse_at_once(settings: &KeyStoreSettings) -> Result<(), StartError> {
    let files = |config: &VaultConfig, section| {
        config.tls.check().map_err(|error| StartError::of_section(section, &error))
    };
    match settings {
        KeyStoreSettings::Fs { path, .. } | KeyStoreSettings::KesDirectory { path, .. } => {
            embedded::refuse_no_directory(path)
        }
        KeyStoreSettings::Vault(config) => files(config, "keystore.vault"),
        KeyStoreSettings::Wrapped { store, kms } => {
            match store {
                BareStore::Fs(path) => embedded::refuse_no_directory(path)?,
                BareStore::Vault(config) => files(config, "keystore.vault")?,
            }
            if let OuterKms::Vault(config) = kms { files(config, "kms.vault") } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// Converts a finding of a backend into one of the key store.
fn of_backend(backend: &str, finding: &Finding) -> Finding {
    Finding::new(finding.level, SUBJECT, format!("{backend}: {finding}"))
}

/// Checks a root key that lives elsewhere, and then the records that are encrypted under it.
async fn check_wrapped(store: &BareStore, kms: &OuterKms) -> Vec<Finding> {
    let holder = match kms {
        OuterKms::Aws(config) => format!("root key '{}' in AWS KMS", config.key),
        OuterKms::Vault(config) => format!("root key in the transit engine of {}", config.endpoint),
    };
    let wrapper = match store::open_outer(kms).await {
        Ok(wrapper) => wrapper,
        Err(error) => return vec![Finding::problem(SUBJECT, format!("{holder}: {}", error.chain()))],
    };
    if let Err(message) = wraps(wrapper.as_ref()).await {
        return vec![Finding::problem(SUBJECT, format!("{holder}: {message}"))];
    }
    let mut findings = vec![Finding::good(SUBJECT, format!("{holder}: wraps and unwraps"))];
    match store {
        BareStore::Fs(path) => {
            findings.extend(match kms_fs::open_bare(&FsConfig::new(path), OpenMode::Existing) {
                Ok(opened) => exercised(path, &Wrapped::new(opened.store, wrapper)).await,
                Err(error) => vec![not_opened(path, &error)],
            });
        }
        BareStore::Vault(config) => {
            findings.extend(
                kms_vault::check((**config).clone()).await.iter().map(|finding| of_backend("vault", finding)),
            );
            if !findings.iter().any(|finding| finding.level == Level::Problem) {
                let read = match kms_vault::open((**config).clone()) {
                    Ok(store) => survey(&Wrapped::new(store, wrapper)).await,
                    Err(error) => Err(error),
                };
                match read {
                    Ok(survey) => findings.extend(surveyed("vault", &survey)),
                    Err(error) => {
                        findings.push(Finding::problem(SUBJECT, format!("vault: {}", error.chain())));
                    }
                }
            }
        }
    }
    findings
}
