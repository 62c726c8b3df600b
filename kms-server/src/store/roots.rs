//! The key stores with roots: which store and which roots the settings name, ready to be opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kms_aws::AwsWrapper;
use kms_core::roots::{Anchor, Form, Making, Root, RootId, Roots, SealedAlways, WrappedOneByOne};
use kms_core::store::{KeyStore, Wrapper};
use kms_core::{Error, ErrorKind};
use kms_fs::{FsConfig, FsForm, InHeader, OpenError, OpenMode, RootKey, SledStore};
use kms_vault::{KvVersion, Transit};

use super::{embedded, roots_opened};
use crate::error::StartError;
use crate::settings::{BareStore, KeyStoreSettings, OuterKms, RootKeySource, RootSettings};

/// The id of a CMK for which the config has neither ARN nor id. It has no entry, and gets none.
pub const UNNAMED: &str = "unnamed";

/// A store and its roots, before anything is asked of a root.
pub struct Prepared {
    /// The store and its roots.
    pub roots: Roots,
    /// Whether a start may give the store its key.
    pub making: Making,
    /// What an operator should know, a sentence each.
    pub warnings: Vec<String>,
    /// The local directory, if the store is one.
    pub local: Option<Local>,
    /// Why the store can get no key with these roots.
    pub hindrance: Option<String>,
}

/// A local directory with roots.
pub struct Local {
    /// The directory.
    pub path: PathBuf,
    /// The store of sealed records.
    pub store: Arc<SledStore>,
    /// The number of keys.
    pub keys: usize,
    /// Whether the store was made just now.
    pub is_new: bool,
    /// What the header holds of the store key; `None` where records were wrapped one by one.
    pub header: Option<HeaderKey>,
}

/// What the header of a local store holds of the store key.
#[derive(Clone, PartialEq, Eq)]
pub enum HeaderKey {
    /// The store key under the root key with this id.
    Of(RootId),
    /// The store key under a root key that is not here.
    Closed,
    /// No store key.
    Nothing,
}

/// The roots of a config, as far as they can be made of it.
#[derive(Default)]
struct Collected {
    roots: Vec<Root>,
    /// The section of each root.
    sections: Vec<String>,
    /// The local root keys that could be read, each with the position of its root.
    local: Vec<(usize, RootKey)>,
    warnings: Vec<String>,
    hindrance: Option<String>,
}

/// Opens the store that the settings name, without asking a root anything.
///
/// `None` if it is a store that has no roots.
pub async fn prepare(key_store: &KeyStoreSettings, mode: OpenMode) -> Result<Option<Prepared>, StartError> {
    Ok(Some(match key_store {
        KeyStoreSettings::Wrapped { store: BareStore::Vault(config), kms } => {
            let store = kms_vault::open((**config).clone());
            let store = store.map_err(|error| StartError::of_section("keystore.vault", &error))?;
            let making = if config.version == KvVersion::V1 { Making::Explicit } else { Making::OnEmpty };
            let collected = collect(kms).await?;
            one_by_one(store, collected, making, None)?
        }
        KeyStoreSettings::Wrapped { store: BareStore::Postgres(config), kms } => {
            let store = kms_postgres::open((**config).clone());
            let store = store.map_err(|error| StartError::of_section("keystore.postgres", &error))?;
            let collected = collect(kms).await?;
            in_form(store, collected, Arc::new(SealedAlways), Making::OnEmpty, None)?
        }
        KeyStoreSettings::Wrapped { store: BareStore::Fs(path), kms } => {
            embedded::refuse_no_directory(path)?;
            let collected = collect(kms).await?;
            match kms_fs::open_bare(&FsConfig::new(path), mode) {
                Err(OpenError::OtherRoot { .. }) => under_header(path, (None, None), collected, mode).await?,
                opened => of_bare(path, opened?, collected)?,
            }
        }
        KeyStoreSettings::FsWithRoots { path, root_key, create, kms } => {
            embedded::refuse_no_directory(path)?;
            let mut collected = collect(kms).await?;
            let mut is_new = false;
            if mode == OpenMode::CreateOrOpen && !kms_fs::look(path, path)?.store {
                if let Ok(loaded) = root_key.load() {
                    // Nothing is made under a config that is refused.
                    collected.refuse_same(&loaded.key.to_root()?, "keystore.fs")?;
                }
                // The rules for first starts are those of a store with its root key alone.
                is_new = embedded::open(path, root_key, *create)?.is_new;
            }
            let source = root_key;
            let root_key = load(source, "keystore.fs", &mut collected);
            let hindrance = collected.hindrance.clone();
            let own = (root_key.as_ref(), Some(source));
            let mut prepared = match under_header(path, own, collected, mode).await {
                Err(error) if is_of_other_root(&error) => {
                    let mut collected = Collected { hindrance, ..collect(kms).await? };
                    let own = match &root_key {
                        Some(root_key) => root_key.to_root()?,
                        None => later(source.clone(), "keystore.fs", None, collected.roots.len())?,
                    };
                    collected.push(own, "keystore.fs")?;
                    of_bare(path, kms_fs::open_bare(&FsConfig::new(path), mode)?, collected)?
                }
                prepared => prepared?,
            };
            if let Some(local) = &mut prepared.local {
                local.is_new = is_new;
            }
            prepared
        }
        _ => return Ok(None),
    }))
}

