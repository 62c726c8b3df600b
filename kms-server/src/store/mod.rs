//! Opens the configured key store as a running key management service.

pub mod embedded;
pub mod inventory;
pub mod kes_directory;
pub mod plain;
pub mod roots;
pub mod roots_opened;
pub mod rotations;
pub mod wanted_keys;

use std::sync::Arc;
use std::time::Duration;

use kms_aws::{AwsKms, SecretsManager};
use kms_core::store::{EntryName, KeyStore, MemoryStore, Wrapped};
use kms_core::{ErrorKind, KeyRing, Kms, ListQuery};
use kms_fs::{FsConfig, OpenError, OpenMode};

use crate::error::StartError;
use crate::escrow::{self, Figures};
use crate::host::process;
use crate::settings::{BareStore, EscrowSettings, KeyStoreSettings, RootKeySource, Settings};

/// An open key store with the cache in front of it.
pub struct Opened {
    pub kms: Arc<dyn Kms>,
    /// The figures of the escrow file, if there is one.
    pub escrow: Option<Figures>,
}

/// Opens the key store that `settings` name, with the cache in front of it, and the escrow file between the two.
///
/// Needs a tokio runtime, on which the cache does its background work.
pub async fn open(settings: &Settings) -> Result<Opened, StartError> {
    match &settings.key_store {
        KeyStoreSettings::Memory => {
            tracing::warn!("the key store is in memory: every key dies with this process");
            elsewhere(Arc::new(MemoryStore::new()), settings)
        }
        KeyStoreSettings::Fs { path, root_key, create } => {
            embedded::refuse_no_directory(path)?;
            let opened = embedded::open(path, root_key, *create)?;
            if !matches!(root_key, RootKeySource::File(_)) {
                embedded::warn_if_empty(path, opened.keys);
            }
            local(opened.store, settings, settings.escrow.as_ref())
        }
        KeyStoreSettings::KesDirectory { path, root_key, create } => {
            embedded::refuse_no_directory(path)?;
            let store = kes_directory::open(path, root_key.as_ref(), *create).await?;
            local(store, settings, settings.escrow.as_ref())
        }
        KeyStoreSettings::Salvage(key_store) => salvage(key_store, settings).await,
        KeyStoreSettings::AwsKms(config) => {
            let kms = AwsKms::open((**config).clone()).await.map_err(of("keystore.aws.kms"))?;
            Ok(Opened { kms: Arc::new(kms), escrow: None })
        }
        KeyStoreSettings::AwsSecrets(config) => {
            let store = SecretsManager::open((**config).clone()).await;
            let store = store.map_err(of("keystore.aws.secretsmanager"))?;
            elsewhere(Arc::new(store), settings)
        }
        KeyStoreSettings::Vault(config) => {
            let store = kms_vault::open((**config).clone()).map_err(of(VAULT))?;
            elsewhere(store, settings)
        }
        KeyStoreSettings::Wrapped { .. } | KeyStoreSettings::FsWithRoots { .. } => {
            let prepared = roots::prepare(&settings.key_store, OpenMode::CreateOrOpen).await?;
            let prepared = prepared.ok_or_else(|| StartError::new("the key store has no roots"))?;
            let store = prepared.open().await?;
            if store.is_open() && !store.has_key() {
                refuse_other_root(&store).await?;
            }
            match settings.key_store {
                KeyStoreSettings::FsWithRoots { .. } => local(store, settings, settings.escrow.as_ref()),
                _ => elsewhere(store, settings),
            }
        }
    }
}

/// The kind of store is known only at run time here, so that the binary has the key ring once.
type Ring = KeyRing<Arc<dyn KeyStore>>;

/// Puts the cache in front of a store, and the escrow file between the two.
fn ring(
    store: Arc<dyn KeyStore>,
    settings: &Settings,
    escrow: Option<&EscrowSettings>,
) -> Result<(Ring, Option<Figures>), StartError> {
    let (store, figures) = match escrow {
        None => (store, None),
        Some(escrow) => {
            let (store, figures) = escrow::open(escrow, store)?;
            (store as Arc<dyn KeyStore>, Some(figures))
        }
    };
    Ok((KeyRing::keeping_deleted(store, settings.cache, settings.grace), figures))
}

