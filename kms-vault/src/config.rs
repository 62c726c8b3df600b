//! The settings of a Vault. The defaults are those of KES.

use std::path::PathBuf;
use std::time::Duration;

use kms_core::primitives::{Secret, SecretSource};
use kms_core::store::InvalidSetting;
use kms_core::{Error, Result};
use reqwest::Url;
use reqwest::header::HeaderValue;

/// A Vault, and the place of the keys in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultConfig {
    /// The address, `https://host:port`. A path behind it is the place of a Vault behind a reverse proxy.
    pub endpoint: String,
    /// The mount path of the K/V engine. The default is `kv`.
    pub engine: String,
    /// The version of the K/V engine. The default is `V1` as in KES.
    ///
    /// Version 2 is the better choice, since its creates are atomic.
    pub version: KvVersion,
    /// The namespace of the engines (Vault Enterprise, OpenBao). `None` is the root namespace.
    pub namespace: Option<String>,
    /// The path before the names of keys in the engine. It may be empty, or have several segments.
    pub prefix: String,
    /// The login.
    pub login: Login,
    /// The transit key that seals records before they are stored.
    pub transit: Option<TransitConfig>,
    /// The TLS connection.
    pub tls: TlsConfig,
    /// The longest pause before a Vault that is away or refuses the login is tried again. The default is 10 s.
    pub ping: Duration,
    /// The longest time for making a connection. The default is 3 s.
    pub connect_timeout: Duration,
    /// The longest time for one request. The default is 5 s.
    pub timeout: Duration,
    /// The longest time for the write of a new entry on K/V version 1. The default is 0.5 s.
    pub write_deadline: Duration,
    /// The time before a new entry on K/V version 1 is read back. The default is 1 s.
    ///
    /// It has to be longer than the write deadline.
    pub settle: Duration,
}

/// The version of a K/V engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvVersion {
    /// One record at each path, without an atomic create.
    V1,
    /// Versioned records, with check-and-set.
    V2,
}

/// A login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// By AppRole.
    AppRole(AppRole),
    /// By the service account of a Kubernetes pod.
    Kubernetes(Kubernetes),
    /// With a token that somebody else renews or replaces. A renewable one is renewed here, too.
    Token(SecretSource),
}

impl Login {
    pub(crate) fn secret(&self) -> &SecretSource {
        match self {
            Self::AppRole(login) => &login.secret,
            Self::Kubernetes(login) => &login.jwt,
            Self::Token(token) => token,
        }
    }
}

/// A login by AppRole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppRole {
    /// The mount path of the method. The default is `approle`.
    pub engine: String,
    /// The namespace of the method, if it is not that of the engines. `/` is the root namespace.
    pub namespace: Option<String>,
    /// The role id.
    pub id: String,
    /// The secret id.
    pub secret: SecretSource,
    /// The longest pause before a failed login is tried again. The default, and the upper limit, is `ping`.
    ///
    /// After a secret was refused twice, the pause is longer unless another secret appears in its file: Vault
    /// locks a role after a few attempts.
    pub retry: Option<Duration>,
}

impl AppRole {
    /// Creates a login by the method mounted at `approle`.
    pub fn new(id: impl Into<String>, secret: Secret) -> Self {
        let secret = SecretSource::Value(secret);
        Self { engine: "approle".to_owned(), namespace: None, id: id.into(), secret, retry: None }
    }
}

/// A login by the service account of a Kubernetes pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// The mount path of the method. The default is `kubernetes`.
    pub engine: String,
    /// The namespace of the method, if it is not that of the engines. `/` is the root namespace.
    pub namespace: Option<String>,
    /// The role.
    pub role: String,
    /// The token of the service account.
    pub jwt: SecretSource,
}

impl Kubernetes {
    /// Creates a login by the method mounted at `kubernetes`.
    pub fn new(role: impl Into<String>, jwt: SecretSource) -> Self {
        Self { engine: "kubernetes".to_owned(), namespace: None, role: role.into(), jwt }
    }
}

/// A transit key that seals records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransitConfig {
    /// The mount path of the engine. The default is `transit`.
    pub engine: String,
    /// The name of the key.
    pub key: String,
    /// Whether to refuse records that are not sealed. Otherwise they are read with a warning.
    pub require: bool,
}

