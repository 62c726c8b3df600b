//! Checks that the key store opens, and that it keeps entries.

use std::time::Duration;

use kms_aws::{AwsKms, SecretsManager};
use kms_core::store::{Finding, KeyStore as _, Level, cut_off_replacements, survey, survey_kms};
use kms_vault::VaultConfig;

use super::local_store::{NOT_LOOKED_INTO, check_fs, check_kes_directory};
use super::probe::{SUBJECT, cut_off, surveyed};
use super::roots::check_roots;
use crate::error::StartError;
use crate::settings::{BareStore, KeyStoreSettings, OuterKms, RootSettings};
use crate::store::embedded;
use crate::store::plain::{self, Purpose};

/// The time limit for one key, where another machine does the work.
const KEY_PATIENCE: Duration = Duration::from_secs(15);

/// Checks the key store of the config. With `all`, each of its keys is checked.
pub async fn check(settings: &KeyStoreSettings, all: bool) -> Vec<Finding> {
    let mut findings = look(settings).await;
    if all {
        findings.extend(check_all(settings).await);
    } else if findings.iter().all(|finding| finding.level != Level::Problem) {
        findings.extend(check_replacements(settings).await);
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

/// Finds replacements of keys that were cut off in a remote store. Those of a local one have been found in any case.
async fn check_replacements(settings: &KeyStoreSettings) -> Vec<Finding> {
    if !matches!(settings, KeyStoreSettings::Vault(_) | KeyStoreSettings::AwsSecrets(_)) {
        return Vec::new();
    }
    // It was opened a moment ago, and what ails it was told then.
    let Ok(store) = plain::open(settings, Purpose::Read).await else { return Vec::new() };
    let found = cut_off_replacements(&store).await.unwrap_or_default();
    found.iter().map(|name| cut_off(store.capabilities().name, name)).collect()
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
        KeyStoreSettings::Wrapped { .. } | KeyStoreSettings::FsWithRoots { .. } => {
            check_roots(settings).await
        }
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
    let files = |config: &VaultConfig, section: &str| {
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
                BareStore::Postgres(config) => {
                    config
                        .tls
                        .check()
                        .map_err(|error| StartError::of_section("keystore.postgres", &error))?;
                }
            }
            check_files(kms, &files)
        }
        KeyStoreSettings::FsWithRoots { path, kms, .. } => {
            embedded::refuse_no_directory(path)?;
            check_files(kms, &files)
        }
        _ => Ok(()),
    }
}

/// Checks the TLS files of each root in a Vault.
fn check_files(
    kms: &[RootSettings],
    files: &dyn Fn(&VaultConfig, &str) -> Result<(), StartError>,
) -> Result<(), StartError> {
    for RootSettings { section, kms, .. } in kms {
        if let OuterKms::Vault(config) = kms {
            files(config, section)?;
        }
    }
    Ok(())
}

/// Converts a finding of a backend into one of the key store.
fn of_backend(backend: &str, finding: &Finding) -> Finding {
    Finding::new(finding.level, SUBJECT, format!("{backend}: {finding}"))
}
