//! The checked settings of a server: the form into which every configuration is brought.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use kms_aws::{AwsConfig, SecretsConfig, WrapperConfig};
use kms_core::roots::RootId;
use kms_core::{CacheConfig, Identity, KeyName};
use kms_fs::{LoadedRootKey, OpenError, RootKey};
use kms_postgres::PostgresConfig;
use kms_vault::{Secret, TlsConfig, VaultConfig};

/// The settings of a server, after all checks that need no other machine.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    /// The address to listen on.
    pub address: SocketAddr,
    /// The number of threads that serve connections, or `None` for as many as the process has CPUs.
    pub threads: Option<NonZeroUsize>,
    /// The identity that may do everything, or `None` if there is none.
    pub admin: Option<Identity>,
    /// Certificate and key of the server, and the rule for clients' certificates.
    pub tls: TlsSettings,
    /// The policies by their names.
    pub policies: BTreeMap<String, PolicySettings>,
    /// How long keys stay in memory.
    pub cache: CacheConfig,
    /// How long a deleted key can be restored. Zero if it cannot.
    pub grace: Duration,
    /// The keys to create at the start if they are absent.
    pub keys: Vec<KeyName>,
    /// The keys that get a new version when their newest one has this age.
    pub rotate_after: Vec<(KeyName, Duration)>,
    /// Whether the configuration is one of KES. Its user may want to go back.
    pub is_for_kes: bool,
    /// Where the keys are stored.
    pub key_store: KeyStoreSettings,
    /// Where each key is kept in escrow too, if it is.
    pub escrow: Option<EscrowSettings>,
    /// The events that go to the process's own output.
    pub log: LogSettings,
    /// The routes with settings of their own, by the path in `Routes`.
    pub routes: BTreeMap<String, RouteSettings>,
    /// The address of the plain HTTP listener for probes, if there is one.
    pub probes: Option<SocketAddr>,
    /// Who can open the backups of this server.
    pub backup: BackupSettings,
}

/// The settings of backups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupSettings {
    /// The recipients of age to whom the server seals a backup. Without any it makes none.
    pub recipients: Vec<String>,
    /// The file with the evidence of the last drill, for a metric.
    pub drill_evidence: Option<PathBuf>,
}

/// How long a deleted key can be restored, unless the configuration says something else or is one of KES.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(30 * 24 * 3600);

impl Settings {
    /// Returns whether every client has to present a certificate, because no route is open to everybody.
    pub fn needs_certificates(&self) -> bool {
        !self.routes.values().any(|route| route.skip_auth)
    }
}

/// The escrow of keys: a file to which each key is also sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EscrowSettings {
    /// Those who can open it, in age's form `age1…`. There is at least one.
    pub recipients: Vec<String>,
    /// The file.
    pub path: PathBuf,
    /// What happens while the file cannot be written.
    pub on_failure: EscrowFailure,
}

/// What happens to a new key while the escrow file cannot be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscrowFailure {
    /// It is refused.
    #[default]
    Refuse,
    /// It is stored, and put into escrow later.
    Warn,
}

/// The events that go to the process's own output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Whether errors are logged. On by default.
    pub error: bool,
    /// The least level of an error that is logged.
    pub error_level: ErrorLevel,
    /// The form of its lines.
    pub format: LogFormat,
    /// Whether requests are logged. Off by default. They go to stdout unless a file is set.
    pub audit: bool,
    /// The file for the log of requests.
    pub audit_file: Option<PathBuf>,
    /// What happens to a request that cannot be logged.
    pub audit_failure: AuditFailure,
}

impl LogSettings {
    /// Returns the least level of an event that goes to the process's own output, or `None` if no event does.
    pub fn least(&self) -> Option<ErrorLevel> {
        self.error.then_some(self.error_level)
    }
}

/// The form of the lines of the error log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One object of JSON a line.
    Json,
}

/// The least level of an event that goes to the error log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorLevel {
    /// Everything that `KMS_LOG` lets through.
    #[default]
    All,
    /// Warnings and errors.
    Warn,
    /// Errors.
    Error,
}

