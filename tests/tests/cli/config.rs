//! What may be written in a config, and what is said of that which may not.

use std::fs;
use std::path::Path;

use kms_core::{Identity, KeyName};
use kms_server::config::{Environment, Loaded, load, load_text};
use kms_server::settings::{KeyStoreSettings, RootKeySource};
use kms_tests::shell::{Shell, text};

const ADMIN: &str = "0000000000000000000000000000000000000000000000000000000000000001";
const APP: &str = "0000000000000000000000000000000000000000000000000000000000000002";

/// A config that is good as it stands; parts of it are replaced to make bad ones.
const GOOD: &str = r#"address = "127.0.0.1:7373"

[admin]
identity = "0000000000000000000000000000000000000000000000000000000000000001"

[tls]
cert = "server.crt"
key = "server.key"

[policy.app]
allow = ["/v1/key/create/app-*"]
deny = ["/v1/key/delete/*"]
identities = ["0000000000000000000000000000000000000000000000000000000000000002"]

[cache.expiry]
any = "5m"

[[keys]]
name = "my-key"

[keystore.fs]
path = "data"
root_key_file = "root.key"
"#;

fn good(text: &str, environment: &[(&str, &str)]) -> Loaded {
    load_text(text, "kms.toml", &environment.iter().copied().collect())
        .unwrap_or_else(|problem| panic!("{problem}"))
}

/// Loads the good config with `old` replaced by `new`, and returns the one line that is said of it.
#[track_caller]
fn bad(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old} is not in the config");
    let problem = load_text(&GOOD.replacen(old, new, 1), "kms.toml", &Environment::default());
    let line = problem.map(drop).unwrap_err().to_string();
    assert!(!line.contains('\n'), "{line}");
    assert!(line.starts_with("kms.toml"), "{line}");
    line
}

