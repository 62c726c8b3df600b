//! The settings as a configuration gives them, and how what is silent is filled up.

use std::path::PathBuf;
use std::time::Duration;

use kms_core::Result;
use kms_core::primitives::{Secret, SecretSource};

use super::env::Environment;
use super::host::{DEFAULT_PORT, Host};
use super::pass_file::PassFile;
use super::settings::{ChannelBinding, OfUrl, PostgresConfig, TlsConfig, TlsMode, invalid};
use super::url::Url;

/// The settings of a database as they were given, each of which may be missing.
///
/// What is missing comes from `url`, then from libpq's environment variables, then from a default. A password that is missing
/// everywhere is looked for in libpq's password file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostgresOptions {
    /// `postgresql://user:password@host:port,host:port/database?sslmode=verify-full`.
    pub url: Option<Secret>,
    /// Names or addresses, separated by commas.
    pub host: Option<String>,
    /// One port for all hosts, or one for each, separated by commas.
    pub port: Option<String>,
    /// The hosts of the connection that listens, like `host`.
    pub listen_host: Option<String>,
    /// The ports of the connection that listens, like `port`.
    pub listen_port: Option<String>,
    /// The database.
    pub database: Option<String>,
    /// The role.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// A file with the password.
    pub password_file: Option<PathBuf>,
    /// `disable`, `allow`, `prefer`, `require`, `verify-ca` or `verify-full`.
    pub tls_mode: Option<String>,
    /// A file or directory of CAs.
    pub tls_ca: Option<PathBuf>,
    /// A file with the certificate to show.
    pub tls_cert: Option<PathBuf>,
    /// A file with its private key.
    pub tls_key: Option<PathBuf>,
    /// The schema.
    pub schema: Option<String>,
    /// The table.
    pub table: Option<String>,
    /// The most connections.
    pub pool: Option<usize>,
    /// Whether a standby may answer reads.
    pub standby_reads: Option<bool>,
    /// Whether the table is made if it is missing.
    pub create_schema: Option<bool>,
}