impl Prepared {
    /// Returns what the header of a local store holds of the store key; `None` if this store has no such header.
    pub fn header(&self) -> Option<&HeaderKey> {
        self.local.as_ref().and_then(|local| local.header.as_ref())
    }

    /// Returns whether the first start gives the store its key: it holds nothing yet.
    pub async fn is_to_be_made(&self) -> Result<bool, StartError> {
        if self.making != Making::OnEmpty {
            return Ok(false);
        }
        let anchor = Anchor::read(&*self.roots.store()).await.map_err(|error| of_roots(&error))?;
        if anchor.is_some() {
            return Ok(false);
        }
        let records = self.roots.count_records().await.map_err(|error| of_roots(&error))?;
        Ok(records.all() == 0)
    }

    /// Opens the store, and logs what an operator should know.
    pub async fn open(self) -> Result<Arc<kms_core::roots::Rooted>, StartError> {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
        if let Some(Local { path, is_new, keys, header, .. }) = &self.local {
            if *is_new {
                tracing::warn!(path = %path.display(), "there was no key store in this directory: a new one was made");
            }
            if header.is_none() {
                embedded::warn_if_empty(path, *keys);
            }
        }
        let opened = self.roots.open(self.making).await.map_err(|error| of_roots(&error))?;
        for warning in &opened.warnings {
            tracing::warn!("{warning}");
        }
        if opened.is_new {
            tracing::info!("the store got its store key: back its roots up, without them all keys are lost");
        }
        if let Some(local) = &self.local {
            roots_opened::keep(&local.path, &opened.store);
        }
        opened.store.keep_trying();
        Ok(opened.store)
    }
}

/// Creates the error of the section `kms`.
pub fn of_roots(error: &kms_core::Error) -> StartError {
    StartError::with_source(format!("kms: {}", error.chain()), error.clone())
}

/// Opens the holder of a root key. Whether it can be reached shows at the first use.
pub async fn open_outer(kms: &OuterKms) -> Result<Arc<dyn Wrapper>, StartError> {
    let refused = |error: kms_core::Error| StartError::of(error);
    Ok(match kms {
        OuterKms::Aws(config) => Arc::new(AwsWrapper::open((**config).clone()).await.map_err(refused)?),
        OuterKms::Vault(config) => Arc::new(Transit::bound(config).map_err(refused)?),
        OuterKms::Local(source) => Arc::clone(source.load()?.key.to_root()?.wrapper()),
    })
}

/// Makes the roots of the section `kms`. A local root key that cannot be read is told, and read later.
async fn collect(kms: &[RootSettings]) -> Result<Collected, StartError> {
    let mut collected = Collected::default();
    for RootSettings { section, id, kms } in kms {
        let root = match kms {
            OuterKms::Local(source) => match load(source, section, &mut collected) {
                Some(root_key) => {
                    let root = named(id.as_ref(), &root_key)?;
                    collected.local.push((collected.roots.len(), root_key));
                    root
                }
                None => later(source.clone(), section, id.clone(), collected.roots.len())?,
            },
            OuterKms::Aws(_) | OuterKms::Vault(_) => {
                let wrapper = open_outer(kms).await.map_err(|error| in_section(section, &error))?;
                let id = if let Some(id) = id {
                    id.clone()
                } else {
                    collected.hindrance = Some(format!(
                        "{section}: the key is named by neither its ARN nor an 'id', so it can have no entry as a root"
                    ));
                    RootId::new(UNNAMED).map_err(StartError::of)?
                };
                Root::new(id, wrapper)
            }
        };
        collected.push(root, section)?;
    }
    Ok(collected)
}

