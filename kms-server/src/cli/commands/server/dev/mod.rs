//! `kms server --dev`: a server that needs no file, and forgets nothing.

mod banner;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kms_core::CacheConfig;
use kms_core::primitives::SecretBytes;

pub use self::banner::Banner;
use crate::cli::failure::Failure;
use crate::config::Environment;
use crate::credentials::apikey::ApiKey;
use crate::credentials::certificate::{self, Facts, NewCertificate};
use crate::host::files::{self, Readers};
use crate::host::mounts;
use crate::settings::{KeyStoreSettings, LogSettings, RootKeySource, Settings, TlsSettings};

/// Where it listens unless told.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7373);

/// How long the server's certificate is valid: five years.
const CERTIFICATE_VALIDITY: Duration = Duration::from_secs(5 * 365 * 24 * 3600);

/// A certificate that ends within this time is made anew at the start.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The most bytes of the file with the API key.
const MAX_KEY_LEN: usize = 1024;

/// What is in a directory, itself first, and who may read it.
const STATE: [(&str, Readers); 6] = [
    ("", Readers::All),
    ("data", Readers::All),
    ("root.key", Readers::Owner),
    ("api.key", Readers::Owner),
    ("private.key", Readers::Owner),
    ("public.crt", Readers::All),
];

/// What every message about an unusable directory ends with.
const WAYS_OUT: &str = "choose another directory with --dir, or --in-memory to keep nothing";

/// A server about to start: its settings, and what is told of it when it is up.
pub struct DevServer {
    /// The settings for [`Server::build`](crate::server::Server::build).
    pub settings: Settings,
    /// What is told, to be kept until the server ends.
    pub banner: Banner,
}

/// What a development server keeps.
enum State {
    /// Everything, in this directory; there was a store in it before, or there was none.
    Directory { path: PathBuf, existing: bool },
    /// Nothing. The directory of the certificate is removed when this is dropped.
    Memory { _certificate: TemporaryDirectory },
}

/// Prepares a server whose state is in `directory`, else where the environment says.
///
/// Files that are missing are made: the certificate, the API key, and the store with its root key; a store that is away from
/// its root key only if `create` says so.
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
    // Whoever can write here can put keys of their own in the place of these.
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
    let (cert, key) = (directory.0.join("public.crt"), directory.0.join("private.key"));
    certificate_in(&cert, &key, address.ip())?;
    let state = State::Memory { _certificate: directory };
    Ok(DevServer::new(address, ApiKey::generate()?, (cert, key), KeyStoreSettings::Memory, state))
}

/// A directory for the files that TLS needs, removed when it is dropped.
struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    fn create() -> Result<Self, Failure> {
        let mut random = [0; 8];
        kms_core::primitives::fill_random(&mut random)?;
        let path = std::env::temp_dir().join(format!("kms-dev-{}", hex::encode(random)));
        files::private_directory(&path).map_err(|error| Failure::new(files::failed(&path, &error)))?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn default_directory(environment: &Environment) -> Option<PathBuf> {
    if let Some(path) = environment.first_of(&["KMS_DEV_DIR"]) {
        return Some(PathBuf::from(path));
    }
    // The XDG specification has relative paths ignored.
    let state =
        environment.first_of(&["XDG_STATE_HOME"]).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(Path::new(environment.first_of(&["HOME"])?).join(".local/state")))?;
    Some(state.join("kms-dev"))
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
            address,
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
            keys: Vec::new(),
            key_store,
            log: LogSettings::default(),
            routes: BTreeMap::new(),
            probes: None,
        };
        Self { settings, banner: Banner { admin, cert, state } }
    }
}

/// Reads the admin's API key, or makes it.
fn admin_in(directory: &Path) -> Result<ApiKey, Failure> {
    let path = directory.join("api.key");
    make_once(&path, || Ok(format!("{}\n", *ApiKey::generate()?.to_text()).as_bytes().into()))?;
    let content = kms_core::primitives::read_secret_file(&path, MAX_KEY_LEN)
        .map_err(|error| unusable(&path, &error))?;
    let text = std::str::from_utf8(&content)
        .map_err(|_| Failure::new(format!("{}: it is no text, expected an API key", path.display())))?;
    ApiKey::parse(text.trim()).map_err(|error| Failure::from(error).context(&path.display().to_string()))
}

