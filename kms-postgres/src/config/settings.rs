//! The settings of a database, checked.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use kms_core::primitives::SecretSource;
use kms_core::store::InvalidSetting;
use kms_core::{Error, Result};

use super::host::Host;
use super::pass_file::{NoPassword, PassFile};

/// The longest name of anything in PostgreSQL, in bytes. It cuts longer ones silently.
const MAX_IDENTIFIER: usize = 63;
/// The most connections of one pool.
const MAX_POOL: usize = 1_000;

/// A database, and the table of the keys in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresConfig {
    /// The servers of the database, in the order in which they are tried. Only one that takes writes is used.
    pub hosts: Vec<Host>,
    /// The servers for the connection that listens for changes. Empty means `hosts`.
    ///
    /// They have to be PostgreSQL itself, since a PgBouncer in transaction mode passes on no notifications.
    pub listen_hosts: Vec<Host>,
    /// The database.
    pub database: String,
    /// The role that logs in.
    pub user: String,
    /// The password; `None` where the server asks for none, or for a certificate.
    pub password: Option<SecretSource>,
    /// libpq's password file, which is looked into where `password` is `None`.
    pub pass_file: Option<PassFile>,
    /// The TLS connection.
    pub tls: TlsConfig,
    /// The schema of the table. The default is `kms`.
    pub schema: String,
    /// The table. The default is `kms_keys`.
    pub table: String,
    /// The most connections at once, 2 or more; writes take at most half of them. The default is 16. The connection that
    /// listens comes on top.
    pub pool: usize,
    /// Whether a server that only takes reads may answer reads while no other can be reached. The default is `false`.
    pub standby_reads: bool,
    /// Whether schema and table are made at the first connection if they are missing. The default is `false`.
    pub create_schema: bool,
    /// The name by which the server lists our connections. The default is `kms`.
    pub application_name: String,
    /// The longest time for a connection to one server, login and all. The default is 3 s.
    pub connect_timeout: Duration,
    /// The longest time for a read, and for a write until it is sent. The default is 5 s.
    pub timeout: Duration,
    /// The longest time that a caller waits for the outcome of a write. The write itself goes on. The default is 9 s.
    pub write_timeout: Duration,
    /// Which of these settings a URL gave.
    pub of_url: OfUrl,
}

/// Which settings a URL gave, so that they can be told from defaults. This is no setting itself: any two are equal.
#[derive(Clone, Debug, Default)]
pub struct OfUrl(pub(super) Option<Vec<&'static str>>);

impl OfUrl {
    /// Returns the keys of the settings; `None` if there was no URL.
    pub fn keys(&self) -> Option<&[&'static str]> {
        self.0.as_deref()
    }
}

impl PartialEq for OfUrl {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for OfUrl {}

/// The TLS connection: what the server has to prove, and the certificates to trust and to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// What is asked of the server. The default is `verify-full`.
    pub mode: TlsMode,
    /// A PEM file, or a directory of PEM files, with the CAs to trust instead of the system's.
    ///
    /// A certificate in it that the server itself presents is a pin; see `kms_trust::ServerVerifier`.
    pub ca: Option<PathBuf>,
    /// A PEM file with the certificate chain to show.
    pub cert: Option<PathBuf>,
    /// A PEM file with the private key of that certificate.
    pub key: Option<PathBuf>,
    /// Whether a login by password has to be bound to the TLS connection (SCRAM-SHA-256-PLUS).
    pub channel_binding: ChannelBinding,
}

/// What is asked of the server's end of the connection. The words are those of libpq's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// No TLS.
    Disable,
    /// TLS if the server has it, with any certificate (`allow`, `prefer`). An attacker can switch it off.
    Prefer,
    /// TLS with any certificate; as with libpq, one of the CAs' if `ca` is given.
    Require,
    /// A certificate of a trusted CA, for any name.
    VerifyCa,
    /// A certificate of a trusted CA for this very name.
    #[default]
    VerifyFull,
}

impl TlsMode {
    /// Reads a word of libpq's `sslmode`.
    pub fn of(word: &str) -> Option<Self> {
        Some(match word {
            "disable" => Self::Disable,
            "allow" | "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => return None,
        })
    }

    /// Returns what is not safe about this mode; `None` for `verify-full`.
    pub fn warning(self) -> Option<&'static str> {
        match self {
            Self::Disable => Some("there is no TLS: the login and the sealed keys travel in the clear"),
            Self::Prefer => {
                Some("TLS is used only if the server offers it, and whoever is between can switch it off")
            }
            Self::Require => Some(
                "the server's certificate is not checked for its name, so another server can take its place",
            ),
            Self::VerifyCa => {
                Some("every server with a certificate of the CA is accepted, whatever its name")
            }
            Self::VerifyFull => None,
        }
    }
}

impl fmt::Display for TlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        })
    }
}

/// Whether a login is bound to its TLS connection. The words are those of libpq's `channel_binding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where the server can.
    #[default]
    Prefer,
    /// Always: a server that asks for anything else is refused.
    Require,
}

impl ChannelBinding {
    /// Reads a word of libpq's `channel_binding`.
    pub fn of(word: &str) -> Option<Self> {
        Some(match word {
            "disable" => Self::Disable,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            _ => return None,
        })
    }
}

