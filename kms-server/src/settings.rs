//! What a server needs to know, checked: the form into which every configuration is brought.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use kms_aws::{AwsConfig, SecretsConfig, WrapperConfig};
use kms_core::{CacheConfig, Identity, KeyName};
use kms_fs::{LoadedRootKey, OpenError, RootKey};
use kms_vault::{Secret, TlsConfig, VaultConfig};

/// The configuration of a server after all checks that need no other machine.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where to listen.
    pub address: SocketAddr,
    /// The identity that may do everything; `None` when it is switched off.
    pub admin: Option<Identity>,
    /// Certificate, key, and what is asked of clients.
    pub tls: TlsSettings,
    /// Who may do what, by policy name.
    pub policies: BTreeMap<String, PolicySettings>,
    /// How long keys stay in memory.
    pub cache: CacheConfig,
    /// Keys to create at the start if they are absent.
    pub keys: Vec<KeyName>,
    /// Where the keys rest.
    pub key_store: KeyStoreSettings,
    /// Which events go to the process's own output.
    pub log: LogSettings,
    /// What is different from the usual for a route, by its path as `Routes` has it.
    pub routes: BTreeMap<String, RouteSettings>,
    /// Where to answer probes over plain HTTP, if anywhere.
    pub probes: Option<SocketAddr>,
}

impl Settings {
    /// Tells whether every client has to present a certificate: no route is open to everybody.
    pub fn needs_certificates(&self) -> bool {
        !self.routes.values().any(|route| route.skip_auth)
    }
}

/// Which events go to the process's own output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Errors; on unless told.
    pub error: bool,
    /// Which of them: from which level on.
    pub error_level: ErrorLevel,
    /// Requests, to stdout unless there is a file for them; off unless told.
    pub audit: bool,
    /// The file that requests are written to.
    pub audit_file: Option<PathBuf>,
    /// What happens to requests that cannot be written.
    pub audit_failure: AuditFailure,
}

impl LogSettings {
    /// Returns the least level of an event that goes to the process's own output; `None` if none does.
    pub fn least(&self) -> Option<ErrorLevel> {
        self.error.then_some(self.error_level)
    }
}

/// From which level on events go to the error log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorLevel {
    /// All that `KMS_LOG` lets through.
    #[default]
    All,
    /// Warnings and errors.
    Warn,
    /// Errors.
    Error,
}

/// What happens when the audit log cannot be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuditFailure {
    /// Requests are served, and their events lost and counted.
    #[default]
    Drop,
    /// Requests are refused until the log can be written again.
    Refuse,
}

impl AuditFailure {
    /// Says what goes on, for the log.
    pub fn consequence(self) -> &'static str {
        match self {
            Self::Drop => "requests are served, and their events are lost",
            Self::Refuse => "requests are refused until it can be",
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            error: true,
            error_level: ErrorLevel::default(),
            audit: false,
            audit_file: None,
            audit_failure: AuditFailure::default(),
        }
    }
}

/// What is different from the usual for a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteSettings {
    /// Whether clients need neither a certificate nor a policy.
    pub skip_auth: bool,
    /// How long a request may take, if not as long as usual.
    pub timeout: Option<Duration>,
}

/// TLS of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// PEM file of the certificate chain, leaf first.
    pub cert: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
    /// What the private key is encrypted with, if it is.
    pub password: Option<Secret>,
    /// PEM file, or directory of such, of the CAs that sign client certificates; the system's if absent.
    pub ca: Option<PathBuf>,
    /// Whether the chain of a client's certificate is verified (KES: `--auth=on`).
    pub verify_clients: bool,
    /// Who may speak for other clients, and how.
    pub proxy: Option<ProxySettings>,
}

impl TlsSettings {
    /// Lends the password of the private key.
    pub fn password(&self) -> Option<&str> {
        self.password.as_ref().map(Secret::expose)
    }
}

/// Proxies that end the TLS of clients and hand their certificates on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProxySettings {
    /// The identities of the proxies.
    pub identities: Vec<Identity>,
    /// The header that holds the client's certificate, as URL-escaped PEM.
    pub cert_header: String,
}

