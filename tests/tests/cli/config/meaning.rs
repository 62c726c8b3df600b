//! A config without mistakes means what it says, also with values of the environment.

use std::fs;
use std::path::Path;

use kms_core::{Identity, KeyName};
use kms_server::config::{Environment, load, load_text};
use kms_server::settings::{BareStore, KeyStoreSettings, RootKeySource};
use kms_tests::recipient::{OTHER, OWNER};

use super::example::{ADMIN, APP, GOOD, good};

#[test]
fn a_good_config_means_what_it_says() {
    let loaded = good(GOOD, &[]);
    assert!(loaded.warnings.is_empty());
    let settings = loaded.settings;
    assert_eq!(settings.address.to_string(), "127.0.0.1:7373");
    assert_eq!(settings.admin, Identity::from_hex(ADMIN));
    assert!(!settings.tls.verify_clients);
    let app = &settings.policies["app"];
    assert_eq!((&app.allow[0][..], &app.deny[0][..]), ("/v1/key/create/app-*", "/v1/key/delete/*"));
    assert_eq!(app.identities, [Identity::from_hex(APP).unwrap()]);
    assert_eq!(settings.keys[0].as_str(), "my-key");
    assert_eq!((settings.cache.any.as_secs(), settings.cache.unused.as_secs()), (300, 30));
    let KeyStoreSettings::Fs { path, root_key: RootKeySource::File(file), .. } = settings.key_store else {
        panic!()
    };
    assert_eq!((path.as_path(), file.as_path()), (Path::new("data"), Path::new("root.key")));
}

