//! The settings of key stores and roots that are in force.

use std::path::Path;

use kms_aws::{AwsConnection, WrapperConfig};
use kms_core::primitives::SecretSource;
use kms_core::roots::RootId;
use kms_postgres::PostgresConfig;
use kms_vault::{KvVersion, Login, VaultConfig};

use super::values::{Values, duration};
use crate::settings::{BareStore, KeyStoreSettings, OuterKms, RootKeySource, RootSettings};

/// Adds the settings of a key store.
pub fn key_store(store: &KeyStoreSettings, out: &mut Values) {
    match store {
        KeyStoreSettings::Fs { path, root_key, create } => {
            fs(path, Some(root_key), out);
            out.switch("keystore.fs.create", *create);
        }
        KeyStoreSettings::KesDirectory { path, root_key, create } => {
            fs(path, root_key.as_ref(), out);
            out.switch("keystore.fs.create", *create);
        }
        KeyStoreSettings::FsWithRoots { path, root_key, create, kms } => {
            fs(path, Some(root_key), out);
            out.switch("keystore.fs.create", *create);
            roots(kms, out);
        }
        KeyStoreSettings::Wrapped { store, kms } => {
            match store {
                BareStore::Fs(path) => {
                    out.file("keystore.fs.path", Some(path));
                }
                BareStore::Vault(config) => vault("keystore.vault", config, true, out),
                BareStore::Postgres(config) => postgres(config, out),
            }
            roots(kms, out);
        }
        KeyStoreSettings::Vault(config) => vault("keystore.vault", config, true, out),
        KeyStoreSettings::AwsKms(config) => {
            let at = |key: &str| format!("keystore.aws.kms.{key}");
            aws("keystore.aws.kms", &config.connection, out);
            out.text(&at("prefix"), &config.prefix);
            out.text(&at("reuse.max_age"), duration(config.reuse.max_age));
            out.text(&at("reuse.max_uses"), config.reuse.max_uses);
            out.text(&at("deletion_window"), config.deletion_window);
        }
        KeyStoreSettings::AwsSecrets(config) => {
            let at = |key: &str| format!("keystore.aws.secretsmanager.{key}");
            aws("keystore.aws.secretsmanager", &config.connection, out);
            out.optional(&at("kmskey"), config.kms_key.as_ref());
            out.text(&at("recovery_window"), config.recovery_window);
        }
        KeyStoreSettings::Memory => {
            out.text("keystore.memory", "every key dies with the process");
        }
        KeyStoreSettings::Salvage(store) => key_store(store, out),
    }
}

fn fs(path: &Path, root_key: Option<&RootKeySource>, out: &mut Values) {
    out.file("keystore.fs.path", Some(path));
    match root_key {
        Some(source) => root_key_of("keystore.fs", source, out),
        None => {
            out.text("keystore.fs.root_key_file", "beside the directory, or in it");
        }
    }
}

fn root_key_of(section: &str, source: &RootKeySource, out: &mut Values) {
    match source {
        RootKeySource::File(file) => {
            out.file(&format!("{section}.root_key_file"), Some(file));
        }
        RootKeySource::Credential(file) => {
            out.file(&format!("{section}.root_key_file"), Some(file)).is_credential = true;
        }
        RootKeySource::Environment(name) => {
            out.text(&format!("{section}.root_key_env"), name);
        }
    }
}

fn roots(roots: &[RootSettings], out: &mut Values) {
    for RootSettings { section, id, kms } in roots {
        let above = section.rsplit_once('.').map_or(section.as_str(), |(above, _)| above);
        out.optional(&format!("{above}.id"), id.as_ref().map(RootId::as_str));
        match kms {
            OuterKms::Aws(config) => {
                let WrapperConfig { connection, key } = &**config;
                out.text(&format!("{section}.key"), key);
                aws(section, connection, out);
            }
            OuterKms::Vault(config) => vault(section, config, false, out),
            OuterKms::Local(source) => root_key_of(section, source, out),
        }
    }
}

fn aws(section: &str, connection: &AwsConnection, out: &mut Values) {
    let at = |key: &str| format!("{section}.{key}");
    out.optional(&at("endpoint"), connection.endpoint.as_ref());
    out.optional(&at("region"), connection.region.as_ref()).elsewhere = &["AWS_REGION", "AWS_DEFAULT_REGION"];
    let keys = connection.credentials.as_ref();
    out.secret(&at("credentials.accesskey"), keys.is_some());
    out.secret(&at("credentials.secretkey"), keys.is_some());
    out.secret(&at("credentials.token"), keys.is_some_and(|keys| keys.token.is_some()));
}

