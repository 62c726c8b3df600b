//! Every form of config in the field loads, and each value lands where it should.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kms_core::Identity;
use kms_server::config::{Environment, Loaded, Problem, load, load_text};
use kms_server::settings::ErrorLevel;
use kms_server::settings::{KeyStoreSettings, RootKeySource};

const IDENTITY: &str = "0000000000000000000000000000000000000000000000000000000000000007";
const OTHER: &str = "00000000000000000000000000000000000000000000000000000000000000aa";

fn environment() -> Environment {
    let variables = [
        ("ADMIN_IDENTITY", OTHER),
        ("APP_IDENTITY", IDENTITY),
        ("MINIO_KES_IDENTITY", IDENTITY),
        ("VAULT_ROLE", "role"),
        ("VAULT_SECRET", "very-secret"),
    ];
    variables.into_iter().collect()
}

fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name)
}

#[track_caller]
fn good(name: &str) -> Loaded {
    load(&config(name), &environment()).unwrap_or_else(|problem| panic!("{problem}"))
}

fn yaml(text: &str) -> Result<Loaded, Problem> {
    load_text(text, "kes.yml", &environment())
}

fn warnings(loaded: &Loaded) -> String {
    let lines: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// What every config in YAML here begins with.
const START: &str = "admin: {identity: disabled}\ntls: {key: k, cert: c}\n";

#[test]
fn each_value_of_kes_0_24_lands_where_it_should() {
    let loaded = good("kes-0.24.yml");
    let told = warnings(&loaded);
    let settings = loaded.settings;
    assert_eq!(settings.address.to_string(), "127.0.0.1:7375");
    assert_eq!(settings.admin, Identity::from_hex(OTHER));
    assert_eq!(settings.tls.key, Path::new("/etc/kes/private.key"));
    assert_eq!(settings.tls.cert, Path::new("/etc/kes/public.crt"));
    assert_eq!(settings.tls.ca.as_deref(), Some(Path::new("/etc/kes/clients.crt")));
    assert!(settings.tls.verify_clients);
    let proxy = settings.tls.proxy.unwrap();
    assert_eq!(proxy.identities, [Identity::from_hex(&"a".repeat(64)).unwrap()]);
    assert_eq!(proxy.cert_header, "X-Tls-Client-Cert");
    let app = &settings.policies["my-app"];
    assert_eq!((app.allow.len(), app.deny.len()), (3, 2));
    assert_eq!(app.allow[0], "/v1/key/create/my-app*");
    // The first looks like a number, and means itself.
    let number = format!("{}1e10", "1234567890".repeat(6));
    assert_eq!(app.identities, [Identity::from_hex(&number).unwrap(), Identity::from_hex(IDENTITY).unwrap()]);
    assert!(settings.policies["ops"].identities.is_empty());
    assert_eq!(settings.cache.any, Duration::from_secs(360));
    assert_eq!(settings.cache.unused, Duration::from_secs(40));
    assert_eq!(settings.cache.offline, Duration::from_secs(10));
    assert!(settings.routes["/v1/ready"].skip_auth);
    assert_eq!(settings.routes["/v1/ready"].timeout, Some(Duration::from_secs(15)));
    assert_eq!(settings.routes["/v1/key/create/"].timeout, Some(Duration::from_secs(20)));
    assert!(!settings.log.error && settings.log.audit);
    let keys: Vec<_> = settings.keys.iter().map(kms_core::KeyName::as_str).collect();
    assert_eq!(keys, ["first-key", "second-key"]);
    let KeyStoreSettings::KesDirectory { path, root_key: None, .. } = settings.key_store else { panic!() };
    assert_eq!(path, Path::new("./keys"));
    assert!(!told.contains("unknown"), "{told}");
}

#[test]
fn each_value_of_a_vault_lands_where_it_should() {
    let loaded = good("kes-0.24-vault.yml");
    assert_eq!(warnings(&loaded), "");
    let debug = format!("{:?}", loaded.settings);
    assert!(!debug.contains("very-secret"), "{debug}");
    let KeyStoreSettings::Vault(vault) = loaded.settings.key_store else { panic!() };
    assert_eq!(vault.endpoint, "https://vault.example:8200");
    assert_eq!((vault.engine.as_str(), vault.prefix.as_str()), ("secrets", "my-minio"));
    assert_eq!(vault.version, kms_vault::KvVersion::V2);
    assert_eq!(vault.namespace.as_deref(), Some("team/a"));
    assert_eq!(vault.ping, Duration::from_secs(20));
    let transit = vault.transit.unwrap();
    assert_eq!((transit.engine.as_str(), transit.key.as_str()), ("transit-engine", "my-transit-key"));
    assert_eq!(vault.tls.ca.as_deref(), Some(Path::new("/etc/kes/vault-ca.crt")));
    assert_eq!(vault.tls.key.as_deref(), Some(Path::new("/etc/kes/vault.key")));
    assert_eq!(vault.tls.cert.as_deref(), Some(Path::new("/etc/kes/vault.crt")));
    let kms_vault::Login::AppRole(login) = vault.login else { panic!() };
    assert_eq!((login.engine.as_str(), login.id.as_str()), ("approle-engine", "role"));
    assert_eq!(login.namespace.as_deref(), Some("team/b"));
}

#[test]
fn the_other_forms_of_yaml_load() {
    for (name, prefix) in
        [("operator.yml", "my-minio"), ("operator-2021.yml", "my-minio"), ("cloud-init.yml", "minio")]
    {
        let loaded = good(name);
        let told = warnings(&loaded);
        assert!(!told.contains("unknown") && !told.contains("no identity"), "{name}: {told}");
        let KeyStoreSettings::Vault(vault) = &loaded.settings.key_store else { panic!("{name}") };
        assert_eq!(vault.prefix, prefix, "{name}");
        let kms_vault::Login::AppRole(login) = &vault.login else { panic!("{name}") };
        assert_eq!(login.engine, "approle", "{name}");
    }
    assert_eq!(good("operator.yml").settings.admin, Identity::from_hex(IDENTITY));
    let old = good("operator-2021.yml").settings;
    assert_eq!(old.admin, None);
    assert_eq!(old.policies["my-policy"].paths.len(), 3);
    assert!(old.policies["my-policy"].allow.is_empty());
    assert_eq!(old.cache.unused, Duration::from_secs(20));
    let cloud = good("cloud-init.yml").settings;
    assert!(!cloud.tls.verify_clients && cloud.log.audit);

    let fs = good("operator-2021-fs.yml").settings;
    let KeyStoreSettings::KesDirectory { path, .. } = fs.key_store else { panic!() };
    assert_eq!(path, Path::new("/tmp/keys"));
    let trino = good("trino.yml").settings;
    assert_eq!(trino.address.port(), 7373);
    assert!(matches!(trino.key_store, KeyStoreSettings::KesDirectory { .. }));
}

#[test]
fn our_own_settings_of_vault_land_where_they_should() {
    let vault = |login: &str| {
        let tls = "tls:\n  key: a\n  cert: b\n";
        let start = "admin:\n  identity: disabled\n";
        let text = format!("{start}{tls}keystore:\n  vault:\n    endpoint: https://vault:8200\n{login}");
        yaml(&text).map(|loaded| match loaded.settings.key_store {
            KeyStoreSettings::Vault(vault) => vault,
            _ => panic!(),
        })
    };
    let config =
        vault("    approle: {id: a, secret_file: /etc/secret}\n    transit: {key: k, require: on}\n")
            .unwrap();
    assert!(config.transit.unwrap().require);
    let kms_vault::Login::AppRole(login) = config.login else { panic!() };
    assert!(matches!(login.secret, kms_vault::SecretSource::File(path) if path == Path::new("/etc/secret")));
    let config = vault("    token: {file: /etc/token}\n").unwrap();
    assert!(matches!(config.login, kms_vault::Login::Token(kms_vault::SecretSource::File(_))));
    let config = vault("    token: {value: s.x}\n").unwrap();
    assert!(matches!(config.login, kms_vault::Login::Token(kms_vault::SecretSource::Value(_))));
    for (login, words) in [
        (
            "    approle: {id: a, secret: b, secret_file: c}\n",
            "secret_file: two secrets, expected secret or secret_file",
        ),
        ("    token: {value: a, file: b}\n", "token.file: two tokens"),
        ("    token: {}\n", "token: no token, expected value or file"),
        ("    token: {value: a}\n    approle: {id: a, secret: b}\n", "token: more than one way to log in"),
    ] {
        let told = vault(login).unwrap_err().to_string();
        assert!(told.contains(words), "{told}");
    }
}

#[test]
fn the_toml_of_2020_loads() {
    let loaded = good("guide-2020.toml");
    assert_eq!(warnings(&loaded), "");
    let settings = loaded.settings;
    assert_eq!(settings.admin, None);
    assert_eq!(settings.cache.any, Duration::from_secs(300));
    assert_eq!(settings.policies["minio"].identities, [Identity::from_hex(IDENTITY).unwrap()]);
    let KeyStoreSettings::Vault(vault) = settings.key_store else { panic!() };
    assert_eq!((vault.endpoint.as_str(), vault.prefix.as_str()), ("https://127.0.0.1:8200", "minio"));
    assert_eq!((vault.engine.as_str(), vault.version), ("kv", kms_vault::KvVersion::V1));
    let kms_vault::Login::AppRole(login) = vault.login else { panic!() };
    assert_eq!(login.retry, Some(Duration::from_secs(15)));

    let settings = good("fs-2020.toml").settings;
    assert_eq!(settings.admin, Identity::from_hex(IDENTITY));
    assert!(matches!(settings.key_store, KeyStoreSettings::KesDirectory { .. }));
}

#[test]
fn a_root_key_may_be_named_and_makes_a_file_in_toml_ours() {
    let text = format!("{START}keystore: {{fs: {{path: keys, root_key_file: root}}}}");
    let KeyStoreSettings::KesDirectory { root_key: Some(RootKeySource::File(file)), .. } =
        yaml(&text).unwrap().settings.key_store
    else {
        panic!()
    };
    assert_eq!(file, Path::new("root"));

    let text = "root = 'disabled'\ntls = {key = 'k', cert = 'c'}\n[keystore.fs]\npath = 'd'\n";
    let with_variable: Environment = [("KMS_ROOT_KEY", "x")].into_iter().collect();
    let settings = load_text(text, "kes.toml", &with_variable).unwrap().settings;
    assert!(matches!(
        settings.key_store,
        KeyStoreSettings::KesDirectory { root_key: Some(RootKeySource::Environment(name)), .. } if name == "KMS_ROOT_KEY"
    ));
    let ours = format!("{text}root_key_file = 'r'\n");
    let settings = load_text(&ours, "kes.toml", &environment()).unwrap().settings;
    assert!(matches!(settings.key_store, KeyStoreSettings::Fs { .. }));
}

#[test]
fn a_file_without_an_extension_is_read_by_what_it_is() {
    for (name, file) in [("fs-2020.toml", "config"), ("trino.yml", "config"), ("trino.yml", "config.conf")] {
        let text = std::fs::read_to_string(config(name)).unwrap();
        let loaded =
            load_text(&text, file, &environment()).unwrap_or_else(|problem| panic!("{name}: {problem}"));
        assert!(matches!(loaded.settings.key_store, KeyStoreSettings::KesDirectory { .. }));
    }
    let told = load_text("address = 5 5\n", "config", &environment()).unwrap_err().to_string();
    assert!(told.contains("config:1: invalid TOML"), "{told}");
    let told = load_text("address: [5\n", "config", &environment()).unwrap_err().to_string();
    assert!(told.contains("invalid YAML"), "{told}");
}

#[test]
fn each_form_of_secrets_manager_lands_where_it_should() {
    let loaded = good("guide-aws.yml");
    let debug = format!("{:?}", loaded.settings.key_store);
    let KeyStoreSettings::AwsSecrets(secrets) = loaded.settings.key_store else { panic!() };
    let connection = &secrets.connection;
    assert_eq!(connection.endpoint.as_deref(), Some("https://secretsmanager.us-east-1.amazonaws.com"));
    assert_eq!(connection.region.as_deref(), Some("us-east-1"));
    let keys = connection.credentials.as_ref().unwrap();
    assert_eq!((keys.access_key.as_str(), keys.secret_key.as_str()), ("x", "very-secret"));
    assert!(keys.token.is_none() && !debug.contains("very-secret"), "{debug}");
    assert_eq!((secrets.kms_key.as_deref(), secrets.recovery_window), (None, 7));

    let secrets = |store: &str| {
        yaml(&format!("{START}keystore:\n  {store}\n")).map(|loaded| match loaded.settings.key_store {
            KeyStoreSettings::AwsSecrets(secrets) => secrets,
            other => panic!("{other:?}"),
        })
    };
    let config = secrets(
        "aws: {secretsmanager: {endpoint: 'http://127.0.0.1:4566', region: '', kmskey: alias/kes, \
         credentials: {accesskey: '', secretkey: ''}, recovery_window: 0}}",
    )
    .unwrap();
    assert_eq!(config.connection.endpoint.as_deref(), Some("http://127.0.0.1:4566"));
    assert!(config.connection.region.is_none() && config.connection.credentials.is_none());
    assert_eq!((config.kms_key.as_deref(), config.recovery_window), (Some("alias/kes"), 0));
    assert_eq!(secrets("aws: {secrets_manager: {recovery_window: 30}}").unwrap().recovery_window, 30);
    let aws_kms = yaml(&format!(
        "{START}keystore: {{aws: {{kms: {{deletion_window: 7, reuse: {{max_uses: 1000}}}}}}}}\n"
    ));
    let KeyStoreSettings::AwsKms(aws_kms) = aws_kms.unwrap().settings.key_store else { panic!() };
    assert_eq!((aws_kms.deletion_window, aws_kms.reuse.max_uses), (7, 1000));
    let toml = "admin = {identity = 'disabled'}\ntls = {key = 'k', cert = 'c'}\n\
        [keystore.aws.secretsmanager]\nrecovery_window = ";
    let loaded = load_text(&format!("{toml}14\n"), "kms.toml", &environment()).unwrap();
    let KeyStoreSettings::AwsSecrets(config) = loaded.settings.key_store else { panic!() };
    assert_eq!(config.recovery_window, 14);
    let told = load_text(&format!("{toml}-1\n"), "kms.toml", &environment()).unwrap_err().to_string();
    assert!(told.starts_with("kms.toml:4: keystore.aws.secretsmanager.recovery_window: "), "{told}");
    for (store, words) in [
        (
            "aws:\n    secretsmanager:\n      recovery_window: 5",
            "kes.yml:6: keystore.aws.secretsmanager.recovery_window: 5 is not possible, expected 0 (",
        ),
        (
            "aws:\n    secretsmanager:\n      recovery_window: a week",
            "kes.yml:6: keystore.aws.secretsmanager.recovery_window: invalid value 'a week', expected a whole number",
        ),
        (
            "secretsmanager:\n    recovery_window: 31",
            "kes.yml:5: keystore.secretsmanager.recovery_window: 31 is not possible",
        ),
        (
            "secretsmanager: {credentials: {accesskey: x}}",
            "kes.yml:4: keystore.secretsmanager.credentials: 'accesskey' and 'secretkey' belong together",
        ),
        (
            "aws:\n    secretsmanager: {region: x}\n    kms: {region: x}",
            "kes.yml:5: keystore.aws.secretsmanager: two key stores, expected one: keystore.aws.kms is at kes.yml:6",
        ),
        (
            "aws: {}",
            "kes.yml:4: keystore.aws: empty, expected keystore.aws.kms or keystore.aws.secretsmanager",
        ),
    ] {
        let told = secrets(store).unwrap_err().to_string();
        assert!(told.starts_with(words), "{words:?} in {told:?}");
    }
}

#[test]
fn a_key_store_that_we_lack_is_an_error_with_its_name() {
    for (store, what) in [
        ("azure: {keyvault: {endpoint: x}}", "Azure Key Vault"),
        ("gcp: {secretmanager: {project_id: x}}", "GCP Secret Manager"),
        ("fortanix: {sdkms: {endpoint: x}}", "Fortanix SDKMS"),
        ("gemalto: {keysecure: {endpoint: x}}", "KeySecure"),
        ("entrust: {keycontrol: {endpoint: x}}", "Entrust KeyControl"),
    ] {
        let told = yaml(&format!("{START}keystore:\n  {store}\n")).unwrap_err().to_string();
        assert!(told.starts_with("kes.yml:4: keystore.") && told.contains(what), "{told}");
    }
    let outer = format!("{START}keystore: {{fs: {{path: p}}}}\nkms:\n  aws: {{address: x, key: y}}\n");
    let told = yaml(&outer).unwrap_err().to_string();
    assert!(told.starts_with("kes.yml:5: kms.aws: an outer KMS of KES"), "{told}");
    let ours = yaml(&outer.replace("address", "region")).unwrap().settings.key_store;
    assert!(matches!(ours, KeyStoreSettings::Wrapped { .. }), "{ours:?}");
    let outer = "root = 'disabled'\n[kms.aws]\nregion = 'x'\n[keystore.fs]\npath = 'x'\n";
    let told = load_text(outer, "kes.toml", &environment()).unwrap_err().to_string();
    assert!(told.starts_with("kes.toml:2: kms.aws: an outer KMS"), "{told}");
}

#[test]
fn a_short_time_for_a_route_is_a_warning_in_a_config_for_kes() {
    let api = "api:\n  /v1/key/create/:\n    timeout: 150ms\n";
    let loaded = yaml(&format!("{START}keystore:\n  fs:\n    path: keys\n{api}")).unwrap();
    let told = warnings(&loaded);
    assert!(told.contains("/v1/key/create/.timeout") && told.contains("150ms"), "{told}");
    assert_eq!(loaded.settings.routes["/v1/key/create/"].timeout.unwrap().as_millis(), 150);
}

#[test]
fn unknown_keys_of_yaml_are_warnings_that_the_check_does_not_let_pass() {
    let text = format!(
        "{START}nonsense: 1\ncache: {{expiry: {{any: 1m, some: 2m}}}}\nkeys: [{{name: a, size: 3}}]\nkeystore: {{fs: {{path: p}}}}\n"
    );
    let loaded = yaml(&text).unwrap();
    let told = warnings(&loaded);
    for part in [
        "kes.yml:3: nonsense: passed over: unknown key",
        "kes.yml:4: cache.expiry.some: passed over: unknown key",
        "kes.yml:5: keys[0].size: passed over: unknown key",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let unknown = loaded.warnings.iter().filter(|warning| warning.to_string().contains("unknown key"));
    assert!(unknown.clone().count() == 3 && unknown.clone().all(|warning| warning.has_no_effect));
    assert_eq!(loaded.settings.cache.any, Duration::from_secs(60));
    let toml = "nonsense = 1\n";
    assert!(
        load_text(toml, "kms.toml", &environment())
            .unwrap_err()
            .to_string()
            .contains("kms.toml:1: nonsense: unknown key")
    );
}

#[test]
fn mistakes_in_yaml_are_told_with_file_line_key_and_what_was_expected() {
    let store = "keystore: {fs: {path: p}}\n";
    for (text, parts) in [
        ("tls:\n\tkey: k\n".to_owned(), &["kes.yml:2: invalid YAML"] as &[&str]),
        (format!("{START}{store}{store}"), &["kes.yml:4: keystore: invalid YAML: duplicate key", "line 3"]),
        (format!("version: v2\n{START}{store}"), &["kes.yml:1: version: unknown version", "'v1'"]),
        (
            format!("{START}address: 7373\n{store}"),
            &["kes.yml:3: address: invalid address '7373'", "0.0.0.0:7373"],
        ),
        (
            format!("{START}cache: {{expiry: {{any: 5}}}}\n{store}"),
            &["kes.yml:3: cache.expiry.any: invalid duration '5'"],
        ),
        (
            format!("{START}api:\n  /v1/key/decrypt/: {{skip_auth: true}}\n{store}"),
            &["kes.yml:4: api./v1/key/decrypt/.skip_auth", "only these"],
        ),
        (
            format!("{START}api:\n  /v1/nothing: {{skip_auth: on}}\n{store}"),
            &["kes.yml:4: api./v1/nothing: there is no such route"],
        ),
        (
            format!("{START}keys: [name]\n{store}"),
            &["kes.yml:3: keys[0]: found a string, expected a mapping with a name"],
        ),
        (
            format!("{START}keys: [{{name: a}}, {{name: a}}]\n{store}"),
            &["kes.yml:3: keys[1].name: key 'a' is there twice, first as keys[0].name"],
        ),
        (format!("{START}log: on\n{store}"), &["kes.yml:3: log: found a string, expected a mapping"]),
        (format!("{START}cache: []\n{store}"), &["kes.yml:3: cache: found a list, expected a mapping"]),
        (
            "admin: [x]\ntls: {key: k, cert: c}\n".to_owned() + store,
            &["kes.yml:1: admin: found a list, expected a mapping"],
        ),
        (
            format!("{START}policy:\n  a:\n    identities: {IDENTITY}\n{store}"),
            &["kes.yml:5: policy.a.identities: found a string, expected a list of strings"],
        ),
        (
            format!("{START}policy:\n  a:\n    identities:\n    - .\n{store}"),
            &["kes.yml:6: policy.a.identities[0]: '.' cannot be an identity, expected 64 hex digits"],
        ),
        (
            format!("{START}policy:\n  a:\n    identities: ['']\n{store}"),
            &["kes.yml:5: policy.a.identities[0]: it is empty, expected 64 hex digits"],
        ),
        (
            format!("{START}policy:\n  a: {{identities: [x]}}\n  b: {{identities: [x]}}\n{store}"),
            &["kes.yml:5: policy.b.identities[0]: 'x' is in a policy already"],
        ),
        (format!("{START}log: {{error: maybe}}\n{store}"), &["kes.yml:3: log.error: invalid value 'maybe'"]),
        (
            format!("{START}policy:\n  a:\n    paths: ['/v1/[']\n{store}"),
            &["kes.yml:5: policy.a.paths[0]: invalid pattern"],
        ),
        (
            format!("{START}policy:\n  a:\n    deny: [/v1/key/*/x]\n{store}"),
            &["kes.yml:5: policy.a.deny[0]", "instead"],
        ),
        (format!("root: _\n{START}{store}"), &["kes.yml:1: root: a former name of admin.identity", "line 2"]),
        (
            format!("{START}keystore: {{vault: {{endpoint: x}}}}\n"),
            &["kes.yml:3: keystore.vault: no way to log in", "approle"],
        ),
        (
            format!(
                "{START}keystore: {{vault: {{endpoint: 'https://v', version: v3, approle: {{id: x, secret: y}}}}}}\n"
            ),
            &["kes.yml:3: keystore.vault.version", "'v1' or 'v2'"],
        ),
        (
            format!("{START}keystore:\n  fs: {{path: p}}\n  vault: {{endpoint: x}}\n"),
            &["kes.yml:5: keystore.vault: two key stores", "kes.yml:4"],
        ),
        (
            "admin:\n  identity: ${NO_SUCH}\n".to_owned(),
            &["kes.yml:2: admin.identity: environment variable 'NO_SUCH'"],
        ),
        (
            format!(
                "admin: {{identity: {IDENTITY}}}\ntls:\n  key: k\n  cert: c\n  proxy:\n    identities: [{IDENTITY}]\n    header: {{cert: X-Cert}}\n{store}"
            ),
            &["tls.proxy.identities[0]", "the admin"],
        ),
    ] {
        let told = yaml(&text).map(drop).unwrap_err().to_string();
        assert!(!told.contains('\n'), "{told}");
        for part in parts {
            assert!(told.contains(part), "{part:?} in {told:?}");
        }
    }
}

/// Says what the binary is told by a text beside the settings that it makes.
#[track_caller]
fn loads(text: &str) -> (kms_server::settings::Settings, String) {
    let loaded = yaml(&format!("{START}keystore: {{fs: {{path: p}}}}\n{text}"));
    let loaded = loaded.unwrap_or_else(|problem| panic!("{text}: {problem}"));
    let told = warnings(&loaded);
    (loaded.settings, told)
}

#[test]
fn levels_of_kes_0_24_choose_what_is_logged() {
    for (level, error, least, audit) in [
        ("on", true, ErrorLevel::All, true),
        ("''", true, ErrorLevel::All, true),
        ("INFO", true, ErrorLevel::All, true),
        ("debug+2", true, ErrorLevel::All, true),
        ("INFO+2", true, ErrorLevel::Warn, false),
        ("warn", true, ErrorLevel::Warn, false),
        ("'4'", true, ErrorLevel::Warn, false),
        ("ERROR", true, ErrorLevel::Error, false),
        ("ERROR+1", false, ErrorLevel::Error, false),
        ("off", false, ErrorLevel::Error, false),
    ] {
        let (settings, _) = loads(&format!("log: {{error: {level}, audit: {level}}}\n"));
        let log = &settings.log;
        assert_eq!((log.error, log.error_level, log.audit), (error, least, audit), "{level}");
        assert_eq!(log.least(), error.then_some(least));
    }
    let (_, told) = loads("log: {audit: WARN}\n");
    assert!(told.contains("kes.yml:4: log.audit: there is no audit log"), "{told}");
}

#[test]
fn what_kes_passes_over_is_a_warning() {
    let (settings, told) =
        loads("api:\n  /v1/status/: {skip_auth: on, timeout: 3s}\n  /v1/nothing: {timeout: 1s}\n");
    assert!(settings.needs_certificates(), "a slash too many opens nothing");
    assert_eq!(settings.routes["/v1/status"].timeout, Some(Duration::from_secs(3)));
    assert!(told.contains("kes.yml:5: api./v1/status/.skip_auth: no effect: this opens nothing"), "{told}");
    assert!(told.contains("kes.yml:6: api./v1/nothing: there is no such route"), "{told}");

    let (settings, told) = loads("api:\n  /v1/status/: {skip_auth: on}\n  /v1/status: {timeout: 3s}\n");
    assert!(settings.needs_certificates() && settings.routes["/v1/status"].timeout.is_some());
    assert!(told.contains("api./v1/status/: no effect"), "{told}");

    let (_, told) = loads("api:\n  /v1/ready: {timeout: 0s}\n");
    assert!(told.contains("it is zero, so the route has its usual time"), "{told}");

    let (_, told) = loads("nonsense: {a: 1, a: 2, b: '${NO_SUCH}'}\n");
    assert!(told.starts_with("kes.yml:4: nonsense: passed over: unknown key"), "{told}");

    let (_, told) = loads("---\ntls: [\n");
    assert!(told.starts_with("kes.yml:4: a second document begins here and is passed over"), "{told}");

    let proxy = |proxy: &str| {
        let tls = format!("tls: {{key: k, cert: c, proxy: {{{proxy}}}}}\n");
        let text = START.replace("tls: {key: k, cert: c}\n", &tls) + "keystore: {fs: {path: p}}\n";
        let loaded = yaml(&text).unwrap();
        assert!(loaded.settings.tls.proxy.is_none());
        warnings(&loaded)
    };
    assert!(
        proxy("identities: [x], header: {cert: X}").contains("tls.proxy.identities[0]: passed over: 'x'")
    );
    let identity = "a".repeat(64);
    assert!(
        proxy(&format!("identities: [{identity}]")).contains("tls.proxy.header.cert: passed over: missing")
    );
}

#[test]
fn sections_without_a_key_store_are_none() {
    for others in ["aws: {}", "azure: {}", "gcp: {}", "fortanix: {}", "gemalto: {}", "entrust: {}"] {
        let text = format!("{START}keystore:\n  fs: {{path: p}}\n  {others}\n");
        assert!(matches!(yaml(&text).unwrap().settings.key_store, KeyStoreSettings::KesDirectory { .. }));
    }
    let loaded = yaml(&format!("{START}keystore:\n  fs: {{path: p}}\n  generic: {{endpoint: x}}\n")).unwrap();
    assert!(warnings(&loaded).contains("keystore.generic: no effect"), "{}", warnings(&loaded));
    let told = yaml(&format!("{START}keystore: {{kes: {{endpoint: [x]}}}}\n")).unwrap_err().to_string();
    assert!(told.contains("keystore.kes: another KES is not supported"), "{told}");
}

#[test]
fn a_reference_is_a_whole_value_in_yaml_and_anything_else_means_itself() {
    let path = |path: &str| {
        let text = format!("{START}keystore: {{fs: {{path: {path}}}}}\n");
        yaml(&text).map(|loaded| {
            let told = warnings(&loaded);
            let KeyStoreSettings::KesDirectory { path, .. } = loaded.settings.key_store else { panic!() };
            (path.display().to_string(), told)
        })
    };
    for whole in ["'${VAULT_ROLE}'", "'${ VAULT_ROLE }'", "' ${VAULT_ROLE} '"] {
        let (read, told) = path(whole).unwrap();
        assert!(read == "role" && !told.contains("${"), "{whole}: {read} {told}");
    }
    for literal in ["x${VAULT_ROLE}", "${VAULT_ROLE", "a${b}c"] {
        let (read, told) = path(&format!("'{literal}'")).unwrap();
        assert_eq!(read, literal);
        assert!(told.contains("keystore.fs.path: '${' in the middle of a text means itself"), "{told}");
    }
    let told = path("'${ NO_SUCH }'").unwrap_err().to_string();
    assert!(told.contains("environment variable 'NO_SUCH' is not set"), "{told}");
}

#[test]
fn an_address_is_read_as_go_reads_it() {
    for (text, expected) in [
        ("127.0.0.1:7373", Some("127.0.0.1:7373")),
        (":7373", Some("0.0.0.0:7373")),
        ("0.0.0.0:7373", Some("0.0.0.0:7373")),
        ("[0.0.0.0]:7373", Some("0.0.0.0:7373")),
        ("[::]:7373", Some("[::]:7373")),
        ("[::1]:7373", Some("[::1]:7373")),
        ("[::ffff:127.0.0.1]:7373", Some("127.0.0.1:7373")),
        ("localhost:7373", Some("127.0.0.1:7373")),
        ("127.0.0.1:https", Some("127.0.0.1:443")),
        ("127.0.0.1:", Some("127.0.0.1:0")),
        ("7373", None),
        ("127.0.0.1", None),
        ("::1:7373", None),
        ("[::1]", None),
        ("[::1]7373", None),
        ("127.1:7373", None),
        ("127.0.0.01:7373", None),
        ("0:7373", None),
        ("0x7f.1:7373", None),
        ("*:7373", None),
        ("http://127.0.0.1:7373", None),
        ("127.0.0.1:99999", None),
        ("127.0.0.1:-1", None),
        ("127.0.0.1: 1", None),
        ("no-such-host.invalid:7373", None),
    ] {
        let read = kms_server::config::parse_address(text);
        assert_eq!(read.as_ref().ok().map(ToString::to_string).as_deref(), expected, "{text}");
    }
    for none in ["", "address: ''\n", "address:\n"] {
        assert_eq!(loads(none).0.address.to_string(), "0.0.0.0:7373");
    }
}

#[test]
fn a_refused_setting_is_told_with_its_own_line_and_key() {
    let login = "\n    approle:\n      id: a\n      secret: s";
    for (store, told) in [
        (
            "vault:\n    approle: {id: a, secret: s}\n    endpoint: 127.0.0.1:8200".to_owned(),
            "kes.yml:6: keystore.vault.endpoint: expected it to begin with 'https://' or 'http://', such as 'https://vault:8200'",
        ),
        (
            format!("vault:{login}\n    endpoint: http://me:pw@v"),
            "kes.yml:8: keystore.vault.endpoint: it has more than",
        ),
        (
            "vault:\n    endpoint: http://v\n    approle:\n      id: ''\n      secret: s".to_owned(),
            "kes.yml:7: keystore.vault.approle.id: it is empty",
        ),
        (
            "vault:\n    endpoint: http://v\n    approle:\n      id: a".to_owned(),
            "kes.yml:6: keystore.vault.approle.secret: it is empty",
        ),
        (
            "vault:\n    endpoint: http://v\n    kubernetes:\n      jwt: a\n      role: ' '".to_owned(),
            "kes.yml:8: keystore.vault.kubernetes.role: it is empty",
        ),
        (
            format!("vault:\n    endpoint: http://v{login}\n    transit:\n      engine: t\n      key: a/b"),
            "kes.yml:11: keystore.vault.transit.key: it has a '/'",
        ),
        (
            format!("vault:\n    endpoint: http://v{login}\n    tls:\n      cert: c"),
            "kes.yml:9: keystore.vault.tls: 'cert' and 'key' belong together",
        ),
        (
            format!("vault:{login}\n    endpoint: http://v\n    name: a//b"),
            "kes.yml:9: keystore.vault.name: it has a segment that is empty",
        ),
        (
            "aws:\n    secretsmanager:\n      region: r\n      credentials: {accesskey: a}".to_owned(),
            "kes.yml:7: keystore.aws.secretsmanager.credentials: 'accesskey' and 'secretkey' belong together",
        ),
        (
            "aws:\n    kms:\n      region: r\n      endpoint: x".to_owned(),
            "kes.yml:7: keystore.aws.kms.endpoint: expected it to begin with 'https://' or 'http://'",
        ),
        (
            "aws:\n    kms:\n      region: r\n      prefix: aws/".to_owned(),
            "kes.yml:7: keystore.aws.kms.prefix: it begins with 'aws/'",
        ),
    ] {
        let problem = yaml(&format!("{START}keystore:\n  {store}\n")).map(drop).unwrap_err().to_string();
        assert!(problem.starts_with(told), "{told:?} in {problem:?}");
    }
    let outer = "keystore: {fs: {path: p}}\nkms:\n  vault:\n    approle: {id: a, secret: s}\n    transit: {key: k}\n    endpoint: v:8200\n";
    let told = yaml(&format!("{START}{outer}")).map(drop).unwrap_err().to_string();
    assert!(told.starts_with("kes.yml:8: kms.vault.endpoint: expected it to begin with"), "{told}");
}

#[test]
fn an_unknown_key_is_told_where_something_is_missing() {
    for (store, told) in [
        (
            "keystore:\n  redis: {endpoint: x}\n",
            "kes.yml:3: keystore: no key store, expected keystore.fs, keystore.vault, keystore.aws.kms, \
             keystore.aws.secretsmanager, or keystore.memory, which forgets all keys at the end; \
             passed over was keystore.redis at kes.yml:4, an unknown key",
        ),
        (
            "keystore:\n  vault:\n    endpont: https://v\n    approle: {id: a, secret: s}\n",
            "kes.yml:4: keystore.vault.endpoint: missing, expected the address of Vault, such as \
             'https://vault:8200'; passed over was keystore.vault.endpont at kes.yml:5, an unknown key",
        ),
        (
            "keystore:\n  vault:\n    endpoint: https://v\n    aprole: {id: a, secret: s}\n",
            "kes.yml:4: keystore.vault: no way to log in, expected approle, kubernetes or token; \
             passed over was keystore.vault.aprole at kes.yml:6, an unknown key",
        ),
        (
            "keystore: {fs: {pth: p}}\nnonsense: 1\n",
            "kes.yml:3: keystore.fs.path: missing, expected the \
             directory of the store; passed over was keystore.fs.pth at kes.yml:3, an unknown key",
        ),
    ] {
        let problem = yaml(&format!("{START}{store}")).map(drop).unwrap_err().to_string();
        assert_eq!(problem, told);
    }
    let none = yaml(START).map(drop).unwrap_err().to_string();
    assert!(none.starts_with("kes.yml: keystore: no key store") && !none.contains('['), "{none}");
}

#[test]
fn a_date_of_toml_is_called_a_date() {
    let toml = "root = 'disabled'\n[tls]\nkey = 'k'\ncert = 'c'\n[keystore.fs]\npath = 'p'\n";
    for (text, told) in [
        (
            "[cache.expiry]\nany = 2026-01-01\n",
            "kes.toml:8: cache.expiry.any: found a date, expected a duration",
        ),
        ("[cache]\nexpiry = 07:30:00\n", "kes.toml:8: cache.expiry: found a date, expected a table"),
        (
            "[[keys]]\nname = 2026-01-01T00:00:00Z\n",
            "kes.toml:8: keys[0].name: found a date, expected a string",
        ),
    ] {
        let problem = load_text(&format!("{toml}{text}"), "kes.toml", &environment());
        let problem = problem.map(drop).unwrap_err().to_string();
        assert!(problem.starts_with(told), "{told:?} in {problem:?}");
    }
}

#[test]
fn a_proxy_that_is_there_twice_is_one() {
    let proxies = |identities: &str| {
        let proxy = format!(
            "  proxy:\n    header: {{cert: X-Cert}}\n    identities:\n{identities}keystore: {{fs: {{path: p}}}}\n"
        );
        yaml(&START.replace("tls: {key: k, cert: c}\n", &format!("tls:\n  key: k\n  cert: c\n{proxy}")))
    };
    let identity = "a".repeat(64);
    let line = format!("    - {identity}\n");
    let loaded = proxies(&format!("    - ''\n{line}{line}")).unwrap();
    assert_eq!(loaded.settings.tls.proxy.as_ref().unwrap().identities.len(), 1);
    let told = warnings(&loaded);
    assert!(
        told.contains(
            "kes.yml:10: tls.proxy.identities[2]: it is there twice, first as tls.proxy.identities[1]"
        ),
        "{told}"
    );
    // The line of a conflict is that of the identity, whatever is left out before it.
    let policy = format!("policy:\n  a: {{identities: [{identity}]}}\n");
    let problem = proxies(&format!("    - ''\n{line}{policy}")).map(drop).unwrap_err().to_string();
    assert!(problem.contains("(see tls.proxy.identities[1] at kes.yml:9)"), "{problem}");
}

#[test]
fn a_config_in_utf_16_is_read_and_one_in_no_encoding_is_told_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("kes.yml");
    let text = format!("# é 🔑\r\n{}keystore: {{fs: {{path: é🔑}}}}\r\n", START.replace('\n', "\r\n"));
    let read = |content: &[u8]| {
        std::fs::write(&file, content).unwrap();
        load(&file, &environment()).map_err(|problem| problem.to_string())
    };
    let little = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    let big = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_be_bytes).collect() };
    let marked = format!("\u{feff}{text}");
    for content in [little(&marked), big(&marked), marked.clone().into_bytes(), text.clone().into_bytes()] {
        let loaded = read(&content).unwrap();
        let KeyStoreSettings::KesDirectory { path, .. } = loaded.settings.key_store else { panic!() };
        assert_eq!(path, Path::new("é🔑"));
    }
    let name = file.display();
    let mut latin = text.clone().into_bytes();
    latin.extend(b"log: {error: on} # \xe9\n");
    assert_eq!(
        read(&latin).unwrap_err(),
        format!("{name}:5: it is no text in UTF-8, expected UTF-8, or UTF-16 with a byte order mark")
    );
    let mut half = little(&marked);
    half.extend([b'#', 0, 0x00, 0xd8, b'\n', 0]);
    assert_eq!(read(&half).unwrap_err(), format!("{name}:5: it is no text in UTF-16"));
    let mut odd = little(&marked);
    odd.push(b'#');
    assert_eq!(read(&odd).unwrap_err(), format!("{name}:5: it is no text in UTF-16"));
}