#[test]
fn every_mistake_is_told_with_file_line_key_and_what_was_expected() {
    let root_key = "root_key_file = \"root.key\"";
    let any = "any = \"5m\"";
    let allow = "allow = [\"/v1/key/create/app-*\"]";
    let deny = "deny = [\"/v1/key/delete/*\"]";
    let identities = &format!("identities = [\"{APP}\"]");
    let admin = &format!("identity = \"{ADMIN}\"");
    let cases: &[(&str, &str, &[&str])] = &[
        // keys that do not exist
        ("address", "adress", &["kms.toml:1: adress: unknown key", "expected one of address, admin"]),
        ("[admin]", "[admins]", &["kms.toml:3: admins: unknown key", "admin"]),
        (admin, "identiti = 'x'", &["kms.toml:4: admin.identiti: unknown key, expected identity"]),
        ("cert = ", "crt = ", &["kms.toml:7: tls.crt: unknown key", "key, cert, ca, auth"]),
        (allow, "alow = []", &["kms.toml:11: policy.app.alow: unknown key", "allow, deny, identities"]),
        ("[cache.expiry]", "[cache.expire]", &["cache.expire: unknown key, expected expiry"]),
        ("any =", "every =", &["kms.toml:16: cache.expiry.every: unknown key", "any, unused, offline"]),
        ("name = \"my-key\"", "id = 'my-key'", &["kms.toml:19: keys[0].id: unknown key, expected name"]),
        ("[keystore.fs]", "[keystore.sled]", &["kms.toml:21: keystore.sled: unknown key", "fs, memory"]),
        ("root_key_file", "root_key", &["keystore.fs.root_key: unknown key", "root_key_file, root_key_env"]),
        ("[keystore.fs]", "[keystore.memory]", &["keystore.memory.path: unknown key, expected none here"]),
        // values of another type, or that mean nothing
        ("\"127.0.0.1:7373\"", "7373", &["kms.toml:1: address: found an integer, expected a string"]),
        (
            "\"127.0.0.1:7373\"",
            "'127.0.0.1'",
            &["kms.toml:1: address: invalid address '127.0.0.1'", "'0.0.0.0:7373'"],
        ),
        ("127.0.0.1:7373", "127.0.0.1:99999", &["address: invalid address"]),
        (admin, "identity = true", &["kms.toml:4: admin.identity: found a boolean, expected a string"]),
        (
            "[tls]",
            "[tls]\nauth = \"maybe\"",
            &["kms.toml:7: tls.auth: invalid value 'maybe', expected 'on' or 'off'"],
        ),
        ("[tls]", "[tls]\nauth = 1", &["tls.auth: found an integer, expected 'on' or 'off'"]),
        (
            allow,
            "allow = 5",
            &["kms.toml:11: policy.app.allow: found an integer, expected an array of strings"],
        ),
        (
            allow,
            "allow = ['/v1/x', 5]",
            &["kms.toml:11: policy.app.allow[1]: found an integer, expected a string"],
        ),
        (
            "[[keys]]",
            "[api.\"/v1/key/create/\"]\ntimeout = \"200ms\"\n[[keys]]",
            &["api./v1/key/create/.timeout: 200ms is too short", "more than 200ms"],
        ),
        (any, "any = 5", &["kms.toml:16: cache.expiry.any: found an integer", "with a unit", "'5m'"]),
        (any, "any = \"5\"", &["kms.toml:16: cache.expiry.any: invalid duration '5'", "with a unit", "'5m'"]),
        (any, "any = \"5 m\"", &["cache.expiry.any: invalid duration '5 m'"]),
        (any, "any = \"-5m\"", &["cache.expiry.any: invalid duration '-5m'"]),
        (any, "unused = \"1d\"", &["cache.expiry.unused: invalid duration '1d'"]),
        (any, "offline = \"\"", &["cache.expiry.offline: invalid duration ''"]),
        ("my-key", "my key", &["kms.toml:19: keys[0].name: invalid key name 'my key'", "1 to 80 characters"]),
        (
            "[[keys]]\nname = \"my-key\"",
            "[keys]\nname = 'x'",
            &["keys: found a table, expected an array of tables"],
        ),
        ("[[keys]]\nname = \"my-key\"", "[[keys]]", &["kms.toml:18: keys[0]: 'name' is missing"]),
        ("path = \"data\"", "path = ''", &["keystore.fs.path: it is empty, expected a path"]),
        ("cert = \"server.crt\"", "cert = ''", &["kms.toml:7: tls.cert: it is empty, expected a path"]),
        ("[policy.app]", "[policy.'my app']", &["policy.my app: invalid policy name", "1 to 80 characters"]),
        // what is missing, or there twice
        (admin, "", &["kms.toml:3: admin.identity: no admin identity", "64 hex digits", "'disabled'"]),
        (admin, "identity = ''", &["kms.toml:4: admin.identity: it is empty", "64 hex digits"]),
        ("cert = \"server.crt\"", "", &["kms.toml:6: tls.cert: missing, expected a PEM file"]),
        (
            "key = \"server.key\"",
            "",
            &["kms.toml:6: tls.key: missing, expected a PEM file of the private key"],
        ),
        ("path = \"data\"", "", &["kms.toml:21: keystore.fs.path: missing, expected the directory"]),
        (root_key, "", &["kms.toml:21: keystore.fs: no root key", "root_key_file", "root_key_env"]),
        (
            root_key,
            "root_key_file = 'a'\nroot_key_env = 'B'",
            &["kms.toml:24: keystore.fs.root_key_env: two sources", "kms.toml:23"],
        ),
        (
            "[keystore.fs]\npath = \"data\"\nroot_key_file = \"root.key\"",
            "",
            &["keystore: no key store", "keystore.fs", "keystore.memory"],
        ),
        (
            "[keystore.fs]",
            "[keystore.memory]\n[keystore.fs]",
            &["kms.toml:21: keystore.memory: two key stores, expected one", "kms.toml:22"],
        ),
        ("[admin]", "address = ':1'\n[admin]", &["kms.toml:3: invalid TOML: duplicate key `address`"]),
        (
            "[tls]",
            "[admin]\n[tls]",
            &["kms.toml:6: invalid TOML: invalid table header duplicate key `admin`"],
        ),
        ("[tls]", "[tls", &["kms.toml:6: invalid TOML:"]),
        ("[tls]", "= 5", &["kms.toml:6: invalid TOML:"]),
        // references
        ("server.crt", "${NO_SUCH}", &["kms.toml:7: tls.cert: environment variable 'NO_SUCH' is not set"]),
        (
            allow,
            "allow = ['/x', '${NO_SUCH}']",
            &["kms.toml:11: policy.app.allow[1]: environment variable 'NO_SUCH'"],
        ),
        ("server.crt", "${NO_SUCH", &["kms.toml:7: tls.cert: '${' without a closing '}'"]),
        // where the root key is
        (
            root_key,
            "root_key_file = 'root.key'\n[kms.aws]\nkey = 'alias/a'",
            &["kms.toml:23: keystore.fs.root_key_file: two root keys", "kms is at kms.toml:24"],
        ),
        (root_key, "[kms.aws]\nregion = 'x'", &["kms.toml:23: kms.aws.key: missing", "the alias"]),
        (root_key, "[kms.aws]\nkey = ''", &["kms.toml:24: kms.aws.key: missing"]),
        (
            root_key,
            "[kms.aws]\nkey = 'k'\nendpoint = 'here'",
            &["kms.toml:25: kms.aws.endpoint: expected it to begin with", "https://host:port"],
        ),
        (root_key, "[kms.gcp]\nkey = 'k'", &["kms.toml:23: kms.gcp: unknown key"]),
        (root_key, "[kms]", &["kms.toml:23: kms: empty, expected kms.aws or kms.vault"]),
        (root_key, "[kms.vault]\nendpoint = 'https://v:8200'", &["kms.vault.transit: missing"]),
        (
            root_key,
            "[kms.vault]\nendpoint = 'https://v:8200'\nprefix = 'p'",
            &["kms.toml:25: kms.vault.prefix: no records are kept here"],
        ),
        (
            root_key,
            "[kms.vault]\nendpoint = 'https://v:8200'\n[kms.vault.transit]\nkey = 'k'",
            &["kms.vault: no way to log in"],
        ),
        (
            root_key,
            "[kms.vault]\nendpoint = 'x'\n[kms.aws]\nkey = 'k'",
            &["kms.toml:23: kms.vault: two root keys", "kms.aws is at kms.toml:25"],
        ),
        (
            "[keystore.fs]\npath = \"data\"\nroot_key_file = \"root.key\"",
            "[keystore.memory]\n[kms.aws]\nkey = 'k'",
            &["kms.toml:22: kms: only keystore.fs and keystore.vault"],
        ),
        // who may do what
        (
            identities,
            &format!("identities = ['{ADMIN}']"),
            &["kms.toml:13: policy.app.identities[0]", ADMIN, "the admin", "kms.toml:4"],
        ),
        (
            "[cache.expiry]",
            &format!("[policy.b]\nidentities = [\n'{APP}']\n[cache.expiry]"),
            &["kms.toml:17: policy.b.identities[0]", APP, "policy.app.identities[0] at kms.toml:13"],
        ),
        (
            deny,
            "deny = ['/v1/key/d*/app-*']",
            &[
                "kms.toml:12: policy.app.deny[0]: pattern",
                "write '/v1/key/describe/app-*', '/v1/key/delete/app-*', '/v1/key/decrypt/app-*' instead",
            ],
        ),
        (
            deny,
            "deny = ['/v1/x', '/v1/key/delete/*-prod']",
            &["kms.toml:12: policy.app.deny[1]", "write '/v1/key/delete/*' instead"],
        ),
        (
            deny,
            "deny = ['/v1/key/delete/app-?']",
            &["policy.app.deny[0]", "write '/v1/key/delete/app-*' instead"],
        ),
    ];
    assert!(cases.len() >= 45);
    for (old, new, parts) in cases {
        let line = bad(old, new);
        for part in *parts {
            assert!(line.contains(part), "{part:?} is not in {line:?}");
        }
    }
}

