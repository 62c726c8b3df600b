//! Prepares the settings of a development server, and the files that it needs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use kms_core::CacheConfig;

use super::banner::Banner;
use super::credentials::{admin_in, certificate_in};
use super::state::{State, TemporaryDirectory, WAYS_OUT, default_directory, unusable};
use crate::cli::failure::Failure;
use crate::config::Environment;
use crate::credentials::apikey::ApiKey;
use crate::host::files::{self, Readers};
use crate::host::mounts;
use crate::settings::{
    BackupSettings, DEFAULT_GRACE, KeyStoreSettings, LogSettings, RootKeySource, Settings, TlsSettings,
};

/// The address without `--addr`.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7373);

/// The directory and the files in it, and the users who may read them.
const STATE: [(&str, Readers); 6] = [
    ("", Readers::All),
    ("data", Readers::All),
    ("root.key", Readers::Owner),
    ("api.key", Readers::Owner),
    ("private.key", Readers::Owner),
    ("public.crt", Readers::All),
];

/// A development server that is about to start.
pub struct DevServer {
    /// The settings for [`Server::build`](crate::server::Server::build).
    pub settings: Settings,
    /// The text to print when the server is up. It has to be kept until the server ends.
    pub banner: Banner,
}

/// Prepares a server whose state is in `directory`, or in the directory of the environment if that is `None`.
///
/// Missing files are created: the certificate, the API key, and the store with its root key. If the root key is there and its
/// store is missing, the store is created only if `create`.
pub fn in_directory(
    directory: Option<PathBuf>,
    address: SocketAddr,
    create: bool,
    environment: &Environment,
) -> Result<DevServer, Failure> {
    let path = directory.or_else(|| default_directory(environment)).ok_or_else(|| {
        Failure::new(format!(
            "no directory for the state: none of KMS_DEV_DIR, XDG_STATE_HOME and HOME is set; {WAYS_OUT}"
        ))
    })?;
    let path = std::path::absolute(&path).map_err(|error| unusable(&path, &error))?;
    files::private_directory(&path).map_err(|error| unusable(&path, &error))?;
    // Other users who can write here could replace these files with their own.
    for (name, readers) in STATE {
        let exposed = files::refuse_exposed(&path.join(name), readers);
        exposed.map_err(|why| Failure::new(format!("{why}; or {WAYS_OUT}")))?;
    }

    let (data, root_key) = (path.join("data"), path.join("root.key"));
    let found = kms_fs::look(&data, &root_key).map_err(|error| Failure::from(error).context(WAYS_OUT))?;
    match (found.store, found.root_key) {
        (true, false) if !found.begun => {
            return Err(Failure::new(format!(
                "{}: the root key of the store in {} is missing: put it back, or {WAYS_OUT}",
                root_key.display(),
                data.display()
            )));
        }
        (false, true) if !create => {
            return Err(Failure::new(format!(
                "{}: this root key is there, and its store in {} is not: is the volume mounted? \
                 'kms server --dev --create' makes a new store; or {WAYS_OUT}",
                root_key.display(),
                data.display()
            )));
        }
        (false, false)
            if !found.begun && mounts::are_together(&path, &data).is_ok_and(|together| !together) =>
        {
            return Err(Failure::new(format!(
                "{}: it would be on another file system than its store in {}, and may be lost without it: {WAYS_OUT}",
                root_key.display(),
                data.display()
            )));
        }
        _ => {}
    }
    let (existing, create) = (found.store, create || !found.root_key);
    let admin = admin_in(&path)?;
    let (cert, key) = (path.join("public.crt"), path.join("private.key"));
    certificate_in(&cert, &key, address.ip())?;

    let key_store = KeyStoreSettings::Fs { path: data, root_key: RootKeySource::File(root_key), create };
    Ok(DevServer::new(address, admin, (cert, key), key_store, State::Directory { path, existing }))
}

/// Prepares a server that keeps nothing.
pub fn in_memory(address: SocketAddr) -> Result<DevServer, Failure> {
    let directory = TemporaryDirectory::create()?;
    let (cert, key) = (directory.path().join("public.crt"), directory.path().join("private.key"));
    certificate_in(&cert, &key, address.ip())?;
    let state = State::Memory { _certificate: directory };
    Ok(DevServer::new(address, ApiKey::generate()?, (cert, key), KeyStoreSettings::Memory, state))
}

impl DevServer {
    fn new(
        address: SocketAddr,
        admin: ApiKey,
        (cert, key): (PathBuf, PathBuf),
        key_store: KeyStoreSettings,
        state: State,
    ) -> Self {
        let settings = Settings {
            backup: BackupSettings::default(),
            address,
            threads: None,
            admin: Some(admin.identity()),
            tls: TlsSettings {
                cert: cert.clone(),
                key,
                password: None,
                ca: None,
                verify_clients: false,
                proxy: None,
            },
            policies: BTreeMap::new(),
            cache: CacheConfig::default(),
            grace: DEFAULT_GRACE,
            keys: Vec::new(),
            rotate_after: Vec::new(),
            is_for_kes: false,
            key_store,
            escrow: None,
            log: LogSettings::default(),
            routes: BTreeMap::new(),
            probes: None,
        };
        Self { settings, banner: Banner { admin, cert, state } }
    }
}