/// Makes a certificate unless there is one that is good for a while yet.
fn certificate_in(cert: &Path, key: &Path, address: IpAddr) -> Result<(), Failure> {
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    if !address.is_unspecified() && !addresses.contains(&address) {
        addresses.push(address);
    }
    if is_good(cert, key, &addresses) {
        return Ok(());
    }
    let made = NewCertificate {
        common_name: "kms development server".to_owned(),
        dns_names: vec!["localhost".to_owned()],
        ip_addresses: addresses,
        validity: CERTIFICATE_VALIDITY,
        server: true,
    }
    .with_new_key()?;
    files::replace(key, made.key_pem().as_bytes(), files::PRIVATE).map_err(|error| unusable(key, &error))?;
    files::replace(cert, made.chain_pem().as_bytes(), files::PUBLIC).map_err(|error| unusable(cert, &error))
}

fn is_good(cert: &Path, key: &Path, addresses: &[IpAddr]) -> bool {
    let Ok(pair) = certificate::read_pair(cert, key, None) else { return false };
    let Some(facts) = pair.chain.first().and_then(|der| Facts::of(der).ok()) else { return false };
    let ends_late = facts.not_after.duration_since(Timestamp::now()) > RENEW_BEFORE;
    ends_late
        && addresses.iter().all(|address| facts.ip_addresses.contains(address))
        && pair.matches() == Ok(true)
}

fn make_once(path: &Path, content: impl FnOnce() -> Result<SecretBytes, Failure>) -> Result<(), Failure> {
    if path.exists() {
        return Ok(());
    }
    match files::write_new(path, content()?.expose(), files::PRIVATE) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(unusable(path, &error)),
        _ => Ok(()),
    }
}

fn unusable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("{}: {WAYS_OUT}", files::failed(path, error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_lives_where_the_environment_says() {
        let directory = |variables: &[(&str, &str)]| default_directory(&variables.iter().copied().collect());
        let home = ("HOME", "/home/me");
        let xdg = ("XDG_STATE_HOME", "/state");
        assert_eq!(directory(&[home, xdg, ("KMS_DEV_DIR", "/dev-dir")]), Some("/dev-dir".into()));
        assert_eq!(directory(&[home, xdg]), Some("/state/kms-dev".into()));
        assert_eq!(directory(&[home]), Some("/home/me/.local/state/kms-dev".into()));
        assert_eq!(
            directory(&[home, ("XDG_STATE_HOME", "relative")]),
            Some("/home/me/.local/state/kms-dev".into())
        );
        assert_eq!(directory(&[]), None);
    }

    #[test]
    fn a_certificate_is_renewed_when_it_ends_soon() {
        let directory = tempfile::tempdir().unwrap();
        let (cert, key) = (directory.path().join("public.crt"), directory.path().join("private.key"));
        let loopback = IpAddr::from([127, 0, 0, 1]);
        certificate_in(&cert, &key, loopback).map_err(|_| "cannot be made").unwrap();
        let first = fs::read(&cert).unwrap();
        certificate_in(&cert, &key, loopback).map_err(|_| "cannot be kept").unwrap();
        assert_eq!(fs::read(&cert).unwrap(), first);

        let mut short = NewCertificate::client("localhost".to_owned(), Duration::from_secs(3600));
        short.ip_addresses = vec![loopback, IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let short = short.with_new_key().unwrap();
        files::replace(&cert, short.chain_pem().as_bytes(), files::PUBLIC).unwrap();
        files::replace(&key, short.key_pem().as_bytes(), files::PRIVATE).unwrap();
        certificate_in(&cert, &key, loopback).map_err(|_| "cannot be renewed").unwrap();
        let facts = Facts::of(&certificate::first_of(&fs::read(&cert).unwrap()).unwrap()).unwrap();
        assert!(facts.not_after.duration_since(Timestamp::now()) > RENEW_BEFORE);
    }
}
