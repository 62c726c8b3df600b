//! `kms config convert`: whatever a server can be started with means the same in our form.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use kms_server::config::{Environment, load_text};
use kms_tests::converted::assert_means_the_same;
use kms_tests::shell::{Shell, text};

use super::identity;

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    config: String,
    #[serde(default)]
    variables: BTreeMap<String, String>,
}

#[test]
fn every_config_that_kes_was_shown_means_the_same() {
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/judged.json");
    let cases: Vec<Case> = serde_json::from_str(&fs::read_to_string(table).unwrap()).unwrap();
    let (mut converted, mut not_writable) = (0, Vec::new());
    for Case { name, config, variables } in cases {
        let environment: Environment = variables.into_iter().collect();
        let config = config.replace("@PORT@", "7373");
        if load_text(&config, "c.yml", &environment).is_err() {
            continue;
        }
        match assert_means_the_same(&config, "c.yml", &environment) {
            Some(_) => converted += 1,
            None => not_writable.push(name),
        }
    }
    assert!(converted > 400, "only {converted} were converted");
    // A '${' in the middle of a text means itself in YAML.
    assert!(not_writable.len() < 12, "{not_writable:?}");
}

#[test]
fn every_config_of_the_field_and_of_the_examples_means_the_same() {
    let names = ["ADMIN_IDENTITY", "APP_IDENTITY", "MINIO_KES_IDENTITY", "VAULT_ROLE", "VAULT_SECRET"];
    let more = ["KMS_ADMIN_IDENTITY", "MINIO_IDENTITY", "VAULT_ROLE_ID", "VAULT_SECRET_ID"];
    let environment: Environment =
        names.iter().chain(&more).enumerate().map(|(n, name)| (*name, format!("{n:064x}"))).collect();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut read = 0;
    for directory in [here.join("configs"), here.join("../examples")] {
        for file in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if !file
                .extension()
                .is_some_and(|extension| ["yml", "toml"].iter().any(|known| extension == *known))
            {
                continue;
            }
            let content = fs::read_to_string(&file).unwrap();
            // Some examples name further variables.
            if load_text(&content, text(&file), &environment).is_ok() {
                assert_means_the_same(&content, text(&file), &environment).unwrap();
                read += 1;
            }
        }
    }
    assert!(read >= 13, "only {read} files were read");
}

const VAULT: &str = "version: v1
root: ${ADMIN}
tls: {key: server.key, cert: server.crt, password: '${ TLS_PASSWORD }'}
policy:
  minio:
    paths: [/v1/key/*/minio-?]
    identities: ['${MINIO}']
cache: {expiry: {all: 5m, unused: 20s}}
log: {error: on, audit: off}
no_such_key: 1
keys:
  vault:
    endpoint: https://127.0.0.1:8200
    name: prefix
    approle: {id: role, secret: '${SECRET}', retry: 10s}
    status: {ping: 10s}
";

#[test]
fn references_stay_references_and_what_was_called_otherwise_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = (dir.path().join("kes.yml"), dir.path().join("config.toml"));
    fs::write(&before, VAULT).unwrap();
    let shell = Shell::default()
        .set("ADMIN", identity(1))
        .set("MINIO", identity(2))
        .set("TLS_PASSWORD", "password-in-a-variable")
        .set("SECRET", "secret-in-a-variable");
    let done = shell.run(&["config", "convert", text(&before), "-o", text(&after)]);
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
    let converted = fs::read_to_string(&after).unwrap();
    for part in [
        "rollback = \"kes\"",
        "identity = \"${ADMIN}\"",
        "password = \"${TLS_PASSWORD}\"",
        "secret = \"${SECRET}\"",
        "identities = [\"${MINIO}\"]",
        "# formerly root",
        "# formerly cache.expiry.all",
        "prefix = \"prefix\"",
        "no_such_key",
    ] {
        assert!(converted.contains(part), "{part} is not in\n{converted}");
    }
    for secret in ["in-a-variable", &identity(1), &identity(2)] {
        assert!(!converted.contains(secret), "{converted}");
    }
    let tree = converted.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    assert!(!tree.contains("no_such_key"), "{tree}");
    let again = shell.run(&["config", "convert", text(&before), "-o", text(&after)]);
    assert!(again.error().contains("config.toml"), "nothing is overwritten");
    // Without the variables the form is the same, and somebody is told that nothing was compared.
    let blind = Shell::default().run(&["config", "convert", text(&before)]);
    assert!(blind.stderr.contains("SECRET") && blind.stdout.contains("secret = \"${SECRET}\""), "{blind:?}");
}

#[test]
fn a_secret_in_the_clear_is_told_and_its_file_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = (dir.path().join("kes.yml"), dir.path().join("config.toml"));
    fs::write(&before, VAULT.replace("'${SECRET}'", "open-secret").replace("'${ TLS_PASSWORD }'", "x"))
        .unwrap();
    let shell = Shell::default().set("ADMIN", identity(1)).set("MINIO", identity(2));
    let done = shell.run(&["config", "convert", text(&before), "-o", text(&after)]);
    assert!(done.status.success() && done.stderr.contains("in the clear"), "{done:?}");
    assert_eq!(fs::metadata(&after).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_config_whose_admin_is_a_flag_is_converted_with_that_flag() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("server-config.toml");
    fs::write(&file, "[tls]\nkey = \"k\"\ncert = \"c\"\n[keystore.fs]\npath = \"keys\"\n").unwrap();
    let refused = Shell::default().run(&["config", "convert", text(&file)]);
    assert!(refused.error().contains("admin.identity"));
    let admin = identity(7);
    let done = Shell::default().run(&["config", "convert", "--root", &admin, text(&file)]);
    let converted = done.ok();
    assert!(converted.contains(&admin) && converted.contains("rollback = \"kes\""), "{converted}");
}

#[test]
fn a_word_for_the_way_back_is_kes_or_an_error() {
    let config = "rollback = \"2020\"\n[admin]\nidentity = \"disabled\"\n[tls]\nkey = \"k\"\ncert = \"c\"\n[keystore.memory]\n";
    let told = load_text(config, "c.toml", &Environment::default()).unwrap_err().to_string();
    assert_eq!(told, "c.toml:1: rollback: '2020' is unknown, expected 'kes', or no such line");
    let config = config.replace("2020", "kes");
    assert!(load_text(&config, "c.toml", &Environment::default()).unwrap().settings.is_for_kes);
}