impl TransitConfig {
    /// Names a key of the engine mounted at `transit`.
    pub fn new(key: impl Into<String>) -> Self {
        Self { engine: "transit".to_owned(), key: key.into(), require: false }
    }
}

/// The TLS connection to Vault: the certificates to trust and to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// A PEM file, or a directory of PEM files, with the CAs to trust instead of the system's.
    ///
    /// A certificate in it that Vault itself presents is a pin. It is accepted after a check of its name and
    /// its dates. The check is left out if `ca` is one file with one certificate.
    pub ca: Option<PathBuf>,
    /// A PEM file with the certificate chain to show.
    pub cert: Option<PathBuf>,
    /// A PEM file with the private key of that certificate.
    pub key: Option<PathBuf>,
}

impl VaultConfig {
    /// Creates the default configuration of KES for the Vault at `endpoint`.
    pub fn new(endpoint: impl Into<String>, login: Login) -> Self {
        Self {
            endpoint: endpoint.into(),
            engine: "kv".to_owned(),
            version: KvVersion::V1,
            namespace: None,
            prefix: String::new(),
            login,
            transit: None,
            tls: TlsConfig::default(),
            ping: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(3),
            timeout: Duration::from_secs(5),
            write_deadline: Duration::from_millis(500),
            settle: Duration::from_secs(1),
        }
    }

    /// Checks everything that can be checked without a Vault.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](kms_core::ErrorKind::InvalidInput): a setting cannot be used. The error names it.
    pub fn validate(&self) -> Result<()> {
        self.url()?;
        is_path("engine", &self.engine, false)?;
        is_path("prefix", &self.prefix, true)?;
        is_namespace("namespace", self.namespace.as_deref())?;
        match &self.login {
            Login::AppRole(login) => {
                is_path("approle.engine", &login.engine, false)?;
                is_namespace("approle.namespace", login.namespace.as_deref())?;
                is_given("approle.id", &login.id)?;
                is_secret("approle.secret", &login.secret)?;
            }
            Login::Kubernetes(login) => {
                is_path("kubernetes.engine", &login.engine, false)?;
                is_namespace("kubernetes.namespace", login.namespace.as_deref())?;
                is_given("kubernetes.role", &login.role)?;
                is_secret("kubernetes.jwt", &login.jwt)?;
            }
            Login::Token(token) => is_secret("token", token)?,
        }
        if let Some(transit) = &self.transit {
            is_path("transit.engine", &transit.engine, false)?;
            is_path("transit.key", &transit.key, false)?;
            if transit.key.contains('/') {
                return Err(invalid("transit.key", "it has a '/'"));
            }
        }
        if self.tls.cert.is_some() != self.tls.key.is_some() {
            return Err(invalid("tls", "'cert' and 'key' belong together, one of them is missing"));
        }
        if self.write_deadline.is_zero() || self.settle <= self.write_deadline {
            return Err(invalid(
                "settle",
                "it has to be longer than the write deadline, which cannot be zero",
            ));
        }
        if self.timeout.is_zero() || self.connect_timeout.is_zero() || self.ping.is_zero() {
            return Err(invalid("timeout", "no timeout, and no ping, can be zero"));
        }
        Ok(())
    }

    /// Checks that a pod has its token, as KES does when it starts. Fails like [`validate`](Self::validate).
    ///
    /// The kubelet writes the token before anything starts in the pod, so a missing one will not appear. Other
    /// secrets may appear later, since an agent beside us writes them.
    pub(crate) fn look_for_token_of_pod(&self) -> Result<()> {
        match &self.login {
            Login::Kubernetes(login) => {
                login.jwt.read().map(drop).map_err(|why| invalid("kubernetes.jwt", &why))
            }
            Login::AppRole(_) | Login::Token(_) => Ok(()),
        }
    }

    pub(crate) fn url(&self) -> Result<Url> {
        // A text without a scheme may look as if it had one: the host of `vault:8200` would be the scheme.
        if !["https://", "http://"].iter().any(|scheme| begins_with(&self.endpoint, scheme)) {
            let why = "expected it to begin with 'https://' or 'http://', such as 'https://vault:8200'";
            return Err(invalid("endpoint", why));
        }
        let url = Url::parse(&self.endpoint).map_err(|error| invalid("endpoint", &error.to_string()))?;
        if url.host_str().is_none() {
            return Err(invalid("endpoint", "it is not of the form https://host:port"));
        }
        if url.query().is_some()
            || url.fragment().is_some()
            || !url.username().is_empty()
            || url.password().is_some()
        {
            return Err(invalid("endpoint", "it has more than a scheme, a host, a port and a path"));
        }
        Ok(url)
    }
}