#[test]
fn the_environment_lies_on_top_of_the_file() {
    let cert_and_store = "tls.cert = 'c'\ntls.key = 'k'\nkeystore.fs.path = 'd'\n";
    let loaded = good(
        cert_and_store,
        &[
            ("KMS_ADDRESS", "[::1]:1"),
            ("KMS_ADMIN__IDENTITY", ADMIN),
            ("KMS_TLS__AUTH", "on"),
            ("KMS_CACHE__EXPIRY__ANY", "1m30s"),
            ("KMS_KEYS", "one, two"),
            ("KMS_POLICY__APP__ALLOW", "/v1/status,/v1/key/*"),
            ("KMS_POLICY__APP__IDENTITIES", APP),
            ("KMS_KEYSTORE__FS__PATH", "other"),
            ("KMS_KEYSTORE__FS__ROOT_KEY_ENV", "ROOT"),
            ("KMS_PORT", "tcp://10.0.0.1:7373"),
        ],
    );
    assert!(loaded.warnings.is_empty());
    let settings = loaded.settings;
    assert_eq!(settings.address.to_string(), "[::1]:1");
    assert!(settings.tls.verify_clients);
    assert_eq!(settings.cache.any.as_secs(), 90);
    assert_eq!(settings.keys.iter().map(KeyName::as_str).collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(settings.policies["app"].allow, ["/v1/status", "/v1/key/*"]);
    let KeyStoreSettings::Fs { path, root_key: RootKeySource::Environment(name), .. } = settings.key_store
    else {
        panic!()
    };
    assert_eq!((path.as_path(), name.as_str()), (Path::new("other"), "ROOT"));

    let load =
        |name: &str, value: &str| load_text(GOOD, "kms.toml", &Environment::from_iter([(name, value)]));
    let problem = load("KMS_CACHE__EXPIRY__ANY", "5").unwrap_err().to_string();
    assert!(
        problem
            .starts_with("environment variable KMS_CACHE__EXPIRY__ANY: cache.expiry.any: invalid duration"),
        "{problem}"
    );
    let problem = load("KMS_TLS__CRT", "x").unwrap_err().to_string();
    assert!(problem.starts_with("environment variable KMS_TLS__CRT: tls.crt: unknown key"), "{problem}");
    let warnings = load("KMS_TSL__CERT", "x").unwrap().warnings;
    assert!(warnings[0].to_string().contains("KMS_TSL__CERT"), "{}", warnings[0]);
}

#[test]
fn references_to_the_environment_stand_in_any_value() {
    let text = GOOD
        .replace(ADMIN, "${ADMIN}")
        .replace(APP, "${APP}")
        .replace("5m", "${ANY}")
        .replace("7373", "${PORT}");
    let loaded = good(&text, &[("ADMIN", ADMIN), ("APP", APP), ("ANY", "7m"), ("PORT", "1234")]);
    assert_eq!(loaded.settings.admin, Identity::from_hex(ADMIN));
    assert_eq!(loaded.settings.policies["app"].identities, [Identity::from_hex(APP).unwrap()]);
    assert_eq!(loaded.settings.cache.any.as_secs(), 420);
    assert_eq!(loaded.settings.address.port(), 1234);
}

#[test]
fn the_examples_are_good() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let environment: Environment =
        [("KMS_ADMIN_IDENTITY", ADMIN), ("MINIO_IDENTITY", APP), ("VAULT_ROLE_ID", "role")]
            .into_iter()
            .collect();
    for name in [
        "minimal.toml",
        "server.toml",
        "vault.toml",
        "aws.toml",
        "wrapped.toml",
        "roots.toml",
        "postgres.toml",
    ] {
        let loaded = load(&examples.join(name), &environment).unwrap_or_else(|problem| panic!("{problem}"));
        assert!(loaded.warnings.is_empty(), "{name}: {}", loaded.warnings[0]);
    }

    // The lines that are commented out are valid as well, and the example names the real defaults.
    let text = fs::read_to_string(examples.join("server.toml")).unwrap();
    let text = text
        .replace("# ca =", "ca =")
        .replace("root_key_file =", "# ")
        .replace("# root_key_env", "root_key_env");
    let full = good(&text, &[("KMS_ADMIN_IDENTITY", ADMIN), ("MINIO_IDENTITY", APP)]).settings;
    assert!(full.tls.ca.is_some());
    assert_eq!(full.threads, None, "as many as there are CPUs");
    let three = text.replace("# threads = 2", "threads = 3");
    let three = good(&three, &[("KMS_ADMIN_IDENTITY", ADMIN), ("MINIO_IDENTITY", APP)]).settings;
    assert_eq!(three.threads.map(usize::from), Some(3));
    let wrapped = fs::read_to_string(examples.join("wrapped.toml")).unwrap();
    let (store, outer) = wrapped.split_once("[kms.aws]").unwrap();
    let (_, outer) = outer.split_once("# [kms.vault]").unwrap();
    let transit = format!("{store}[kms.vault]{}", outer.replace("\n# ", "\n"));
    good(&transit, &[("KMS_ADMIN_IDENTITY", ADMIN), ("VAULT_ROLE_ID", "role")]);
    let roots = fs::read_to_string(examples.join("roots.toml")).unwrap();
    let (above, below) = roots.split_once("# Or a CMK").unwrap();
    let all = format!("{above}# Or a CMK{}", below.replace("# [", "[").replace("\n# id", "\nid"));
    let all =
        all.replace("\n# key", "\nkey").replace("\n# region", "\nregion").replace("\n# local", "\nlocal");
    let all = good(&all, &[("KMS_ADMIN_IDENTITY", ADMIN), ("VAULT_ROLE_ID", "role")]).settings;
    let KeyStoreSettings::FsWithRoots { kms, .. } = all.key_store else { panic!("it has roots") };
    assert_eq!(kms.len(), 3);
    let postgres = fs::read_to_string(examples.join("postgres.toml")).unwrap();
    let is_set = |line: &str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
    let uncommented =
        |line: &'_ str| line.strip_prefix("# ").filter(|line| is_set(line)).unwrap_or(line).to_owned();
    let postgres: Vec<_> = postgres.lines().map(uncommented).collect();
    let all = good(&postgres.join("\n"), &[("KMS_ADMIN_IDENTITY", ADMIN)]).settings;
    let KeyStoreSettings::Wrapped { store: BareStore::Postgres(config), kms } = all.key_store else {
        panic!("its keys are in PostgreSQL")
    };
    assert_eq!((config.hosts.len(), config.listen_hosts.len(), kms.len()), (2, 2, 1));
    let default = kms_postgres::PostgresConfig::new(config.hosts.clone(), "keys", "kms");
    assert_eq!((config.schema, config.table, config.pool), (default.schema, default.table, default.pool));
    assert!(!config.create_schema && !config.standby_reads);
    let least = load(&examples.join("minimal.toml"), &environment).unwrap().settings;
    assert_eq!((least.address, least.cache), (full.address, full.cache));
    assert_eq!(least.tls.verify_clients, full.tls.verify_clients);
}