impl PostgresOptions {
    /// Fills up what is missing, and checks the whole.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](kms_core::ErrorKind::InvalidInput): a setting cannot be used. The error names it.
    pub fn resolve(self, environment: &Environment) -> Result<PostgresConfig> {
        refuse_unknown(environment)?;
        let url = match &self.url {
            Some(url) => Url::parse(url.expose()).map_err(|why| invalid("url", why))?,
            None => Url::default(),
        };
        let given = |of_config: Option<String>, of_url: Option<&String>, variable: &str| {
            of_config.or_else(|| of_url.cloned()).or_else(|| environment.get(variable))
        };
        let of_url = OfUrl(self.url.is_some().then(|| self.of_url(&url)));
        check_attributes(given(None, url.option("target_session_attrs"), "PGTARGETSESSIONATTRS").as_deref())?;
        let hosts = self.hosts(&url, environment)?;
        let listen_hosts = match (&self.listen_host, &self.listen_port) {
            (None, None) => Vec::new(),
            (Some(names), ports) => hosts_of("listen_host", names, "listen_port", ports.as_deref())?,
            (None, Some(_)) => {
                let names: Vec<_> = hosts.iter().map(|host| host.name.as_str()).collect();
                hosts_of("listen_host", &names.join(","), "listen_port", self.listen_port.as_deref())?
            }
        };
        let user = given(self.user.clone(), url.user.as_ref(), "PGUSER")
            .ok_or_else(|| invalid("user", "it is missing, and so is PGUSER"))?;
        let database =
            given(self.database.clone(), url.database.as_ref(), "PGDATABASE").unwrap_or_else(|| user.clone());
        let password = match (self.password, self.password_file) {
            (Some(_), Some(_)) => {
                return Err(invalid("password", "there is a 'password_file' too, and only one may be"));
            }
            (Some(password), None) => Some(SecretSource::Value(password)),
            (None, Some(file)) => Some(SecretSource::File(file)),
            (None, None) => url
                .password
                .clone()
                .or_else(|| environment.get("PGPASSWORD").map(Secret::from))
                .map(SecretSource::Value),
        };
        let pass_file = match password {
            Some(_) => None,
            None => given(None, url.option("passfile").filter(|path| !path.is_empty()), "PGPASSFILE")
                .map(PassFile::new)
                .or_else(|| {
                    let home = environment.get("HOME")?;
                    Some(PassFile::new(PathBuf::from(home).join(".pgpass")))
                }),
        };
        let mode = given(self.tls_mode, url.option("sslmode"), "PGSSLMODE");
        let binding = given(None, url.option("channel_binding"), "PGCHANNELBINDING");
        let file = |of_config: Option<PathBuf>, option: &str, variable: &str| {
            of_config.or_else(|| given(None, url.option(option), variable).map(PathBuf::from))
        };
        let tls = TlsConfig {
            mode: match mode {
                None => TlsMode::default(),
                Some(word) => TlsMode::of(&word).ok_or_else(|| {
                    invalid("tls.mode", "expected disable, allow, prefer, require, verify-ca or verify-full")
                })?,
            },
            // `system` is libpq's word for the CAs of the system.
            ca: file(self.tls_ca, "sslrootcert", "PGSSLROOTCERT").filter(|path| path.as_os_str() != "system"),
            cert: file(self.tls_cert, "sslcert", "PGSSLCERT"),
            key: file(self.tls_key, "sslkey", "PGSSLKEY"),
            channel_binding: match binding {
                None => ChannelBinding::default(),
                Some(word) => ChannelBinding::of(&word)
                    .ok_or_else(|| invalid("url", "its channel_binding is not disable, prefer or require"))?,
            },
        };
        let connect_timeout = match given(None, url.option("connect_timeout"), "PGCONNECT_TIMEOUT") {
            None => None,
            Some(text) => match text.trim().parse::<u64>() {
                Ok(seconds @ 1..) => Some(Duration::from_secs(seconds)),
                _ => return Err(invalid("url", "its connect_timeout is no number of seconds")),
            },
        };
        let default = PostgresConfig::new(hosts, database, user);
        let config = PostgresConfig {
            listen_hosts,
            password,
            pass_file,
            tls,
            schema: self.schema.unwrap_or(default.schema),
            table: self.table.unwrap_or(default.table),
            pool: self.pool.unwrap_or(default.pool),
            standby_reads: self.standby_reads.unwrap_or(default.standby_reads),
            create_schema: self.create_schema.unwrap_or(default.create_schema),
            application_name: given(None, url.option("application_name"), "PGAPPNAME")
                .unwrap_or(default.application_name),
            connect_timeout: connect_timeout.unwrap_or(default.connect_timeout),
            hosts: default.hosts,
            database: default.database,
            user: default.user,
            timeout: default.timeout,
            write_timeout: default.write_timeout,
            of_url,
        };
        config.validate()?;
        Ok(config)
    }

    /// Returns the keys of the settings that the URL gives and the config leaves out.
    fn of_url(&self, url: &Url) -> Vec<&'static str> {
        let option = |name: &str| url.option(name).is_some();
        let gives_hosts = self.host.is_none() && (option("host") || !url.hosts.is_empty());
        let is_password_given = self.password.is_some() || self.password_file.is_some();
        let keys = [
            ("host", gives_hosts),
            ("port", self.port.is_none() && (gives_hosts || self.host.is_none() && option("port"))),
            ("user", self.user.is_none() && url.user.is_some()),
            ("database", self.database.is_none() && url.database.is_some()),
            ("password", !is_password_given && url.password.is_some()),
            ("tls.mode", self.tls_mode.is_none() && option("sslmode")),
            ("tls.ca", self.tls_ca.is_none() && option("sslrootcert")),
            ("tls.cert", self.tls_cert.is_none() && option("sslcert")),
            ("tls.key", self.tls_key.is_none() && option("sslkey")),
        ];
        keys.into_iter().filter_map(|(key, is_given)| is_given.then_some(key)).collect()
    }

    /// Returns the hosts of the config, else those of the URL, else those of the environment. As with libpq, an option of a URL
    /// wins over what stands before it. The ports of a URL are for hosts that the config does not name.
    fn hosts(&self, url: &Url, environment: &Environment) -> Result<Vec<Host>> {
        let of_url = url.option("port").filter(|_| self.host.is_none());
        let ports = self.port.as_ref().map(|port| ("port", port)).or(of_url.map(|port| ("url", port)));
        if self.host.is_none() {
            let (field, ports) = ports.map_or(("url", None), |(field, ports)| (field, Some(ports.as_str())));
            if let Some(names) = url.option("host") {
                return hosts_of("url", names, field, ports);
            }
            if !url.hosts.is_empty() && ports.is_some() {
                let names: Vec<_> = url.hosts.iter().map(|host| host.name.as_str()).collect();
                return hosts_of("url", &names.join(","), field, ports);
            }
            if !url.hosts.is_empty() {
                return Ok(url.hosts.clone());
            }
        }
        let names = self.host.clone().or_else(|| environment.get("PGHOST"));
        let names = names.ok_or_else(|| invalid("host", "it is missing, and so are 'url' and PGHOST"))?;
        let (field, ports) = match ports {
            Some((field, ports)) => (field, Some(ports.clone())),
            None => ("port", environment.get("PGPORT")),
        };
        hosts_of("host", &names, field, ports.as_deref())
    }
}