/// Adds the settings of a Vault, which has records or only a transit key.
fn vault(section: &str, config: &VaultConfig, has_records: bool, out: &mut Values) {
    let at = |key: &str| format!("{section}.{key}");
    out.text(&at("endpoint"), &config.endpoint);
    out.optional(&at("namespace"), config.namespace.as_ref());
    if has_records {
        out.text(&at("engine"), &config.engine);
        out.text(&at("version"), if config.version == KvVersion::V1 { "v1" } else { "v2" });
        out.text(&at("prefix"), &config.prefix);
    }
    match &config.login {
        Login::AppRole(login) => {
            out.text(&at("approle.engine"), &login.engine);
            out.optional(&at("approle.namespace"), login.namespace.as_ref());
            out.text(&at("approle.id"), &login.id);
            secret_source(&at("approle.secret"), &at("approle.secret_file"), &login.secret, out);
            out.optional(&at("approle.retry"), login.retry.map(duration));
        }
        Login::Kubernetes(login) => {
            out.text(&at("kubernetes.engine"), &login.engine);
            out.optional(&at("kubernetes.namespace"), login.namespace.as_ref());
            out.text(&at("kubernetes.role"), &login.role);
            secret_source(&at("kubernetes.jwt"), &at("kubernetes.jwt"), &login.jwt, out);
        }
        Login::Token(token) => secret_source(&at("token.value"), &at("token.file"), token, out),
    }
    if let Some(transit) = &config.transit {
        out.text(&at("transit.engine"), &transit.engine);
        out.text(&at("transit.key"), &transit.key);
        out.switch(&at("transit.require"), transit.require);
    }
    out.file(&at("tls.ca"), config.tls.ca.as_deref());
    out.file(&at("tls.cert"), config.tls.cert.as_deref());
    out.file(&at("tls.key"), config.tls.key.as_deref());
    out.text(&at("status.ping"), duration(config.ping));
}

fn secret_source(value: &str, file: &str, source: &SecretSource, out: &mut Values) {
    match source {
        SecretSource::Value(_) => {
            out.secret(value, true);
        }
        SecretSource::File(path) => {
            out.file(file, Some(path));
        }
    }
}

/// The setting that says most others of its section in one, a password among them.
const POSTGRES_URL: &str = "keystore.postgres.url";

fn postgres(config: &PostgresConfig, out: &mut Values) {
    let at = |key: &str| format!("keystore.postgres.{key}");
    let names = |hosts: &[kms_postgres::Host]| hosts.iter().map(|host| host.name.clone()).collect::<Vec<_>>();
    let ports = |hosts: &[kms_postgres::Host]| hosts.iter().map(|host| host.port).collect::<Vec<_>>();
    if config.of_url.keys().is_some() {
        out.secret(POSTGRES_URL, true);
    }
    out.list(&at("host"), names(&config.hosts)).elsewhere = &["PGHOST"];
    out.list(&at("port"), ports(&config.hosts)).elsewhere = &["PGPORT"];
    out.text(&at("database"), &config.database).elsewhere = &["PGDATABASE"];
    out.text(&at("user"), &config.user).elsewhere = &["PGUSER"];
    match &config.password {
        Some(SecretSource::File(file)) => {
            out.file(&at("password_file"), Some(file)).elsewhere = &["PGPASSFILE"];
        }
        password => out.secret(&at("password"), password.is_some()).elsewhere = &["PGPASSWORD"],
    }
    out.text(&at("tls.mode"), config.tls.mode).elsewhere = &["PGSSLMODE"];
    out.file(&at("tls.ca"), config.tls.ca.as_deref()).elsewhere = &["PGSSLROOTCERT"];
    out.file(&at("tls.cert"), config.tls.cert.as_deref()).elsewhere = &["PGSSLCERT"];
    out.file(&at("tls.key"), config.tls.key.as_deref()).elsewhere = &["PGSSLKEY"];
    out.text(&at("schema"), &config.schema);
    out.text(&at("table"), &config.table);
    out.text(&at("pool"), config.pool);
    out.switch(&at("create_schema"), config.create_schema);
    out.switch(&at("standby_reads"), config.standby_reads);
    if !config.listen_hosts.is_empty() {
        out.list(&at("listen_host"), names(&config.listen_hosts));
        out.list(&at("listen_port"), ports(&config.listen_hosts));
    }
    for key in config.of_url.keys().unwrap_or_default() {
        out.note_within(&at(key), POSTGRES_URL);
    }
}