/// One policy.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PolicySettings {
    /// Path patterns of which one has to match.
    pub allow: Vec<String>,
    /// Path patterns of which none may match.
    pub deny: Vec<String>,
    /// Path patterns that allow as well, in the form of 2020: `*`, `?` and `[…]` stand for anything but a `/`.
    pub paths: Vec<String>,
    /// Who has this policy.
    pub identities: Vec<Identity>,
}

/// The chosen key store.
#[derive(Debug, PartialEq, Eq)]
pub enum KeyStoreSettings {
    /// An encrypted local directory.
    Fs {
        /// The directory.
        path: PathBuf,
        /// Where its root key comes from.
        root_key: RootKeySource,
        /// Whether a store that is not there is made, with its root key if that is not there either.
        create: bool,
    },
    /// A directory of key files in the clear, as KES keeps them: each is imported into an encrypted store below it.
    KesDirectory {
        /// The directory of the key files.
        path: PathBuf,
        /// Where the root key of the store comes from, if not from a file beside the directory or in it.
        root_key: Option<RootKeySource>,
        /// Whether a store is made whose root key is there and that is not there itself.
        create: bool,
    },
    /// A HashiCorp Vault or OpenBao.
    Vault(Box<VaultConfig>),
    /// AWS KMS.
    AwsKms(Box<AwsConfig>),
    /// AWS Secrets Manager.
    AwsSecrets(Box<SecretsConfig>),
    /// A key store whose records are wrapped under a root key that lives elsewhere.
    Wrapped {
        /// Where the records rest.
        store: BareStore,
        /// Where the root key is.
        kms: OuterKms,
    },
    /// Memory: every key dies with the process.
    Memory,
    /// A local one of those above, of which what can be read is served, and to which nothing is written.
    Salvage(Box<KeyStoreSettings>),
}

impl KeyStoreSettings {
    /// Returns what is trusted and shown to a Vault, for each of those that are asked.
    pub fn vault_tls(&self) -> Vec<&TlsConfig> {
        match self {
            Self::Vault(vault) => vec![&vault.tls],
            Self::Wrapped { store, kms } => {
                let store = if let BareStore::Vault(vault) = store { Some(&vault.tls) } else { None };
                let kms = if let OuterKms::Vault(vault) = kms { Some(&vault.tls) } else { None };
                store.into_iter().chain(kms).collect()
            }
            Self::Salvage(store) => store.vault_tls(),
            Self::Fs { .. }
            | Self::KesDirectory { .. }
            | Self::AwsKms(_)
            | Self::AwsSecrets(_)
            | Self::Memory => Vec::new(),
        }
    }

    /// Lets a local store be made that is not there; tells whether there is such a store.
    pub fn allow_create(&mut self) -> bool {
        match self {
            Self::Fs { create, .. } | Self::KesDirectory { create, .. } => {
                *create = true;
                true
            }
            _ => false,
        }
    }
}

/// A key store that can be put under a root key elsewhere.
#[derive(Debug, PartialEq, Eq)]
pub enum BareStore {
    /// A local directory, at this path.
    Fs(PathBuf),
    /// A HashiCorp Vault or OpenBao.
    Vault(Box<VaultConfig>),
}

/// A root key that lives elsewhere.
#[derive(Debug, PartialEq, Eq)]
pub enum OuterKms {
    /// A CMK of AWS KMS.
    Aws(Box<WrapperConfig>),
    /// A key of Vault's transit engine.
    Vault(Box<VaultConfig>),
}

/// Where the root key of a local store comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootKeySource {
    /// A file that only its owner may read.
    File(PathBuf),
    /// A file of systemd's directory of credentials, which is there before the first start.
    Credential(PathBuf),
    /// An environment variable of this name.
    Environment(String),
}

impl RootKeySource {
    /// Reads the root key.
    pub fn load(&self) -> Result<LoadedRootKey, OpenError> {
        match self {
            Self::File(path) | Self::Credential(path) => RootKey::from_file(path),
            Self::Environment(name) => RootKey::from_env(name),
        }
    }
}

/// The time that a route may take unless the configuration says otherwise.
pub const DEFAULT_ROUTE_TIMEOUT: Duration = Duration::from_secs(15);