/// Puts the cache in front of a store that is not local.
fn elsewhere(store: Arc<dyn KeyStore>, settings: &Settings) -> Result<Opened, StartError> {
    let (ring, escrow) = ring(store, settings, settings.escrow.as_ref())?;
    Ok(Opened { kms: Arc::new(ring), escrow })
}

/// The section of a Vault that stores the keys.
const VAULT: &str = "keystore.vault";

/// Returns a function that adds `section` to an error.
fn of(section: &str) -> impl Fn(kms_core::Error) -> StartError {
    move |error| StartError::of_section(section, &error)
}

/// How long after the start all keys of a local store are checked.
const CHECK_AFTER: Duration = Duration::from_millis(300);

/// Puts the cache in front of a local store, and reads all its keys in the background.
///
/// So an unusable key is reported before a client needs it.
fn local(
    store: impl KeyStore,
    settings: &Settings,
    escrow: Option<&EscrowSettings>,
) -> Result<Opened, StartError> {
    let (ring, escrow) = ring(Arc::new(store), settings, escrow)?;
    let ring = Arc::new(ring);
    let checked = Arc::downgrade(&ring);
    tokio::spawn(async move {
        // The first clients have waited for the start, and do not wait for this too.
        tokio::time::sleep(CHECK_AFTER).await;
        let Some(ring) = checked.upgrade() else { return };
        if let Err(error) = ring.check_all().await {
            tracing::error!(cause = error.as_dyn(), "the keys could not be looked through");
        }
        // The start and the look have read every key, and freed most of what they took for that.
        let _ = tokio::task::spawn_blocking(process::return_freed_memory).await;
    });
    Ok(Opened { kms: ring, escrow })
}

/// Opens a local store read-only, with whatever can be read of it.
async fn salvage(key_store: &KeyStoreSettings, settings: &Settings) -> Result<Opened, StartError> {
    // Nothing is created, so nothing is put into escrow.
    let (path, root_key) = match key_store {
        KeyStoreSettings::Fs { path, root_key, .. } => (path.clone(), root_key.clone()),
        KeyStoreSettings::KesDirectory { path, root_key, .. } => {
            let root_key = match root_key {
                Some(root_key) => root_key.clone(),
                None => RootKeySource::File(kes_directory::root_key_in_force(path)?),
            };
            (kes_directory::store_path(path), root_key)
        }
        KeyStoreSettings::Wrapped { store: BareStore::Fs(_), .. } | KeyStoreSettings::FsWithRoots { .. } => {
            let prepared = roots::prepare(key_store, OpenMode::Salvage).await?;
            let prepared = prepared.ok_or_else(|| StartError::new("the key store has no roots"))?;
            prepared.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            let store: Arc<dyn KeyStore> = match &prepared.local {
                Some(local) => Arc::clone(&local.store) as _,
                None => return Err(StartError::new("--salvage is for a local key store")),
            };
            let wrapper = prepared.roots.peek().await.map_err(|error| roots::of_roots(&error))?;
            return local(Wrapped::new(store, wrapper), settings, None);
        }
        _ => return Err(StartError::new("--salvage is for a local key store; this one is elsewhere")),
    };
    let opened = kms_fs::open(&FsConfig::new(path), &root_key.load()?.key, OpenMode::Salvage)?;
    opened.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    for name in &opened.illegible {
        tracing::error!(key = name, "key cannot be read");
    }
    local(opened.store, settings, None)
}

/// Reads a few records, so that a server with another store's root key does not start.
///
/// One readable record is enough: then the others are damaged. If the root key or the store cannot be reached, nothing is
/// known, and the first use of a key decides.
async fn refuse_other_root(store: &impl KeyStore) -> Result<(), StartError> {
    const TRIED: usize = 16;
    let names = match store.list(&ListQuery { limit: TRIED, ..ListQuery::prefix("") }).await {
        Ok(page) => page.names,
        Err(_) => Vec::new(),
    };
    let mut refused = None;
    for name in names {
        match store.get(&EntryName::from(&name)).await {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Corrupt => drop(refused.get_or_insert(error)),
            Err(error) => {
                tracing::warn!(
                    "whether the root key under [kms] is that of the key store is not known: {}",
                    error.chain()
                );
                return Ok(());
            }
        }
    }
    match refused {
        Some(error) => {
            let line = format!("the root key under [kms] is not that of the key store: {}", error.chain());
            Err(StartError::with_source(line, error))
        }
        None => Ok(()),
    }
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        Self::of(error)
    }
}
