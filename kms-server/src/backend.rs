//! From the settings of a key store to a running key management service.

use std::path::Path;
use std::sync::Arc;

use kms_core::{KeyRing, Kms, MemoryStore};
use kms_fs::{FsConfig, OpenError, OpenMode};

use crate::config::settings::{KeyStoreSettings, RootKeySource, Settings};
use crate::server::StartError;

/// Opens the key store that `settings` names, with the cache in front of it.
///
/// Needs a tokio runtime, on which the cache does its background work.
pub fn open(settings: &Settings) -> Result<Arc<dyn Kms>, StartError> {
    match &settings.key_store {
        KeyStoreSettings::Memory => {
            tracing::warn!("the key store is in memory: every key dies with this process");
            Ok(Arc::new(KeyRing::new(MemoryStore::new(), settings.cache)))
        }
        KeyStoreSettings::Fs { path, root_key } => {
            let loaded = root_key.load()?;
            for warning in &loaded.warnings {
                tracing::warn!("{warning}");
            }
            let opened = kms_fs::open(&FsConfig::new(path), &loaded.key, OpenMode::CreateOrOpen)?;
            if let RootKeySource::File(file) = root_key
                && lies_in(file, path)
            {
                let (file, path) = (file.display(), path.display());
                tracing::warn!(
                    "root key {file} lies inside the store {path}: whoever copies the store can read it"
                );
            }
            Ok(Arc::new(KeyRing::new(opened.store, settings.cache)))
        }
    }
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        Self::new(error.to_string())
    }
}

fn lies_in(file: &Path, directory: &Path) -> bool {
    match (file.canonicalize(), directory.canonicalize()) {
        (Ok(file), Ok(directory)) => file.starts_with(directory),
        _ => false,
    }
}