/// What happens while the audit log cannot be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuditFailure {
    /// Requests are served. Their events are lost and counted.
    #[default]
    Drop,
    /// Requests are refused until the log can be written again.
    Refuse,
}

impl AuditFailure {
    /// Returns the consequence as words for the log.
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
            format: LogFormat::default(),
            audit: false,
            audit_file: None,
            audit_failure: AuditFailure::default(),
        }
    }
}

/// The settings of one route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteSettings {
    /// Whether clients need neither a certificate nor a policy.
    pub skip_auth: bool,
    /// The timeout of a request, or `None` for the default of the route.
    pub timeout: Option<Duration>,
}

/// The TLS settings of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// The PEM file of the certificate chain, leaf first.
    pub cert: PathBuf,
    /// The PEM file of the private key.
    pub key: PathBuf,
    /// The password of the private key, if the key is encrypted.
    pub password: Option<Secret>,
    /// The PEM file, or directory of PEM files, of the CAs that sign client certificates. `None` means the system's CAs.
    pub ca: Option<PathBuf>,
    /// Whether the chain of a client's certificate is verified (KES: `--auth=on`).
    pub verify_clients: bool,
    /// The proxies that may speak for other clients.
    pub proxy: Option<ProxySettings>,
}

impl TlsSettings {
    /// Returns the password of the private key.
    pub fn password(&self) -> Option<&str> {
        self.password.as_ref().map(Secret::expose)
    }
}

/// Proxies that terminate the TLS connections of clients and pass the clients' certificates on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProxySettings {
    /// The identities of the proxies.
    pub identities: Vec<Identity>,
    /// The header with the client's certificate as URL-escaped PEM.
    pub cert_header: String,
}

/// One policy.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PolicySettings {
    /// Path patterns. One of them has to match.
    pub allow: Vec<String>,
    /// Path patterns. None of them may match.
    pub deny: Vec<String>,
    /// Further patterns that allow, in the form that KES had in 2020. In them `*`, `?` and `[…]` match anything but a `/`.
    pub paths: Vec<String>,
    /// The identities that have this policy.
    pub identities: Vec<Identity>,
}

/// The chosen key store.
#[derive(Debug, PartialEq, Eq)]
pub enum KeyStoreSettings {
    /// An encrypted local directory.
    Fs {
        /// The directory.
        path: PathBuf,
        /// The source of its root key.
        root_key: RootKeySource,
        /// Whether a missing store is created, together with its root key if that is missing too.
        create: bool,
    },
    /// A directory of plaintext key files, as KES keeps them. Each file is imported into an encrypted store below it.
    KesDirectory {
        /// The directory of the key files.
        path: PathBuf,
        /// The source of the store's root key. `None` means a file beside the directory or in it.
        root_key: Option<RootKeySource>,
        /// Whether a missing store is created when its root key exists.
        create: bool,
    },
    /// A HashiCorp Vault or OpenBao.
    Vault(Box<VaultConfig>),
    /// AWS KMS.
    AwsKms(Box<AwsConfig>),
    /// AWS Secrets Manager.
    AwsSecrets(Box<SecretsConfig>),
    /// A key store whose records are sealed under a store key that roots have, or wrapped by a root one by one.
    Wrapped {
        /// Where the records are stored.
        store: BareStore,
        /// The roots.
        kms: Vec<RootSettings>,
    },
    /// An encrypted local directory with further roots beside its root key.
    FsWithRoots {
        /// The directory.
        path: PathBuf,
        /// The source of its root key.
        root_key: RootKeySource,
        /// Whether a missing store is created, together with its root key if that is missing too.
        create: bool,
        /// The further roots.
        kms: Vec<RootSettings>,
    },
    /// Memory. Every key is lost when the process ends.
    Memory,
    /// One of the local stores above, opened read-only. Whatever can be read is served.
    Salvage(Box<KeyStoreSettings>),
}

