//! The two sides of a move: where keys come from, and where they go.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kms_core::store::{KeyStore, MemoryStore};
use kms_core::{KeyName, transfer};

use super::moving::{self, Moved};
use super::static_key::StaticKey;
use crate::cli::failure::Failure;
use crate::cli::output::note;
use crate::config::{self, Environment};
use crate::settings::{BareStore, KeyStoreSettings};
use crate::store::plain::{self, Purpose};

/// Where keys come from.
pub enum Source {
    Config(Target),
    Static(StaticKey),
}

/// Both sides of a move, and the names of the keys to move, in byte order.
pub struct Opened {
    pub from: Arc<dyn KeyStore>,
    pub to: Arc<dyn KeyStore>,
    pub names: Vec<KeyName>,
}

/// What came to the source while keys moved.
#[derive(Default)]
pub struct CameMeanwhile {
    pub keys: usize,
    /// Versions of keys that were there before.
    pub versions: u32,
}

/// The key store of a config.
pub struct Target {
    file: PathBuf,
    settings: KeyStoreSettings,
}

impl Source {
    pub fn of_config(file: &Path, environment: &Environment) -> Result<Self, Failure> {
        Target::of_config(file, environment).map(Self::Config)
    }

    pub fn of_static_key(environment: &Environment, keeps_hmac: bool) -> Result<Self, Failure> {
        StaticKey::read(environment, keeps_hmac).map(Self::Static)
    }

    /// Fails if keys would be moved to where they are.
    pub fn refuse_same(&self, target: &Target) -> Result<(), Failure> {
        match self {
            Self::Config(source) if source.settings == target.settings => {
                Err(Failure::new(format!("{source} and {target} name the same key store")))
            }
            _ => Ok(()),
        }
    }

    /// Opens both sides, and lists the names of the source that begin with `prefix`.
    ///
    /// A source that cannot be read and listed is refused before a target is made.
    pub async fn open(&self, target: &Target, is_dry: bool, prefix: &str) -> Result<Opened, Failure> {
        let purpose = if is_dry { Purpose::Look } else { Purpose::Write };
        match self {
            Self::Config(source) => {
                let from = source.open(Purpose::Read).await?;
                let names = names(from.as_ref(), prefix).await?;
                Ok(Opened { from, to: target.open(purpose).await?, names })
            }
            Self::Static(key) => {
                let (from, to) = (MemoryStore::new(), target.open(purpose).await?);
                key.create_in(&from, to.as_ref()).await?;
                let names = names(&from, prefix).await?;
                Ok(Opened { from: Arc::new(from), to, names })
            }
        }
    }

    /// Opens the source anew, and counts the keys and versions that came since `names` were listed and `moved` read.
    pub async fn came_meanwhile(
        &self,
        names: &[KeyName],
        moved: &[Moved],
        prefix: &str,
    ) -> Result<CameMeanwhile, Failure> {
        let Self::Config(source) = self else { return Ok(CameMeanwhile::default()) };
        let store = source.open(Purpose::Read).await?;
        let now = self::names(store.as_ref(), prefix).await?;
        let keys = now.iter().filter(|name| names.binary_search(name).is_err()).count();
        Ok(CameMeanwhile { keys, versions: moving::versions_since(store.as_ref(), moved).await? })
    }

    /// Tells what the move means beside the keys.
    pub fn told(&self) -> Option<&'static str> {
        match self {
            Self::Config(_) => None,
            Self::Static(key) => Some(key.told()),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(source) => source.fmt(f),
            Self::Static(key) => f.write_str(key.place()),
        }
    }
}

impl Target {
    pub fn of_config(file: &Path, environment: &Environment) -> Result<Self, Failure> {
        let (settings, warnings) = config::load_key_store(file, environment)?;
        let is_of_store = |key: &str| key.starts_with("keystore") || key.starts_with("kms");
        let told =
            warnings.iter().filter(|warning| warning.has_no_effect && is_of_store(&warning.problem.key));
        for warning in told {
            note(format_args!("Warning: {warning}"));
        }
        Ok(Self { file: file.to_owned(), settings })
    }

    /// Returns whether only one process at a time can open the store. Then no server uses it.
    pub fn has_one_user(&self) -> bool {
        matches!(
            self.settings,
            KeyStoreSettings::Fs { .. }
                | KeyStoreSettings::KesDirectory { .. }
                | KeyStoreSettings::FsWithRoots { .. }
                | KeyStoreSettings::Wrapped { store: BareStore::Fs(_), .. }
        )
    }

    /// Opens the store.
    pub async fn open(&self, purpose: Purpose) -> Result<Arc<dyn KeyStore>, Failure> {
        let opened = plain::open(&self.settings, purpose).await;
        opened.map_err(|error| Failure::from(error).context(&self.to_string()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.display().fmt(f)
    }
}

/// Lists the names that begin with `prefix`, in byte order.
async fn names(store: &dyn KeyStore, prefix: &str) -> Result<Vec<KeyName>, Failure> {
    let mut names = transfer::names(store).await?;
    names.retain(|name| name.as_str().starts_with(prefix));
    Ok(names)
}
