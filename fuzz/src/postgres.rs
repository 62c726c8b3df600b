//! Where PostgreSQL is, and the password for it: URLs and libpq's password file.

#[allow(dead_code, unused_imports, missing_docs, reason = "a part of another crate")]
#[path = "../../kms-postgres/src/config/mod.rs"]
mod config;

use kms_core::primitives::{Secret, SecretSource};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use self::config::{ChannelBinding, Environment, PassFile, PostgresConfig, PostgresOptions};
use crate::split::split;

/// A password that no input has.
const CANARY: &str = "the-password-of-the-fuzz-target";

/// A URL, and a password file in which its login is looked up.
pub fn postgres_login(input: &[u8]) {
    let (url, file) = split(input);
    let Ok(url) = str::from_utf8(url) else { return };
    hides_a_password(url);
    let Ok(config) = read(url) else { return };
    let again = read(&written(&config)).unwrap_or_else(|error| panic!("{url:?}: {error:?}"));
    assert_eq!(again, config, "{url:?}");
    if !config.hosts.iter().any(|host| host.name.contains(['\n', '\r'])) {
        reads_a_line(&config, file);
    }
}

fn read(url: &str) -> kms_core::Result<PostgresConfig> {
    let url = Some(Secret::from(url));
    let variables = [("PGHOST", "of-environment"), ("PGUSER", "of-environment")];
    PostgresOptions { url, ..PostgresOptions::default() }.resolve(&Environment::from_pairs(&variables))
}

/// Whatever is amiss with a URL, no text shows the password in it.
fn hides_a_password(url: &str) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("postgresql", url));
    let rest = rest.split_once('@').map_or(rest, |(_, rest)| rest);
    let url = format!("{scheme}://me:{CANARY}@{rest}");
    let shown = match read(&url) {
        Ok(config) => {
            let password = config.password.as_ref().map(|password| password.read());
            // A further '@' belongs to the password.
            assert!(
                password.is_none_or(|password| password.is_ok_and(|text| text.expose().starts_with(CANARY)))
            );
            format!("{config:?}")
        }
        Err(error) => format!("{error} {error:?} {}", error.chain()),
    };
    assert!(!shown.contains(CANARY), "{shown}");
}

/// Writes a configuration as a URL, with every part in it.
fn written(config: &PostgresConfig) -> String {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let hosts: Vec<_> =
        config.hosts.iter().map(|host| format!("{}:{}", encoded(&host.name), host.port)).collect();
    let password = config.password.as_ref().map(|password| match password {
        SecretSource::Value(secret) => format!(":{}", encoded(secret.expose())),
        SecretSource::File(_) => panic!("a URL names no file with a password alone"),
    });
    let tls = &config.tls;
    let files = [("sslrootcert", &tls.ca), ("sslcert", &tls.cert), ("sslkey", &tls.key)];
    let files = files.into_iter().filter_map(|(name, path)| Some((name, path.as_deref()?)));
    let files = files.chain(config.pass_file.as_ref().map(|file| ("passfile", PassFile::path(file))));
    let files: String =
        files.map(|(name, path)| format!("&{name}={}", encoded(path.to_str().unwrap()))).collect();
    let binding = match tls.channel_binding {
        ChannelBinding::Disable => "disable",
        ChannelBinding::Prefer => "prefer",
        ChannelBinding::Require => "require",
    };
    format!(
        "postgres://{}{}@{}/{}?sslmode={}&channel_binding={binding}&connect_timeout={}&application_name={}{files}",
        encoded(&config.user),
        password.unwrap_or_default(),
        hosts.join(","),
        encoded(&config.database),
        tls.mode,
        config.connect_timeout.as_secs(),
        encoded(&config.application_name),
    )
}

/// A line with all that is escaped reads as what was written, before and behind anything else.
fn reads_a_line(config: &PostgresConfig, file: &[u8]) {
    let host = &config.hosts[0];
    let find = |content: &[u8]| {
        let found = PassFile::find(content, host, &config.database, &config.user);
        found.map(|secret| secret.expose().to_owned())
    };
    let found = find(file);
    let escaped = |text: &str| text.chars().flat_map(|c| ['\\', c]).collect::<String>();
    let line = |password: &str| {
        let [name, database, user, password] =
            [&host.name, &config.database, &config.user, password].map(escaped);
        format!("{name}:{}:{database}:{user}:{password}:\n", host.port).into_bytes()
    };
    // The directory of the system's own socket is looked up by another name.
    let own = find(&line(CANARY));
    assert!(own.is_none() || own.as_deref() == Some(CANARY));
    if own.is_some() {
        let password = found.as_deref().unwrap_or(CANARY);
        assert_eq!(find(&[&line(password), file].concat()).as_deref(), Some(password));
        assert_eq!(find(&[b"#", line(password).as_slice(), file].concat()), found, "a comment counts");
    }
    if found.is_some() {
        assert_eq!(find(&[file, b"\n", &line(CANARY)].concat()), found, "the first line decides");
    }
    assert!(found.is_none_or(|password| !password.is_empty() && !password.contains('\n')));
}