#[test]
fn the_binary_says_the_same_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kms.toml");
    fs::write(&file, GOOD.replace("5m", "5")).unwrap();
    let expected = format!("{}:16: cache.expiry.any: invalid duration '5'", file.display());
    let told = Shell::default().run(&["server", "--config", text(&file)]).error();
    assert!(told.starts_with(&format!("Error: {expected}")), "{told}");
    let told = Shell::default().run(&["check", "--config", text(&file)]);
    assert!(told.stdout.contains(&expected), "{told:?}");
    let missing = Shell::default().run(&["server", "--config", "/missing.toml"]).error();
    assert_eq!(missing, "Error: /missing.toml: cannot read the config file: no such file or directory");
    let directory = Shell::default().run(&["server", "--config", text(dir.path())]).error();
    assert!(directory.contains(text(dir.path())), "{directory}");
}

/// What is read when the config is good names its setting, too.
#[test]
fn a_start_that_fails_names_the_line_and_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let pair = kms_tests::server::server_certificate();
    let directory = text(dir.path());
    let file = |name: &str| format!("{directory}/{name}");
    let placed = |text: &str| text.replace('@', directory);
    let server = |arguments: &[&str]| {
        let done = Shell::default().run(&[&["server", "--config"], arguments].concat());
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        done.stderr.lines().last().unwrap_or_default().to_owned()
    };
    fs::write(file("server.crt"), pair.chain_pem()).unwrap();
    fs::write(file("server.key"), pair.key_pem().as_bytes()).unwrap();
    fs::set_permissions(file("server.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(file("nothing"), "nothing").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let good = "address: 127.0.0.1:0
admin:
  identity: disabled
tls:
  cert: @/server.crt
  key: @/server.key
  ca:
keystore:
  memory: {}
";
    let vault = |tls: &str| {
        format!(
            "vault:\n    endpoint: https://127.0.0.1:1\n    approle: {{id: a, secret: s}}\n    tls: {{{tls}}}"
        )
    };
    let config = file("kes.yml");
    for (old, new, line, told, check) in [
        ("cert: @/server.crt", "cert: @/no.crt".to_owned(), 5, "tls.cert: @/no.crt: no such file", true),
        ("key: @/server.key", "key: @/no.key".to_owned(), 6, "tls.key: @/no.key: no such file", true),
        ("key: @/server.key", "key: @/nothing".to_owned(), 6, "tls.key: @/nothing: ", true),
        ("cert: @/server.crt", "cert: @/nothing".to_owned(), 5, "tls.cert: @/nothing: ", true),
        ("ca:", "ca: @/no".to_owned(), 7, "tls.ca: @/no: no such file", true),
        ("ca:", "ca: @/nothing".to_owned(), 7, "tls.ca: @/nothing: ", true),
        (
            "memory: {}",
            vault("ca: /nope/ca.crt"),
            12,
            "keystore.vault.tls.ca: /nope/ca.crt: no such file",
            true,
        ),
        (
            "memory: {}",
            vault("cert: @/no.crt, key: @/server.key"),
            12,
            "keystore.vault.tls.cert: @/no.crt: no such file",
            true,
        ),
        (
            "memory: {}",
            vault("cert: @/server.crt, key: @/no.key"),
            12,
            "keystore.vault.tls.key: @/no.key: no such file",
            true,
        ),
        (
            "memory: {}",
            "fs:\n    path: @/server.key".to_owned(),
            10,
            "keystore.fs.path: @/server.key: it is no directory",
            true,
        ),
        ("127.0.0.1:0", "192.0.2.1:7373".to_owned(), 1, "address: cannot listen on 192.0.2.1:7373: ", false),
        (
            "memory: {}",
            format!("memory: {{}}\nprobes:\n  address: 127.0.0.1:{port}"),
            11,
            "probes.address: cannot listen on 127.0.0.1:",
            false,
        ),
        (
            "memory: {}",
            "memory: {}\nlog:\n  audit: on\n  audit_file: @/nowhere/a.log".to_owned(),
            12,
            "log.audit_file: cannot open '@/nowhere/a.log': no such file",
            false,
        ),
    ] {
        assert!(good.contains(old));
        fs::write(&config, placed(&good.replacen(old, &new, 1))).unwrap();
        let expected = format!("{config}:{line}: {}", placed(told));
        let error = server(&[&config]);
        assert!(error.starts_with(&format!("Error: {expected}")), "{expected}\n{error}");
        let checked = Shell::default().run(&["check", "--config", &config]);
        assert!(!check || checked.stdout.contains(&expected), "{expected}\n{checked:?}");
    }
    fs::write(&config, placed(good)).unwrap();
    let error = server(&[&config, "--addr", "192.0.2.1:7373"]);
    assert!(error.contains("Error: flag --addr: address: cannot listen on 192.0.2.1:7373: "), "{error}");
}

#[test]
fn a_region_that_is_nowhere_is_told_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let pair = kms_tests::server::server_certificate();
    let (cert, key, config) =
        (dir.path().join("server.crt"), dir.path().join("server.key"), dir.path().join("kes.yml"));
    fs::write(&cert, pair.chain_pem()).unwrap();
    fs::write(&key, pair.key_pem().as_bytes()).unwrap();
    let tls = format!("tls: {{cert: {}, key: {}}}", text(&cert), text(&key));
    let store = "keystore:\n  aws:\n    secretsmanager:\n      endpoint: 127.0.0.1:1\n";
    fs::write(&config, format!("address: 127.0.0.1:0\nadmin: {{identity: {ADMIN}}}\n{tls}\n{store}"))
        .unwrap();
    let nowhere = Shell::default().set("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1");
    let told = nowhere.run(&["server", "--config", text(&config)]).error();
    let expected = format!(
        "Error: {}:6: keystore.aws.secretsmanager.region: none in the configuration, the environment (AWS_REGION)",
        text(&config)
    );
    assert!(told.starts_with(&expected), "{told}");
}

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
fn what_is_dubious_is_a_warning_with_its_place() {
    for (old, new, parts) in [
        (ADMIN, "nobody", &["kms.toml:4: admin.identity: 'nobody' is no identity", "'disabled'"] as &[&str]),
        (APP, "nobody", &["kms.toml:13: policy.app.identities[0]: 'nobody' is no identity", "64 hex digits"]),
        (
            "/v1/key/create/app-*",
            "/v1/key/*/app",
            &["kms.toml:11: policy.app.allow[0]: pattern '/v1/key/*/app' allows nothing"],
        ),
        ("/v1/key/create/app-*", "v1/key/app", &["policy.app.allow[0]", "allows nothing", "begin with '/'"]),
        ("/v1/key/delete/*", "v1/key/app", &["policy.app.deny[0]", "denies nothing", "begin with '/'"]),
        (
            "root.key",
            "data/root.key",
            &["keystore.fs.root_key_file: the root key lies inside of the data directory data"],
        ),
        (
            "[keystore.fs]\npath = \"data\"\nroot_key_file = \"root.key\"",
            "[keystore.memory]",
            &["kms.toml:21: keystore.memory: every key dies with the process"],
        ),
    ] {
        let loaded = good(&GOOD.replacen(old, new, 1), &[]);
        let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
        assert!(
            warnings.iter().any(|line| parts.iter().all(|part| line.contains(part))),
            "{parts:?} in {warnings:?}"
        );
    }
    let disabled = good(&GOOD.replace(ADMIN, "disabled"), &[]);
    assert_eq!(disabled.settings.admin, None);
    assert!(disabled.warnings.is_empty());
    let nobody = good(&GOOD.replace(ADMIN, "disabled").replace(APP, "nobody"), &[]);
    assert!(nobody.warnings.iter().any(|line| line.to_string().contains("every request will be refused")));
}

