//! Opens the configured key store without a cache, for a command that works on plain records.

use std::path::Path;
use std::sync::Arc;

use kms_aws::SecretsManager;
use kms_core::ListQuery;
use kms_core::store::{KeyStore, MemoryStore, Wrapped};
use kms_fs::{OpenError, OpenMode};

use super::{embedded, kes_directory, refuse_other_root, roots};
use crate::error::StartError;
use crate::settings::{KeyStoreSettings, RootKeySource};

/// What a command does with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It reads keys. No store is made, and KES's key files are not imported.
    Read,
    /// It looks whether it could write keys. A store that is not there yet, and would be made, counts as empty.
    Look,
    /// It writes keys. A store that is not there yet is made as the start of a server makes it.
    Write,
}

/// Opens the key store that `settings` name, as a store of plain records.
///
/// Warnings are logged. Needs a tokio runtime, on which some stores do their background work.
///
/// # Errors
///
/// - The store is one whose records never leave it: AWS KMS and memory.
/// - The embedded store is open in another process. The message names it, and says that it has to be stopped.
/// - There is no store, and the purpose is to read, or nothing says that one may be made.
/// - Each other reason for which a server with these settings would not start.
pub async fn open(settings: &KeyStoreSettings, purpose: Purpose) -> Result<Arc<dyn KeyStore>, StartError> {
    open_any(settings, purpose).await.map_err(|error| {
        let source = std::error::Error::source(&error);
        let is_in_use = source
            .and_then(|source| source.downcast_ref::<OpenError>())
            .is_some_and(|error| matches!(error, OpenError::InUse { .. }));
        if !is_in_use {
            return error;
        }
        let line =
            format!("{error}: stop its server first, since only one process at a time can open this store");
        error.with_line(line)
    })
}

async fn open_any(settings: &KeyStoreSettings, purpose: Purpose) -> Result<Arc<dyn KeyStore>, StartError> {
    let of = |section: &'static str| move |error: kms_core::Error| StartError::of_section(section, &error);
    Ok(match settings {
        KeyStoreSettings::Fs { path, root_key, create } => {
            embedded::refuse_no_directory(path)?;
            match purpose {
                Purpose::Write => Arc::new(embedded::open(path, root_key, *create)?.store),
                Purpose::Look if is_to_be_made(path, root_key, *create)? => Arc::new(MemoryStore::new()),
                Purpose::Read | Purpose::Look => match embedded::open_existing(path, root_key)? {
                    Some(opened) => Arc::new(opened.store),
                    None => return Err(missing(root_key, path)),
                },
            }
        }
        KeyStoreSettings::KesDirectory { path, root_key, create } => {
            embedded::refuse_no_directory(path)?;
            match purpose {
                Purpose::Look if !path.exists() => Arc::new(MemoryStore::new()),
                Purpose::Read | Purpose::Look => {
                    Arc::new(kes_directory::open_unchanged(path, root_key.as_ref()).await?)
                }
                Purpose::Write => Arc::new(kes_directory::open(path, root_key.as_ref(), *create).await?),
            }
        }
        KeyStoreSettings::Vault(config) => {
            kms_vault::open((**config).clone()).map_err(of("keystore.vault"))?
        }
        KeyStoreSettings::AwsSecrets(config) => {
            let store = SecretsManager::open((**config).clone()).await;
            Arc::new(store.map_err(of("keystore.aws.secretsmanager"))?)
        }
        KeyStoreSettings::Wrapped { .. } | KeyStoreSettings::FsWithRoots { .. } => {
            return with_roots(settings, purpose).await;
        }
        KeyStoreSettings::AwsKms(_) => {
            let why = "keystore.aws.kms: its keys never leave AWS KMS, so they cannot be read or written as records";
            return Err(StartError::new(why));
        }
        KeyStoreSettings::Memory => {
            let why =
                "keystore.memory: its keys die with their process, so there is nothing to read or to keep";
            return Err(StartError::new(why));
        }
        KeyStoreSettings::Salvage(_) => {
            return Err(StartError::new("a store that is opened with --salvage is only served"));
        }
    })
}

/// Opens a store with roots. Whoever only reads or looks gives it no store key, and writes no entry of a root.
async fn with_roots(settings: &KeyStoreSettings, purpose: Purpose) -> Result<Arc<dyn KeyStore>, StartError> {
    let mode = if purpose == Purpose::Write { OpenMode::CreateOrOpen } else { OpenMode::Existing };
    let prepared = match roots::prepare(settings, mode).await {
        Err(error) if purpose == Purpose::Look && is_of_no_store(&error) => {
            return Ok(Arc::new(MemoryStore::new()));
        }
        prepared => prepared?.ok_or_else(|| StartError::new("the key store has no roots"))?,
    };
    if purpose == Purpose::Write {
        let store = prepared.open().await?;
        if !store.is_open() {
            // It answers with the reason.
            store
                .list(&ListQuery { limit: 1, ..ListQuery::prefix("") })
                .await
                .map_err(|error| roots::of_roots(&error))?;
        }
        if !store.has_key() {
            refuse_other_root(&store).await?;
        }
        return Ok(store);
    }
    prepared.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    if purpose == Purpose::Look && prepared.is_to_be_made().await? {
        return Ok(Arc::new(MemoryStore::new()));
    }
    let wrapper = prepared.roots.peek().await.map_err(|error| roots::of_roots(&error))?;
    let store = Wrapped::new(prepared.roots.store(), wrapper);
    refuse_other_root(&store).await?;
    Ok(Arc::new(store))
}

fn is_of_no_store(error: &StartError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<OpenError>());
    source.is_some_and(|error| matches!(error, OpenError::NoStore { .. }))
}

/// Returns whether a server would make a new store at its start.
fn is_to_be_made(path: &Path, root_key: &RootKeySource, create: bool) -> Result<bool, StartError> {
    let RootKeySource::File(file) = root_key else {
        root_key.load()?;
        return Ok(embedded::open_existing(path, root_key)?.is_none());
    };
    Ok(create && !kms_fs::look(path, file)?.store)
}

/// Returns the error of a store that is to be read and is not there.
fn missing(root_key: &RootKeySource, path: &Path) -> StartError {
    match root_key {
        RootKeySource::File(file) => StartError::new(format!(
            "{}: there is no root key, and no store in {}: is the volume mounted?",
            file.display(),
            path.display()
        )),
        RootKeySource::Credential(_) | RootKeySource::Environment(_) => {
            OpenError::NoStore { path: path.to_owned() }.into()
        }
    }
}