/// Variables of libpq that would lead to another database, or ask more of the server than is asked here.
const UNKNOWN: [(&str, &str); 7] = [
    (
        "PGSERVICE",
        "service files are not read: name host, port, database and user in the config, and unset it",
    ),
    (
        "PGOPTIONS",
        "settings of sessions are not sent: give them to the role by 'ALTER ROLE ... SET', and unset it",
    ),
    ("PGHOSTADDR", "addresses beside names are not known: name the address in 'host', and unset it"),
    ("PGREQUIREAUTH", "it is not known here: 'PGCHANNELBINDING=require' asks for SCRAM over TLS; unset it"),
    ("PGREQUIREPEER", "it is not known here, so nobody asks who has the socket; unset it"),
    ("PGSSLCRL", "lists of revoked certificates are not read; unset it"),
    ("PGSSLCRLDIR", "lists of revoked certificates are not read; unset it"),
];

/// Refuses variables that would be passed over silently, and may be meant to lead elsewhere or to make things safer.
fn refuse_unknown(environment: &Environment) -> Result<()> {
    match UNKNOWN.iter().find(|(name, _)| environment.get(name).is_some()) {
        Some((name, why)) => {
            Err(invalid("url", &format!("the environment has {name}, as libpq knows it: {why}")))
        }
        None => Ok(()),
    }
}

/// Refuses attributes that contradict ours: only a server that takes writes is used.
fn check_attributes(word: Option<&str>) -> Result<()> {
    match word {
        None | Some("any" | "read-write" | "primary") => Ok(()),
        // A URL with a password that is not escaped may have a part of it there, so it is not quoted.
        Some(_) => Err(invalid(
            "url",
            "its target_session_attrs is not any, primary or read-write, and only servers that take writes are used",
        )),
    }
}