#[test]
fn the_examples_are_good() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let environment: Environment =
        [("KMS_ADMIN_IDENTITY", ADMIN), ("MINIO_IDENTITY", APP), ("VAULT_ROLE_ID", "role")]
            .into_iter()
            .collect();
    for name in ["minimal.toml", "server.toml", "vault.toml", "aws.toml", "wrapped.toml"] {
        let loaded = load(&examples.join(name), &environment).unwrap_or_else(|problem| panic!("{problem}"));
        assert!(loaded.warnings.is_empty(), "{name}: {}", loaded.warnings[0]);
    }

    // What is commented out is good as well, and the defaults are those that the example tells.
    let text = fs::read_to_string(examples.join("server.toml")).unwrap();
    let text = text
        .replace("# ca =", "ca =")
        .replace("root_key_file =", "# ")
        .replace("# root_key_env", "root_key_env");
    let full = good(&text, &[("KMS_ADMIN_IDENTITY", ADMIN), ("MINIO_IDENTITY", APP)]).settings;
    assert!(full.tls.ca.is_some());
    let wrapped = fs::read_to_string(examples.join("wrapped.toml")).unwrap();
    let (store, outer) = wrapped.split_once("[kms.aws]").unwrap();
    let (_, outer) = outer.split_once("# [kms.vault]").unwrap();
    let transit = format!("{store}[kms.vault]{}", outer.replace("\n# ", "\n"));
    good(&transit, &[("KMS_ADMIN_IDENTITY", ADMIN), ("VAULT_ROLE_ID", "role")]);
    let least = load(&examples.join("minimal.toml"), &environment).unwrap().settings;
    assert_eq!((least.address, least.cache), (full.address, full.cache));
    assert_eq!(least.tls.verify_clients, full.tls.verify_clients);
}
