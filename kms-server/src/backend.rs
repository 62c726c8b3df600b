//! From the settings of a key store to a running key management service.

use std::sync::Arc;

use kms_aws::AwsKms;
use kms_core::{KeyRing, Kms, MemoryStore};
use kms_fs::{FsConfig, OpenError, OpenMode};

use crate::config::settings::{KeyStoreSettings, Settings};
use crate::kes_directory;
use crate::server::StartError;

/// Opens the key store that `settings` names, with the cache in front of it.
///
/// Needs a tokio runtime, on which the cache does its background work.
pub async fn open(settings: &Settings) -> Result<Arc<dyn Kms>, StartError> {
    match &settings.key_store {
        KeyStoreSettings::Memory => {
            tracing::warn!("the key store is in memory: every key dies with this process");
            Ok(Arc::new(KeyRing::new(MemoryStore::new(), settings.cache)))
        }
        KeyStoreSettings::Fs { path, root_key } => {
            let loaded = root_key.load()?;
            let opened = kms_fs::open(&FsConfig::new(path), &loaded.key, OpenMode::CreateOrOpen)?;
            for warning in loaded.warnings.iter().chain(&opened.warnings) {
                tracing::warn!("{warning}");
            }
            if opened.is_new {
                tracing::warn!(path = %path.display(), "there was no key store in this directory: a new one was made");
            }
            Ok(Arc::new(KeyRing::new(opened.store, settings.cache)))
        }
        KeyStoreSettings::KesDirectory { path, root_key } => {
            let store = kes_directory::open(path, root_key.as_ref()).await?;
            Ok(Arc::new(KeyRing::new(store, settings.cache)))
        }
        KeyStoreSettings::AwsKms(config) => Ok(Arc::new(AwsKms::open((**config).clone()).await?)),
        KeyStoreSettings::Vault(config) => {
            Ok(Arc::new(KeyRing::new(kms_vault::open((**config).clone())?, settings.cache)))
        }
    }
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        Self::new(error.to_string())
    }
}