impl Collected {
    fn push(&mut self, root: Root, section: &str) -> Result<(), StartError> {
        self.refuse_same(&root, section)?;
        self.roots.push(root);
        self.sections.push(section.to_owned());
        Ok(())
    }

    /// Refuses a root whose key another one has, from whichever file or variable: it would count as a second one.
    fn refuse_same(&self, root: &Root, section: &str) -> Result<(), StartError> {
        let same = self.roots.iter().position(|before| before.has_key_of(root));
        same.map_or(Ok(()), |n| Err(are_one(&self.sections[n], section)))
    }
}

fn are_one(one: &str, other: &str) -> StartError {
    StartError::new(format!(
        "{one} and {other} have the same root key, so they are one root, which protects nothing twice: take one of them out of \
         the config"
    ))
}

fn named(id: Option<&RootId>, root_key: &RootKey) -> Result<Root, OpenError> {
    let root = root_key.to_root()?;
    Ok(match id {
        Some(id) => Root::new(id.clone(), Arc::clone(root.wrapper())),
        None => root,
    })
}

/// Creates the root of a local root key that cannot be read now. It is read again at each look at the roots.
fn later(source: RootKeySource, section: &str, id: Option<RootId>, n: usize) -> Result<Root, StartError> {
    let shown = match &id {
        Some(id) => id.clone(),
        None => unread(&format!("{n}-of-{}", section.replace('.', "-")))?,
    };
    let doing = format!("read the root key of {section}");
    Ok(Root::later(shown, move || match source.load() {
        Ok(loaded) => named(id.as_ref(), &loaded.key).map_err(|error| unreachable(&doing, &error)),
        Err(error) => Err(unreachable(&doing, &error)),
    }))
}

fn unreachable(doing: &str, error: &OpenError) -> Error {
    Error::with_source(ErrorKind::Unreachable, doing, error.to_string())
}

