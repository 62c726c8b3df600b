//! Each mistake is one line with its file, its line, its key and the values that are expected.

use kms_server::config::{Environment, load_text};

use super::example::{ADMIN, APP, GOOD, good};

/// The section of the good config for its key store.
const STORE: &str = "[keystore.fs]\npath = \"data\"\nroot_key_file = \"root.key\"";

/// Loads the good config with `old` replaced by `new` and returns the error, which has one line.
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
        // Keys that do not exist.
        ("address", "adress", &["kms.toml:1: adress: unknown key", "expected one of address, admin"]),
        ("[admin]", "[admins]", &["kms.toml:3: admins: unknown key", "admin"]),
        (admin, "identiti = 'x'", &["kms.toml:4: admin.identiti: unknown key, expected identity"]),
        ("cert = ", "crt = ", &["kms.toml:7: tls.crt: unknown key", "key, cert, ca, auth"]),
        (allow, "alow = []", &["kms.toml:11: policy.app.alow: unknown key", "allow, deny, identities"]),
        ("[cache.expiry]", "[cache.expire]", &["cache.expire: unknown key, expected expiry"]),
        ("any =", "every =", &["kms.toml:16: cache.expiry.every: unknown key", "any, unused, offline"]),
        (
            "name = \"my-key\"",
            "id = 'my-key'",
            &["kms.toml:19: keys[0].id: unknown key, expected one of name, rotate_after"],
        ),
        ("[keystore.fs]", "[keystore.sled]", &["kms.toml:21: keystore.sled: unknown key", "fs, memory"]),
        ("root_key_file", "root_key", &["keystore.fs.root_key: unknown key", "root_key_file, root_key_env"]),
        ("[keystore.fs]", "[keystore.memory]", &["keystore.memory.path: unknown key, expected none here"]),
        // Values of another type or without a meaning.
        ("\"127.0.0.1:7373\"", "7373", &["kms.toml:1: address: found an integer, expected a string"]),
        (
            "\"127.0.0.1:7373\"",
            "'127.0.0.1'",
            &["kms.toml:1: address: invalid address '127.0.0.1'", "'0.0.0.0:7373'"],
        ),
        (
            "[admin]",
            "threads = 0\n[admin]",
            &["kms.toml:3: threads: 0 is not usable: at least 1 thread and at most 1024"],
        ),
        (
            "[admin]",
            "[backup]\nrecipients = ['age1nobody']\n[admin]",
            &["kms.toml:4: backup.recipients", "no recipient of age, expected age1… as age-keygen prints it"],
        ),
        ("[admin]", "[backup]\nrecipient = []\n[admin]", &["kms.toml:4: backup.recipient: unknown key"]),
        (
            "[admin]",
            "[backup]\ndrill_evidence = ''\n[admin]",
            &["kms.toml:4: backup.drill_evidence: it is empty"],
        ),
        ("[admin]", "threads = 1025\n[admin]", &["threads: 1025 is not usable"]),
        ("[admin]", "threads = 'all'\n[admin]", &["threads: invalid value 'all', expected a whole number"]),
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
        // Keys that are missing or exist twice.
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
        // References to environment variables.
        ("server.crt", "${NO_SUCH}", &["kms.toml:7: tls.cert: environment variable 'NO_SUCH' is not set"]),
        (
            allow,
            "allow = ['/x', '${NO_SUCH}']",
            &["kms.toml:11: policy.app.allow[1]: environment variable 'NO_SUCH'"],
        ),
        ("server.crt", "${NO_SUCH", &["kms.toml:7: tls.cert: '${' without a closing '}'"]),
        // Places of the root key.
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
            &["kms.toml:22: kms: only keystore.fs, keystore.vault and keystore.postgres"],
        ),
        // Several roots.
        (
            root_key,
            "[[kms]]\naws.key = 'alias/a'\n[[kms]]\nlocal.root_key_env = 'R'",
            &["kms.toml:24: kms[0].aws.key: a root among others is known by its ARN", "'id'"],
        ),
        (
            root_key,
            "[[kms]]\naws.key = 'arn:aws:kms:a:1:alias/a'\n[[kms]]\nlocal.root_key_env = 'R'",
            &["kms.toml:24: kms[0].aws.key: a root among others is known by its ARN", "'id'"],
        ),
        (
            root_key,
            "[[kms]]\naws.key = 'arn:aws:kms:a:1:key/k'\n[[kms]]\naws.key = 'arn:aws:kms:a:1:key/k'",
            &["kms.toml:26: kms[1].aws: the root key is that of kms[0].aws at kms.toml:24", "one root"],
        ),
        (
            root_key,
            "[[kms]]\nid = 'a'\nlocal.root_key_env = 'R'\n[[kms]]\nid = 'b'\nlocal.root_key_env = 'R'",
            &["kms[1].local: the root key is that of kms[0].local at kms.toml:25", "one root"],
        ),
        (
            root_key,
            "[[kms]]\nid = 'x'\naws.key = 'alias/a'\n[[kms]]\nid = 'x'\nlocal.root_key_env = 'R'",
            &["kms.toml:27: kms[1].id: two roots have the id 'x'"],
        ),
        (
            root_key,
            "[[kms]]\nid = 'store'\naws.key = 'k'",
            &["kms.toml:24: kms[0].id: invalid id of a root 'store'"],
        ),
        (root_key, "[[kms]]\nid = 'x'", &["kms.toml:23: kms[0]: empty, expected kms.aws"]),
        (root_key, "[[kms]]\nlocal.nothing = 'x'", &["kms[0].local.nothing: unknown key"]),
        (
            root_key,
            "[[kms]]\nlocal = {}\n[[kms]]\nid = 'x'\naws.key = 'k'",
            &["kms.toml:24: kms[0].local: missing, expected root_key_file or root_key_env"],
        ),
        // Rotation by age.
        (
            "name = \"my-key\"",
            "name = 'my-key'\nrotate_after = '5m'",
            &["kms.toml:20: keys[0].rotate_after: a new version seals only after cache.expiry.any"],
        ),
        ("name = \"my-key\"", "name = 'my-key'\nrotate_after = 90", &["kms.toml:20: keys[0].rotate_after"]),
        (
            "name = \"my-key\"\n\n[keystore.fs]\npath = \"data\"\nroot_key_file = \"root.key\"",
            "name = 'my-key'\nrotate_after = '2160h'\n[keystore.vault]\nendpoint = 'https://v:8200'\n\
             [keystore.vault.approle]\nid = 'i'\nsecret = 's'",
            &["kms.toml:20: keys[0].rotate_after: version 1 of Vault's K/V engine", "'kms key rotate'"],
        ),
        (
            "name = \"my-key\"\n\n[keystore.fs]\npath = \"data\"\nroot_key_file = \"root.key\"",
            "name = 'my-key'\nrotate_after = '2160h'\n[keystore.aws.kms]\nregion = 'eu-central-1'",
            &["kms.toml:20: keys[0].rotate_after: a key of AWS KMS"],
        ),
        // Policies and identities.
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
fn a_store_in_postgresql_is_told_with_its_key_and_place() {
    let whole = "host = 'db'\nuser = 'kms'\n[[kms]]\nlocal.root_key_file = 'root.key'";
    let cases: &[(&str, &[&str])] = &[
        (
            "host = 'db'\nuser = 'kms'",
            &[
                "kms.toml:21: keystore.postgres: no root",
                "[[kms]]",
                "local.root_key_file",
                "docs/postgres.md",
            ],
        ),
        (
            "hosts = 'db'",
            &["kms.toml:22: keystore.postgres.hosts: unknown key, expected one of url, host, port"],
        ),
        (
            &whole.replace("host = 'db'\n", ""),
            &["kms.toml:21: keystore.postgres.host: it is missing, and so are 'url' and PGHOST"],
        ),
        (&whole.replace("user = 'kms'\n", ""), &["keystore.postgres.user: it is missing, and so is PGUSER"]),
        (
            &format!("tls.mode = 'verify'\n{whole}"),
            &["kms.toml:22: keystore.postgres.tls.mode: expected disable", "verify-ca or verify-full"],
        ),
        (&format!("tls.cert = 'c'\n{whole}"), &["keystore.postgres.tls: 'cert' and 'key' belong together"]),
        (
            &format!("port = 70000\n{whole}"),
            &["kms.toml:22: keystore.postgres.port: found an integer, expected a port from 1 to 65535"],
        ),
        (
            &format!("port = [5432, 0]\n{whole}"),
            &["keystore.postgres.port[1]: expected a port from 1 to 65535"],
        ),
        (
            &format!("port = [5432, 5433]\n{whole}"),
            &["kms.toml:22: keystore.postgres.port: there has to be one port, or one for each host"],
        ),
        (
            &format!("pool = 1\n{whole}"),
            &["kms.toml:22: keystore.postgres.pool: it has to be from 2 to 1000"],
        ),
        (
            &format!("password = 'pw-secret'\npassword_file = 'file'\n{whole}"),
            &["kms.toml:22: keystore.postgres.password: there is a 'password_file' too"],
        ),
        (
            &format!("url = 'mysql://kms:pw-secret@db'\n{whole}"),
            &["kms.toml:22: keystore.postgres.url: expected it to begin with 'postgresql://'"],
        ),
        (
            "host = 'db'\nuser = 'kms'\n[kms.aws]\nkey = 'alias/a'",
            &["kms.toml:25: kms.aws.key: the root of a PostgreSQL store is known by its ARN", "'id'"],
        ),
        (
            &format!("{whole}\n[keystore.memory]"),
            &["two key stores, expected one: keystore.postgres is at kms.toml:21"],
        ),
    ];
    for (section, parts) in cases {
        let line = bad(STORE, &format!("[keystore.postgres]\n{section}"));
        for part in *parts {
            assert!(line.contains(part), "{part:?} is not in {line:?}");
        }
        assert!(!line.contains("pw-secret"), "{line}");
    }
}

