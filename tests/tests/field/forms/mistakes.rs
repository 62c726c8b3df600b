//! Each mistake is reported with its file, its line, its key and the values that are expected.

use kms_server::config::load_text;

use super::loading::{IDENTITY, START, environment, yaml};

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
            "kes.yml:3: keystore: no key store, expected keystore.fs, keystore.postgres, keystore.vault, keystore.aws.kms, \
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