impl PostgresConfig {
    /// Creates the default configuration for a database.
    pub fn new(hosts: Vec<Host>, database: impl Into<String>, user: impl Into<String>) -> Self {
        Self {
            hosts,
            listen_hosts: Vec::new(),
            database: database.into(),
            user: user.into(),
            password: None,
            pass_file: None,
            tls: TlsConfig::default(),
            schema: "kms".to_owned(),
            table: "kms_keys".to_owned(),
            pool: 16,
            standby_reads: false,
            create_schema: false,
            application_name: "kms".to_owned(),
            connect_timeout: Duration::from_secs(3),
            timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(9),
            of_url: OfUrl::default(),
        }
    }

    /// Checks everything that can be checked without a database and without a file.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](kms_core::ErrorKind::InvalidInput): a setting cannot be used. The error names it.
    pub fn validate(&self) -> Result<()> {
        if self.hosts.is_empty() {
            return Err(invalid("host", "there is none"));
        }
        let hosts = self.hosts.iter().map(|host| ("host", host));
        for (field, host) in hosts.chain(self.listen_hosts.iter().map(|host| ("listen_host", host))) {
            is_text(field, &host.name)?;
            // It may hold a password, so it is not quoted.
            if !host.is_socket() && host.name.contains(['/', '@', '?']) {
                return Err(invalid(
                    field,
                    "expected a name, an address or the directory of a socket, and a URL belongs into 'url'",
                ));
            }
            if host.port == 0 {
                return Err(invalid(field, "its port is 0"));
            }
        }
        for (field, text) in [
            ("database", &self.database),
            ("user", &self.user),
            ("schema", &self.schema),
            ("table", &self.table),
        ] {
            is_text(field, text)?;
            if text.len() > MAX_IDENTIFIER {
                return Err(invalid(
                    field,
                    &format!("it is longer than {MAX_IDENTIFIER} bytes, and PostgreSQL would cut it"),
                ));
            }
        }
        if let Some(SecretSource::File(path)) = &self.password
            && path.as_os_str().is_empty()
        {
            return Err(invalid("password_file", "the file has no name"));
        }
        if self.tls.cert.is_some() != self.tls.key.is_some() {
            return Err(invalid("tls", "'cert' and 'key' belong together, one of them is missing"));
        }
        if !(2..=MAX_POOL).contains(&self.pool) {
            return Err(invalid(
                "pool",
                &format!("it has to be from 2 to {MAX_POOL}: writes take at most half of it"),
            ));
        }
        if self.connect_timeout.is_zero() || self.timeout.is_zero() || self.write_timeout.is_zero() {
            return Err(invalid("timeout", "no timeout can be zero"));
        }
        Ok(())
    }

    /// Returns the servers of the connection that listens.
    pub(crate) fn hosts_to_listen(&self) -> &[Host] {
        if self.listen_hosts.is_empty() { &self.hosts } else { &self.listen_hosts }
    }

    /// Returns that the password file is ignored, if it is looked into and others than its owner may read or change it.
    pub(crate) fn ignored_pass_file(&self) -> Option<NoPassword> {
        let file = self.pass_file.as_ref().filter(|file| self.password.is_none() && file.is_open())?;
        Some(NoPassword::Open(file.path().to_owned()))
    }

    /// Returns how messages name the table.
    pub(crate) fn place(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }
}

fn is_text(field: &str, text: &str) -> Result<()> {
    if text.trim().is_empty() {
        return Err(invalid(field, "it is empty"));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid(field, "it has a control character"));
    }
    Ok(())
}

pub(crate) fn invalid(field: &str, why: &str) -> Error {
    InvalidSetting::error(format!("use the PostgreSQL setting '{field}'"), field, why)
}

#[cfg(test)]
mod tests {
    use kms_core::ErrorKind;
    use kms_core::primitives::Secret;

    use super::*;

    fn config() -> PostgresConfig {
        let password = Some(SecretSource::Value(Secret::from("pw-secret")));
        PostgresConfig { password, ..PostgresConfig::new(vec![Host::new("db", 5432)], "keys", "kms") }
    }

    #[test]
    fn debug_output_tells_no_secret() {
        let text = format!("{:?}", config());
        assert!(!text.contains("pw-secret") && text.contains("db"), "{text}");
    }

    #[test]
    fn a_setting_that_postgresql_would_read_as_another_is_refused() {
        config().validate().unwrap();
        for (field, bad) in [
            ("host", PostgresConfig { hosts: Vec::new(), ..config() }),
            ("host", PostgresConfig { hosts: vec![Host::new("a", 0)], ..config() }),
            ("listen_host", PostgresConfig { listen_hosts: vec![Host::new("", 1)], ..config() }),
            ("table", PostgresConfig { table: "t".repeat(64), ..config() }),
            ("schema", PostgresConfig { schema: "a\0b".to_owned(), ..config() }),
            ("pool", PostgresConfig { pool: 1, ..config() }),
            (
                "tls",
                PostgresConfig {
                    tls: TlsConfig { key: Some("k".into()), ..TlsConfig::default() },
                    ..config()
                },
            ),
            ("timeout", PostgresConfig { timeout: Duration::ZERO, ..config() }),
        ] {
            let error = bad.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{field}");
            assert!(error.operation().contains(field), "{error}");
        }
    }

    #[test]
    fn every_mode_but_verify_full_has_a_warning() {
        for word in ["disable", "allow", "prefer", "require", "verify-ca"] {
            assert!(TlsMode::of(word).unwrap().warning().is_some(), "{word}");
        }
        assert_eq!(TlsMode::of("verify-full").unwrap().warning(), None);
        assert_eq!(TlsMode::of("verify_full"), None);
    }
}
