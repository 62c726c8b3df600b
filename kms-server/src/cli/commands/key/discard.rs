//! `kms key discard`: discards a key of a local store that cannot be read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kms_core::store::{EntryName, KeyRecord, KeyStore, Wrapped};
use kms_core::{ErrorKind, KeyName};
use kms_fs::{FsConfig, OpenMode, SledStore};
use serde_json::json;

use super::input::confirm;
use crate::cli::failure::Failure;
use crate::cli::output::{Output, note};
use crate::config::{self, Environment};
use crate::settings::{BareStore, KeyStoreSettings, RootKeySource};
use crate::store::{kes_directory, roots};

/// The warning before and after a key is discarded.
const LOST: &str = "everything that was encrypted under it is lost";

#[derive(clap::Args)]
pub struct DiscardArgs {
    /// The name of the key.
    #[arg(required_unless_present = "unnamed", conflicts_with = "unnamed")]
    name: Option<String>,
    /// Discard the lost keys whose names are unknown, so that the store takes writes again.
    #[arg(long)]
    unnamed: bool,
    /// The config file of the server, which must not run.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// A local store, and its root key.
enum Local {
    RootKey(PathBuf, RootKeySource),
    Roots(PathBuf, KeyStoreSettings),
}

/// Discards a key, or all lost keys without a name. The user has to confirm it.
pub fn run(args: &DiscardArgs, environment: &Environment) -> Result<(), Failure> {
    let settings = config::load(&args.config, environment)?.settings;
    let local = match settings.key_store {
        KeyStoreSettings::Fs { path, root_key, .. } => Local::RootKey(path, root_key),
        KeyStoreSettings::KesDirectory { path, root_key, .. } => {
            let root_key = match root_key {
                Some(root_key) => root_key,
                None => RootKeySource::File(kes_directory::root_key_in_force(&path)?),
            };
            Local::RootKey(kes_directory::store_path(&path), root_key)
        }
        KeyStoreSettings::Wrapped { store: BareStore::Fs(ref path), .. }
        | KeyStoreSettings::FsWithRoots { ref path, .. } => Local::Roots(path.clone(), settings.key_store),
        _ => {
            let config = args.config.display();
            return Err(Failure::new(format!(
                "{config}: its key store is no local one: use the tools of the backend, which have the entry"
            )));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("start the runtime: {error}")))?;
    match (&args.name, local) {
        (None, local) => discard_unnamed(&runtime, args, &local),
        (Some(name), Local::RootKey(path, root_key)) => {
            let opened = kms_fs::open(&FsConfig::new(&path), &root_key.load()?.key, OpenMode::Existing)?;
            runtime.block_on(discard(args, name, &path, &opened.store, opened.store.store()))
        }
        (Some(name), Local::Roots(path, key_store)) => runtime.block_on(async {
            let (prepared, sled) = with_roots(&path, &key_store).await?;
            let wrapper = prepared.roots.peek().await?;
            discard(args, name, &path, &Wrapped::new(Arc::clone(&sled), wrapper), &sled).await
        }),
    }
}

/// Opens a local store with roots.
async fn with_roots(
    path: &Path,
    key_store: &KeyStoreSettings,
) -> Result<(roots::Prepared, Arc<SledStore>), Failure> {
    let prepared = roots::prepare(key_store, OpenMode::Existing).await?;
    let opened = prepared.and_then(|prepared| {
        let sled = Arc::clone(&prepared.local.as_ref()?.store);
        Some((prepared, sled))
    });
    opened.ok_or_else(|| Failure::new(format!("{}: it is no local store with roots", path.display())))
}

async fn discard(
    args: &DiscardArgs,
    name: &str,
    path: &Path,
    store: &dyn KeyStore,
    sled: &SledStore,
) -> Result<(), Failure> {
    let key = KeyName::new(name).map_err(|error| Failure::new(error.to_string()))?;
    let entry = EntryName::from(&key);
    let record = store.get(&entry).await;
    let why = match record.and_then(|record| KeyRecord::decode(record.expose()).map(drop)) {
        Ok(()) => {
            return Err(Failure::new(format!(
                "key '{key}' can be read, so it is not discarded: delete it with 'kms key rm {key}' if you mean that"
            )));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Failure::new(format!("there is no key '{key}' in the store in {}", path.display())));
        }
        Err(error) if error.kind() == ErrorKind::Corrupt => error.chain().to_string(),
        // Any other error does not say that the key is unreadable.
        Err(error) => return Err(error.into()),
    };
    confirm(name, &format!("key '{key}' cannot be read ({why}). If it is given up, {LOST}."))?;
    sled.discard(&entry).await?;
    print(args, path, &format!("key '{key}' was given up: {LOST}"))
}

fn discard_unnamed(
    runtime: &tokio::runtime::Runtime,
    args: &DiscardArgs,
    local: &Local,
) -> Result<(), Failure> {
    let (path, root_key) = match local {
        Local::RootKey(path, root_key) => (path, Some(root_key.load()?.key)),
        Local::Roots(path, _) => (path, None),
    };
    let config = FsConfig::new(path);
    let doubt = match (&root_key, local) {
        (Some(root_key), _) => kms_fs::open(&config, root_key, OpenMode::Existing)?.store.store().doubt(),
        (None, Local::Roots(path, key_store)) => runtime.block_on(with_roots(path, key_store))?.1.doubt(),
        (None, Local::RootKey(..)) => None,
    };
    let Some(doubt) = doubt else {
        return Err(Failure::new(format!(
            "nothing says that the store in {} lost keys without a name",
            path.display()
        )));
    };
    confirm(
        "lost",
        &format!(
            "{doubt}. If the keys that are not found are given up, everything that was encrypted under them is lost; \
             restore a backup instead if there is one."
        ),
    )?;
    let _in_runtime = runtime.enter();
    for warning in kms_fs::accept_losses(&config, root_key.as_ref())? {
        note(&warning);
    }
    print(args, path, "what is not found was given up, and the store takes writes again")
}

fn print(args: &DiscardArgs, path: &Path, what: &str) -> Result<(), Failure> {
    let output = Output::new(args.json);
    if output.is_json() {
        return output.json(&json!({ "store": path, "discarded": args.name, "unnamed": args.unnamed }));
    }
    output.line(format_args!("Store in {}: {what}", path.display()))
}
