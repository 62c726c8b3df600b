//! From the settings of a key store to a running key management service.

use std::sync::Arc;

use kms_aws::{AwsKms, AwsWrapper, SecretsManager};
use kms_core::{EntryName, ErrorKind, KeyRing, KeyStore, Kms, ListQuery, MemoryStore, Wrapped, Wrapper};
use kms_fs::{FsConfig, OpenError, OpenMode};
use kms_vault::Transit;

use crate::config::settings::{BareStore, KeyStoreSettings, OuterKms, Settings};
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
        KeyStoreSettings::AwsSecrets(config) => {
            let store = SecretsManager::open((**config).clone()).await?;
            Ok(Arc::new(KeyRing::new(store, settings.cache)))
        }
        KeyStoreSettings::Vault(config) => {
            Ok(Arc::new(KeyRing::new(kms_vault::open((**config).clone())?, settings.cache)))
        }
        KeyStoreSettings::Wrapped { store, kms } => {
            let store = Wrapped::new(open_bare(store)?, open_outer(kms).await?);
            refuse_other_root(&store).await?;
            Ok(Arc::new(KeyRing::new(store, settings.cache)))
        }
    }
}

/// Opens the holder of a root key; whether it is there shows at the first use.
pub async fn open_outer(kms: &OuterKms) -> kms_core::Result<Arc<dyn Wrapper>> {
    Ok(match kms {
        OuterKms::Aws(config) => Arc::new(AwsWrapper::open((**config).clone()).await?),
        OuterKms::Vault(config) => Arc::new(Transit::bound(config)?),
    })
}

fn open_bare(store: &BareStore) -> Result<Arc<dyn KeyStore>, StartError> {
    Ok(match store {
        BareStore::Fs(path) => {
            let opened = kms_fs::open_bare(&FsConfig::new(path), OpenMode::CreateOrOpen)?;
            if opened.is_new {
                tracing::warn!(path = %path.display(), "there was no key store in this directory: a new one was made");
            }
            Arc::new(opened.store)
        }
        BareStore::Vault(config) => kms_vault::open((**config).clone())?,
    })
}

/// Reads one record, so that a server with another root key than that of its store does not start.
///
/// A root key, or a store, that is away says nothing of that; it is tried when a key is used.
async fn refuse_other_root(store: &impl KeyStore) -> Result<(), StartError> {
    let first = match store.list(&ListQuery { limit: 1, ..ListQuery::prefix("") }).await {
        Ok(page) => page.names.into_iter().next(),
        Err(_) => None,
    };
    let Some(name) = first else { return Ok(()) };
    match store.get(&EntryName::from(&name)).await {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            let why = error.chain();
            Err(StartError::new(format!("the root key under [kms] is not that of the key store: {why}")))
        }
        Err(error) => {
            tracing::warn!(
                "whether the root key under [kms] is that of the key store is not known: {}",
                error.chain()
            );
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        Self::new(error.to_string())
    }
}