#[test]
fn a_service_of_libpq_is_refused_and_not_passed_over() {
    let section = "[keystore.postgres]\nhost = 'db'\nuser = 'kms'\n[[kms]]\nlocal.root_key_file = 'root.key'";
    let text = GOOD.replacen(STORE, section, 1);
    let environment = Environment::from_iter([("PGSERVICE", "other")]);
    let problem = load_text(&text, "kms.toml", &environment).err().unwrap().to_string();
    assert!(problem.contains("keystore.postgres") && problem.contains("PGSERVICE"), "{problem}");
    good(&text, &[("PGSERVICE", "")]);
}

#[test]
fn less_than_a_checked_server_of_the_database_is_a_warning() {
    let warnings = |section: &str, environment: &[(&str, &str)]| {
        let root = "[[kms]]\nlocal.root_key_file = 'root.key'";
        let section = format!("[keystore.postgres]\nuser = 'kms'\n{section}\n{root}");
        let loaded = good(&GOOD.replacen(STORE, &section, 1), environment);
        loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for section in
        ["host = 'db'", "host = 'db'\ntls.mode = 'verify-full'", "host = '/run/db'\ntls.mode = 'disable'"]
    {
        assert_eq!(warnings(section, &[]), Vec::<String>::new(), "{section}");
    }
    for mode in ["disable", "allow", "prefer", "require", "verify-ca"] {
        let told = warnings(&format!("host = 'db'\ntls.mode = '{mode}'"), &[]);
        assert!(told[0].starts_with("kms.toml:24: keystore.postgres.tls.mode: "), "{told:?}");
        assert!(told[0].ends_with("expected verify-full"), "{told:?}");
    }
    let of_variable = warnings("host = 'db'", &[("PGSSLMODE", "require")]);
    assert!(of_variable[0].contains("keystore.postgres.tls.mode: require: "), "{of_variable:?}");
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
            "name = \"my-key\"",
            "name = 'my-key'\nrotate_after = '1h'",
            &["kms.toml:20: keys[0].rotate_after: a key has at most 1000 versions", "within 41 days"],
        ),
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
fn a_list_in_the_place_of_a_table_is_an_error_although_a_variable_names_an_element() {
    let load = |text: &str, variable: &str| {
        let environment = Environment::from_iter([(variable, "x")]);
        load_text(text, "kes.yml", &environment).map(drop).unwrap_err().to_string()
    };
    let told = load("address: 127.0.0.1:0\ntls:\n- x\n", "KMS_TLS__0");
    assert_eq!(told, "kes.yml:2: tls: found a list, expected a mapping");
    let told = load("address: 127.0.0.1:0\npolicy:\n  p:\n  - x\n", "KMS_POLICY__P__0");
    assert_eq!(told, "kes.yml:3: policy.p: found a list, expected a mapping");
}