/// Pairs names and ports: no port, one for all, or one for each.
pub(super) fn hosts_of(field: &str, names: &str, port_field: &str, ports: Option<&str>) -> Result<Vec<Host>> {
    let names: Vec<_> = names.split(',').map(str::trim).collect();
    let ports: Vec<_> = ports.map(|ports| ports.split(',').map(str::trim).collect()).unwrap_or_default();
    if ports.len() > 1 && ports.len() != names.len() {
        return Err(invalid(port_field, "there has to be one port, or one for each host"));
    }
    let hosts = names.iter().enumerate().map(|(index, name)| {
        let port = match ports.get(index).or_else(|| ports.first()) {
            None | Some(&"") => DEFAULT_PORT,
            Some(port) => port.parse().map_err(|_| invalid(port_field, "expected a number up to 65535"))?,
        };
        if name.is_empty() {
            return Err(invalid(field, "a host in it is empty"));
        }
        Ok(Host::new(name.trim_matches(['[', ']']), port))
    });
    hosts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(options: PostgresOptions, variables: &[(&str, &str)]) -> Result<PostgresConfig> {
        options.resolve(&Environment::from_pairs(variables))
    }

    fn url(text: &str) -> PostgresOptions {
        PostgresOptions { url: Some(Secret::from(text)), ..PostgresOptions::default() }
    }

    #[test]
    fn a_url_gives_all_that_libpq_reads_from_it() {
        let config = resolve(
            url("postgres://me:p%40ss@a,b:6000,[::1]:7000/keys?sslmode=verify-ca&sslrootcert=/ca.pem&connect_timeout=7"),
            &[("PGHOST", "other"), ("PGPORT", "1"), ("PGUSER", "other"), ("PGPASSWORD", "other")],
        )
        .unwrap();
        let hosts: Vec<_> = config.hosts.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["a:5432", "b:6000", "[::1]:7000"]);
        assert_eq!((config.user.as_str(), config.database.as_str()), ("me", "keys"));
        assert_eq!(config.password, Some(SecretSource::Value(Secret::from("p@ss"))));
        assert_eq!((config.tls.mode, config.tls.ca), (TlsMode::VerifyCa, Some("/ca.pem".into())));
        assert_eq!(config.connect_timeout, Duration::from_secs(7));
    }

    #[test]
    fn what_a_url_gave_is_known_and_a_url_is_no_host() {
        let given = |options: PostgresOptions| resolve(options, &[]).unwrap().of_url.0;
        assert_eq!(
            given(url("postgres://u:p@h/d")),
            Some(vec!["host", "port", "user", "database", "password"])
        );
        let beside = PostgresOptions { host: Some("a".to_owned()), ..url("postgres://u@h?sslmode=require") };
        assert_eq!(given(beside), Some(vec!["user", "tls.mode"]));
        let plain = |host: &str| PostgresOptions {
            host: Some(host.to_owned()),
            user: Some("u".to_owned()),
            ..PostgresOptions::default()
        };
        assert_eq!(given(plain("h")), None);
        let error = resolve(plain("postgres://u:pw9secret@h/d"), &[]).unwrap_err().chain().to_string();
        assert!(error.contains("belongs into 'url'") && !error.contains("pw9secret"), "{error}");
    }

    #[test]
    fn hosts_may_be_options_of_a_url() {
        for (text, expected) in [
            ("postgresql:///keys?user=me&host=/run/postgresql", None),
            ("postgresql://me@/keys?host=/run/postgresql", Some("/run/postgresql:5432")),
            ("postgresql://me@/keys?host=a,b&port=1,2", Some("a:1 b:2")),
            ("postgresql://me@c:3/keys?host=a", Some("a:5432")),
            ("postgresql://me@a,b:3/keys?port=7", Some("a:7 b:7")),
            ("postgresql://me@/keys?host=a,b&port=1,2,3", None),
        ] {
            let hosts = resolve(url(text), &[("PGPORT", "9")])
                .map(|config| config.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
            assert_eq!(hosts.ok().as_deref(), expected, "{text}");
        }
        let ports = |host: Option<&str>, port: Option<&str>, text: &str| {
            let (host, port) = (host.map(str::to_owned), port.map(str::to_owned));
            let options = PostgresOptions { host, port, ..url(text) };
            resolve(options, &[("PGHOST", "env"), ("PGPORT", "9")]).unwrap().hosts[0].to_string()
        };
        assert_eq!(
            ports(None, None, "postgresql://me@/keys?port=7"),
            "env:7",
            "nothing of a URL is passed over"
        );
        assert_eq!(ports(None, Some("8"), "postgresql://me@h:7/keys"), "h:8", "the config wins");
        assert_eq!(
            ports(Some("c"), None, "postgresql://me@h/keys?port=7"),
            "c:9",
            "the URL's port is for its own hosts"
        );
    }

    #[test]
    fn what_is_silent_comes_from_the_environment_and_the_config_wins_over_both() {
        let variables = [
            ("PGHOST", "a,b"),
            ("PGPORT", "6000"),
            ("PGUSER", "env"),
            ("PGPASSWORD", "pw"),
            ("PGDATABASE", "db"),
            ("PGSSLMODE", "require"),
            ("PGSSLROOTCERT", "system"),
            ("PGTARGETSESSIONATTRS", "read-write"),
        ];
        let config = resolve(PostgresOptions::default(), &variables).unwrap();
        assert_eq!(config.hosts, [Host::new("a", 6000), Host::new("b", 6000)]);
        assert_eq!((config.user.as_str(), config.database.as_str()), ("env", "db"));
        assert_eq!((config.tls.mode, config.tls.ca), (TlsMode::Require, None));
        let options = PostgresOptions {
            host: Some("c".to_owned()),
            user: Some("conf".to_owned()),
            tls_mode: Some("verify-full".to_owned()),
            password_file: Some("/pw".into()),
            ..url("postgresql://url@d/x?sslmode=disable")
        };
        let config = resolve(options, &variables).unwrap();
        assert_eq!(config.hosts, [Host::new("c", 6000)]);
        assert_eq!((config.user.as_str(), config.database.as_str()), ("conf", "x"));
        assert_eq!(config.tls.mode, TlsMode::VerifyFull);
        assert_eq!(config.password, Some(SecretSource::File("/pw".into())));
    }

    #[test]
    fn verify_full_is_the_default_and_the_database_is_named_like_the_role() {
        let config = resolve(url("postgresql://me@db"), &[]).unwrap();
        assert_eq!(config.tls.mode, TlsMode::VerifyFull);
        assert_eq!(config.database, "me");
        assert!(!config.standby_reads && !config.create_schema);
    }

    #[test]
    fn a_password_that_is_missing_comes_from_a_password_file() {
        let file = |options: PostgresOptions, variables: &[(&str, &str)]| {
            let config = resolve(options, variables).unwrap();
            config.pass_file.map(|file| file.path().display().to_string())
        };
        let (home, named) = (("HOME", "/home/me"), ("PGPASSFILE", "/named"));
        let bare = || url("postgresql://me@db");
        assert_eq!(file(bare(), &[home]).as_deref(), Some("/home/me/.pgpass"));
        assert_eq!(file(bare(), &[home, named]).as_deref(), Some("/named"));
        let in_url = url("postgresql://me@db?passfile=/in/url");
        assert_eq!(file(in_url, &[home, named]).as_deref(), Some("/in/url"));
        assert_eq!(file(bare(), &[]), None);
        assert_eq!(file(bare(), &[home, named, ("PGPASSWORD", "pw")]), None);
        assert_eq!(file(url("postgresql://me:pw@db"), &[home, named]), None);
        let with_file = PostgresOptions { password_file: Some("/pw".into()), ..bare() };
        assert_eq!(file(with_file, &[home, named]), None);
    }

    #[test]
    fn a_variable_that_would_lead_elsewhere_is_refused_by_name() {
        for (name, _) in UNKNOWN {
            let error = resolve(url("postgresql://me@db"), &[(name, "value")]).unwrap_err();
            let text = error.chain().to_string();
            assert!(text.contains(name) && text.contains("unset it"), "{text}");
            resolve(url("postgresql://me@db"), &[(name, "")]).unwrap();
        }
    }

    #[test]
    fn a_mistake_names_its_setting_and_no_secret() {
        for (field, options) in [
            ("url", url("mysql://a")),
            ("url", url("postgresql://me:pw-secret@db:port/x")),
            ("url", url("postgresql://me:pw-secret@db/x?sslmod=require")),
            ("url", url("postgresql://me:pw-secret@db/x?target_session_attrs=standby")),
            ("url", url("postgresql://me:pw?target_session_attrs=secret@db/x")),
            ("url", url("postgresql://me:pw-secret@db/x?sslmode=require&pass word")),
            ("host", PostgresOptions { user: Some("u".to_owned()), ..PostgresOptions::default() }),
            ("user", url("postgresql://db/x")),
            ("tls.mode", url("postgresql://me:pw-secret@db/x?sslmode=full")),
            (
                "port",
                PostgresOptions {
                    host: Some("a".to_owned()),
                    port: Some("1,2".to_owned()),
                    ..url("postgresql://me@db")
                },
            ),
        ] {
            let error = resolve(options, &[]).unwrap_err();
            assert!(error.operation().contains(field), "{field}: {error}");
            assert!(!error.chain().to_string().contains("secret"), "{}", error.chain());
        }
    }
}