#[test]
fn a_database_is_named_by_the_config_a_url_and_the_variables_of_libpq() {
    const STORE: &str = "[keystore.fs]\npath = \"data\"\nroot_key_file = \"root.key\"";
    let config = |section: &str, environment: &[(&str, &str)]| {
        let section = format!("[keystore.postgres]\n{section}\n[[kms]]\nlocal.root_key_file = 'root.key'");
        match good(&GOOD.replacen(STORE, &section, 1), environment).settings.key_store {
            KeyStoreSettings::Wrapped { store: BareStore::Postgres(config), .. } => *config,
            other => panic!("{other:?}"),
        }
    };
    let hosts = |config: &kms_postgres::PostgresConfig| {
        config.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let listed = config("host = ['a', 'b']\nport = 5433\nuser = 'kms'\ndatabase = 'keys'", &[]);
    assert_eq!((hosts(&listed).as_str(), listed.database.as_str()), ("a:5433 b:5433", "keys"));
    assert_eq!(hosts(&config("host = 'a, b'\nport = [1, '2']\nuser = 'kms'", &[])), "a:1 b:2");
    let url =
        config("url = 'postgresql://kms:${PW}@a,b:6000/keys?sslmode=verify-full'", &[("PW", "pw-secret")]);
    assert_eq!((hosts(&url).as_str(), url.user.as_str()), ("a:5432 b:6000", "kms"));
    assert!(url.password.is_some() && !format!("{url:?}").contains("pw-secret"));
    let of_libpq = [("PGHOST", "a,b"), ("PGUSER", "me"), ("PGDATABASE", "keys"), ("PGPASSWORD", "pw-secret")];
    let variables = config("", &of_libpq);
    assert_eq!((hosts(&variables).as_str(), variables.user.as_str()), ("a:5432 b:5432", "me"));
    assert_eq!(config("user = 'kms'", &of_libpq).user, "kms", "the config counts first");
    let own = config("", &[&of_libpq[..], &[("KMS_KEYSTORE__POSTGRES__HOST", "c")]].concat());
    assert_eq!(hosts(&own), "c:5432");
    let passes = config("host = 'a'\nuser = 'kms'", &[("HOME", "/home/kms")]).pass_file;
    assert_eq!(passes.unwrap().path().to_str(), Some("/home/kms/.pgpass"));
}

#[test]
fn backups_are_sealed_to_whom_the_config_names_in_toml_yaml_and_variables() {
    let recipients = [OWNER.public.to_owned(), OTHER.public.to_owned()];
    let section = format!("[backup]\nrecipients = {recipients:?}\ndrill_evidence = 'drill.json'\n[admin]");
    let toml = good(&GOOD.replace("[admin]", &section), &[]).settings.backup;
    assert_eq!(
        (toml.recipients.as_slice(), toml.drill_evidence),
        (&recipients[..], Some("drill.json".into()))
    );
    assert!(good(GOOD, &[]).settings.backup.recipients.is_empty());
    let listed = recipients.join(",");
    let variable = good(GOOD, &[("KMS_BACKUP__RECIPIENTS", listed.as_str())]).settings.backup;
    assert_eq!(variable.recipients, recipients);
    let yaml = format!(
        "admin:\n  identity: {ADMIN}\ntls:\n  key: k\n  cert: c\nkeystore:\n  fs:\n    path: keys\nbackup:\n  recipients:\n  - {}\n  - {}\n",
        OWNER.public, OTHER.public
    );
    let yaml =
        load_text(&yaml, "kes.yml", &Environment::default()).unwrap_or_else(|problem| panic!("{problem}"));
    assert_eq!(yaml.settings.backup.recipients, recipients);
}