impl KeyStoreSettings {
    /// Returns the TLS settings of every Vault that the key store uses.
    pub fn vault_tls(&self) -> Vec<&TlsConfig> {
        match self {
            Self::Vault(vault) => vec![&vault.tls],
            Self::Wrapped { store, kms } => {
                let store = if let BareStore::Vault(vault) = store { Some(&vault.tls) } else { None };
                store.into_iter().chain(kms.iter().filter_map(RootSettings::vault_tls)).collect()
            }
            Self::FsWithRoots { kms, .. } => kms.iter().filter_map(RootSettings::vault_tls).collect(),
            Self::Salvage(store) => store.vault_tls(),
            Self::Fs { .. }
            | Self::KesDirectory { .. }
            | Self::AwsKms(_)
            | Self::AwsSecrets(_)
            | Self::Memory => Vec::new(),
        }
    }

    /// Returns the settings of the PostgreSQL that has the records, if one has.
    pub fn postgres(&self) -> Option<&PostgresConfig> {
        match self {
            Self::Wrapped { store: BareStore::Postgres(config), .. } => Some(config),
            _ => None,
        }
    }

    /// Allows a missing local store to be created. Returns whether this key store is local.
    pub fn allow_create(&mut self) -> bool {
        match self {
            Self::Fs { create, .. }
            | Self::FsWithRoots { create, .. }
            | Self::KesDirectory { create, .. } => {
                *create = true;
                true
            }
            _ => false,
        }
    }
}

/// A key store that can be put under an external root key.
#[derive(Debug, PartialEq, Eq)]
pub enum BareStore {
    /// The local directory at this path.
    Fs(PathBuf),
    /// A HashiCorp Vault or OpenBao.
    Vault(Box<VaultConfig>),
    /// A table in PostgreSQL.
    Postgres(Box<PostgresConfig>),
}

/// A root of a key store.
#[derive(Debug, PartialEq, Eq)]
pub struct RootSettings {
    /// The section of the config, such as `kms.aws` or `kms.1.vault`.
    pub section: String,
    /// The id. `None` for a local root key, which has to be read first, and for a CMK that has neither ARN nor id.
    pub id: Option<RootId>,
    /// Where the root key is.
    pub kms: OuterKms,
}

impl RootSettings {
    fn vault_tls(&self) -> Option<&TlsConfig> {
        if let OuterKms::Vault(vault) = &self.kms { Some(&vault.tls) } else { None }
    }
}

/// Where a root key is.
#[derive(Debug, PartialEq, Eq)]
pub enum OuterKms {
    /// A CMK of AWS KMS.
    Aws(Box<WrapperConfig>),
    /// A key of Vault's transit engine.
    Vault(Box<VaultConfig>),
    /// A root key that this process reads.
    Local(RootKeySource),
}

impl OuterKms {
    /// Returns `true` if both are known to be one root key, whatever their ids are.
    ///
    /// What only its holder could tell is not known: that an alias stands for a key, that two addresses are those of one
    /// Vault, that two files have the same content.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Aws(one), Self::Aws(other)) => is_same_cmk(one, other),
            (Self::Vault(one), Self::Vault(other)) => {
                let transit = |vault: &VaultConfig| {
                    let transit = vault.transit.as_ref()?;
                    Some(RootId::of_vault(vault.namespace.as_deref(), &transit.engine, &transit.key))
                };
                let address = |vault: &VaultConfig| vault.endpoint.trim_end_matches('/').to_ascii_lowercase();
                address(one) == address(other) && transit(one).is_some() && transit(one) == transit(other)
            }
            (Self::Local(one), Self::Local(other)) => one == other,
            _ => false,
        }
    }
}

/// An ARN names a key wherever it is asked; an id or an alias names one of a region and an address.
fn is_same_cmk(one: &WrapperConfig, other: &WrapperConfig) -> bool {
    let place = |cmk: &WrapperConfig| (cmk.connection.region.clone(), cmk.connection.endpoint.clone());
    one.key == other.key && (one.key.starts_with("arn:") || place(one) == place(other))
}

/// The source of a local store's root key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootKeySource {
    /// A file that only its owner may read.
    File(PathBuf),
    /// A file of systemd's credentials directory, which exists before the first start.
    Credential(PathBuf),
    /// The environment variable with this name.
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

/// The timeout of a route unless the configuration sets another.
pub const DEFAULT_ROUTE_TIMEOUT: Duration = Duration::from_secs(15);