/// Returns whether a text begins with a scheme. URLs are read in any case, and after white space.
fn begins_with(text: &str, scheme: &str) -> bool {
    let start = text.trim_start().as_bytes().get(..scheme.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
}

/// Returns the longest pause before a login is tried again.
pub(crate) fn longest_pause(config: &VaultConfig) -> Duration {
    match &config.login {
        Login::AppRole(AppRole { retry: Some(retry), .. }) => config.ping.min(*retry),
        _ => config.ping,
    }
}

fn is_given(field: &str, text: &str) -> Result<()> {
    if text.trim().is_empty() { Err(invalid(field, "it is empty")) } else { Ok(()) }
}

fn is_secret(field: &str, source: &SecretSource) -> Result<()> {
    match source {
        SecretSource::Value(secret) => is_given(field, secret.expose()),
        SecretSource::File(path) if path.as_os_str().is_empty() => {
            Err(invalid(field, "the file has no name"))
        }
        SecretSource::File(_) => Ok(()),
    }
}

/// Refuses a path that a URL or Vault would silently read as another one.
fn is_path(field: &str, path: &str, may_be_empty: bool) -> Result<()> {
    let path = path.trim_matches('/');
    if path.is_empty() {
        return if may_be_empty { Ok(()) } else { Err(invalid(field, "it is empty")) };
    }
    if path.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(invalid(field, "it has a segment that is empty, '.' or '..'"));
    }
    if path.chars().any(|c| c.is_control() || c == '\\') {
        return Err(invalid(field, "it has a control character or a backslash"));
    }
    Ok(())
}

fn is_namespace(field: &str, namespace: Option<&str>) -> Result<()> {
    let Some(namespace) = namespace else { return Ok(()) };
    is_path(field, namespace, true)?;
    match HeaderValue::from_str(namespace) {
        Ok(_) => Ok(()),
        Err(_) => Err(invalid(field, "it has a character that no HTTP header can hold")),
    }
}

pub(crate) fn invalid(field: &str, why: &str) -> Error {
    InvalidSetting::error(format!("use the Vault setting '{field}'"), field, why)
}

#[cfg(test)]
mod tests {
    use kms_core::ErrorKind;

    use super::*;

    fn config() -> VaultConfig {
        VaultConfig::new(
            "https://127.0.0.1:8200",
            Login::Token(SecretSource::Value(Secret::from("hvs.secret"))),
        )
    }

    #[test]
    fn debug_output_tells_no_secret() {
        let token = format!("{:?}", config());
        let role = Login::AppRole(AppRole::new("role", Secret::from("hvs.secret")));
        let role = format!("{:?}", VaultConfig { login: role, ..config() });
        for text in [token, role] {
            assert!(!text.contains("hvs.secret"), "{text}");
            assert!(text.contains("127.0.0.1:8200"), "{text}");
        }
    }

    #[test]
    fn paths_that_vault_would_read_as_others_are_refused() {
        config().validate().unwrap();
        for good in ["", "/", "minio", "/minio/", "team/a b", "ä"] {
            VaultConfig { prefix: good.to_owned(), ..config() }.validate().unwrap();
        }
        for bad in ["..", "a/../b", "a//b", "./a", "a\nb", "a\\b"] {
            let error = VaultConfig { prefix: bad.to_owned(), ..config() }.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad}");
            assert!(error.operation().contains("prefix"), "{error}");
        }
    }

    #[test]
    fn endpoints_are_plain_urls() {
        for good in ["http://vault", "https://vault:8200/", "https://[::1]:8200", "https://proxy/vault"] {
            VaultConfig { endpoint: good.to_owned(), ..config() }.validate().unwrap();
        }
        for bad in ["", "vault:8200", "ftp://vault", "https://me:pw@vault", "https://vault?x", "https://"] {
            assert!(VaultConfig { endpoint: bad.to_owned(), ..config() }.validate().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_settle_time_within_the_write_deadline_is_refused() {
        let settle = Duration::from_millis(500);
        assert!(VaultConfig { settle, ..config() }.validate().is_err());
    }
}