/// Creates the root of the header's root key, which cannot be read now. The header is read at starts only.
fn of_header_later(
    source: RootKeySource,
    others: Vec<Root>,
    sections: Vec<String>,
) -> Result<Root, StartError> {
    Ok(Root::later(unread("header")?, move || {
        let why = match source.load().and_then(|loaded| loaded.key.to_root()) {
            Ok(root) => match others.iter().position(|other| other.has_key_of(&root)) {
                Some(n) => are_one("keystore.fs", &sections[n]).to_string(),
                None => "it can be read by now: the next start uses it".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        Err(Error::with_source(ErrorKind::Unreachable, "read the root key of keystore.fs", why))
    }))
}

/// Returns what stands for the id of a root key that cannot be read, and whose fingerprint nobody knows so.
fn unread(which: &str) -> Result<RootId, StartError> {
    RootId::new(&format!("unread-{which}")).map_err(StartError::of)
}

fn in_section(section: &str, error: &StartError) -> StartError {
    use std::error::Error as _;
    match error.source().and_then(|source| source.downcast_ref::<kms_core::Error>()) {
        Some(source) => StartError::of_section(section, source),
        None => error.clone(),
    }
}

/// Reads a local root key. Another root may open the store without it.
fn load(source: &RootKeySource, section: &str, collected: &mut Collected) -> Option<RootKey> {
    match source.load() {
        Ok(loaded) => {
            collected.warnings.extend(loaded.warnings);
            Some(loaded.key)
        }
        Err(error) => {
            let why = format!("{section}: this root does not open: {error}");
            collected.warnings.push(why.clone());
            collected.hindrance = Some(why);
            None
        }
    }
}

/// A local store whose header is one for records that come wrapped.
fn of_bare(path: &Path, opened: kms_fs::OpenedBare, collected: Collected) -> Result<Prepared, StartError> {
    let store = Arc::new(opened.store);
    let (keys, is_new) = (opened.keys, opened.is_new);
    let local = Local { path: path.to_owned(), store: Arc::clone(&store), keys, is_new, header: None };
    let mut prepared = one_by_one(store, collected, Making::OnEmpty, Some(local))?;
    prepared.warnings.extend(opened.warnings);
    Ok(prepared)
}

/// A store whose records roots wrapped one by one before it had a store key.
fn one_by_one(
    store: Arc<dyn KeyStore>,
    collected: Collected,
    making: Making,
    local: Option<Local>,
) -> Result<Prepared, StartError> {
    let form = Arc::new(WrappedOneByOne::new(&collected.roots));
    in_form(store, collected, form, making, local)
}

fn in_form(
    store: Arc<dyn KeyStore>,
    collected: Collected,
    form: Arc<dyn Form>,
    making: Making,
    local: Option<Local>,
) -> Result<Prepared, StartError> {
    let Collected { roots, warnings, hindrance, .. } = collected;
    let making = if hindrance.is_some() { Making::Explicit } else { making };
    let roots = Roots::new(store, roots, form).map_err(|error| of_roots(&error))?;
    Ok(Prepared { roots, making, warnings, local, hindrance })
}

/// A local store whose header has a store key, or had one. Its own root key comes with the place that names it.
async fn under_header(
    path: &Path,
    (root_key, source): (Option<&RootKey>, Option<&RootKeySource>),
    collected: Collected,
    mode: OpenMode,
) -> Result<Prepared, StartError> {
    let own = root_key.map(RootKey::to_root).transpose()?;
    if let Some(own) = &own {
        collected.refuse_same(own, "keystore.fs")?;
    }
    let Collected { mut roots, sections, local, mut warnings, hindrance } = collected;
    let opened = kms_fs::open_with_roots(&embedded::config(path), root_key, mode)?;
    let (header, key) = match (&opened.header, &own) {
        (InHeader::Opened(key), Some(own)) => (HeaderKey::Of(own.id().clone()), Some(key.clone())),
        (InHeader::Nothing, _) => (HeaderKey::Nothing, None),
        (InHeader::Closed | InHeader::Opened(_), _) => {
            // The root key of the header can be configured as another root, and its removal takes the header, too.
            let open = |(n, key): &(usize, RootKey)| Some((*n, opened.open_header(key, path)?));
            match local.iter().find_map(open) {
                Some((n, key)) => {
                    roots[n] = roots[n].clone().holding(key.clone());
                    (HeaderKey::Of(roots[n].id().clone()), Some(key))
                }
                None => (HeaderKey::Closed, None),
            }
        }
    };
    warnings.extend(opened.warnings);
    if let Some(own) = own {
        roots.insert(
            0,
            match (&opened.header, &key) {
                (InHeader::Opened(_), Some(key)) => own.holding(key.clone()),
                _ => own,
            },
        );
    }
    if let (None, Some(source)) = (root_key, source) {
        roots.insert(
            0,
            match header {
                HeaderKey::Nothing => later(source.clone(), "keystore.fs", None, 0)?,
                HeaderKey::Of(_) | HeaderKey::Closed => {
                    of_header_later(source.clone(), roots.clone(), sections)?
                }
            },
        );
    }
    let store = Arc::new(opened.store);
    if header == HeaderKey::Closed {
        refuse_closed(path, &store, root_key, &warnings).await?;
    }
    let (keys, is_new) = (opened.keys, false);
    let local =
        Local { path: path.to_owned(), store: Arc::clone(&store), keys, is_new, header: Some(header) };
    let making = if hindrance.is_some() { Making::Explicit } else { Making::OnEmpty };
    let roots = Roots::new(store, roots, Arc::new(FsForm { header: key }));
    let roots = roots.map_err(|error| of_roots(&error))?;
    Ok(Prepared { roots, making, warnings, local: Some(local), hindrance })
}

/// Refuses a store whose store key only the header has, under a root key that is not here.
async fn refuse_closed(
    path: &Path,
    store: &SledStore,
    root_key: Option<&RootKey>,
    warnings: &[String],
) -> Result<(), StartError> {
    let anchor = Anchor::read(store).await.map_err(|error| of_roots(&error))?;
    if anchor.is_some() {
        return Ok(());
    }
    if root_key.is_some() {
        return Err(OpenError::WrongRootKey { path: path.to_owned() }.into());
    }
    let why = warnings.join("; ");
    Err(StartError::new(format!(
        "{}: only its root key opens this store, and that is not here: {}",
        path.display(),
        if why.is_empty() { "keystore.fs.root_key_file or root_key_env says where it is" } else { &why }
    )))
}

fn is_of_other_root(error: &StartError) -> bool {
    use std::error::Error as _;
    let source = error.source().and_then(|source| source.downcast_ref());
    matches!(source, Some(OpenError::OtherRoot { .. }))
}
