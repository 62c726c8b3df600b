//! `kms config show`: what is in force, and what set it.

use std::fs;

use kms_tests::shell::{Shell, text};
use serde_json::{Value, json};

use super::identity;

fn config() -> String {
    format!(
        r#"address = "127.0.0.1:7373"
[admin]
identity = "{}"
[tls]
cert = "server.crt"
key = "server.key"
password = "${{TLS_PASSWORD}}"
[policy.app]
allow = ["/v1/key/create/app-*", "/v1/status"]
identities = ["${{APP}}"]
[[keys]]
name = "app-key"
rotate_after = "90d"
[api."/v1/ready"]
skip_auth = "on"
[keystore.vault]
endpoint = "https://127.0.0.1:8200"
version = "v2"
[keystore.vault.approle]
id = "role"
secret = "a-secret-in-the-clear"
"#,
        identity(1)
    )
}

fn setting<'a>(all: &'a Value, key: &str) -> &'a Value {
    let all = all.as_array().unwrap();
    all.iter().find(|setting| setting["key"] == key).unwrap_or_else(|| panic!("no {key} in {all:?}"))
}

#[test]
fn each_setting_is_told_with_its_origin_and_secrets_are_masked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kms.toml");
    fs::write(&file, config()).unwrap();
    let shell = Shell::default()
        .set("APP", identity(2))
        .set("TLS_PASSWORD", "secret-of-a-variable")
        .set("KMS_CACHE__EXPIRY__ANY", "1m30s");
    let arguments = ["config", "show", "--config", text(&file), "--addr", "127.0.0.1:1"];
    let json_too = [&arguments as &[&str], &["--json"]].concat();
    let printed = shell.run(&json_too).ok();
    let all: Value = serde_json::from_str(&printed).unwrap();
    let line = |number: usize| json!(format!("{}:{number}", file.display()));
    for (key, value, origin, place) in [
        ("address", json!("127.0.0.1:1"), "flag", json!("flag --addr")),
        ("admin.identity", json!(identity(1)), "file", line(3)),
        ("tls.password", json!("***"), "file", line(7)),
        ("tls.auth", json!("off"), "default", Value::Null),
        ("policy.app.identities", json!([identity(2)]), "file", line(10)),
        (
            "cache.expiry.any",
            json!("1m30s"),
            "variable",
            json!("environment variable KMS_CACHE__EXPIRY__ANY"),
        ),
        ("cache.expiry.unused", json!("30s"), "default", Value::Null),
        ("deletion.grace", json!("30d"), "default", Value::Null),
        ("keys[0].rotate_after", json!("90d"), "file", line(13)),
        ("api.\"/v1/ready\".skip_auth", json!("on"), "file", line(15)),
        ("keystore.vault.engine", json!("kv"), "default", Value::Null),
        ("keystore.vault.approle.secret", json!("***"), "file", line(21)),
        ("log.format", json!("text"), "default", Value::Null),
    ] {
        let found = setting(&all, key);
        assert_eq!(found["value"], value, "{found}");
        assert_eq!(found["origin"], origin, "{found}");
        assert_eq!(found["place"], place, "{found}");
    }
    assert_eq!(setting(&all, "tls.password")["references"], json!(["TLS_PASSWORD"]));
    assert_eq!(setting(&all, "policy.app.identities")["references"], json!(["APP"]));
    let told = shell.run(&arguments).ok();
    assert!(told.contains("(default)") && told.contains("kms.toml:7, ${TLS_PASSWORD})"), "{told}");
    for text in [printed, told] {
        assert!(!text.contains("in-the-clear") && !text.contains("secret-of-a-variable"), "{text}");
    }
}

#[test]
fn what_a_url_gives_comes_from_the_url() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kms.toml");
    let content = config();
    let (before, _) = content.split_once("[keystore.vault]").unwrap();
    let section = "[[kms]]\nlocal = { root_key_file = \"r\" }\n[keystore.postgres]\ndatabase = \"keys\"\n";
    fs::write(&file, format!("{before}{section}")).unwrap();
    let shell = Shell::default()
        .set("APP", identity(2))
        .set("TLS_PASSWORD", "x")
        .set("PGPORT", "1")
        .set("PGSSLMODE", "require")
        .set("KMS_KEYSTORE__POSTGRES__URL", "postgres://u:pw9secret@h:7/other");
    let arguments = ["config", "show", "--config", text(&file)];
    let printed = shell.run(&[&arguments[..], &["--json"]].concat()).ok();
    let all: Value = serde_json::from_str(&printed).unwrap();
    let of_url = json!("environment variable KMS_KEYSTORE__POSTGRES__URL");
    for (key, value) in [
        ("url", json!("***")),
        ("host", json!(["h"])),
        ("port", json!(["7"])),
        ("user", json!("u")),
        ("password", json!("***")),
    ] {
        let found = setting(&all, &format!("keystore.postgres.{key}"));
        assert_eq!(
            (&found["value"], &found["origin"], &found["place"]),
            (&value, &json!("variable"), &of_url),
            "{key}"
        );
    }
    let database = setting(&all, "keystore.postgres.database");
    assert_eq!((&database["value"], &database["origin"]), (&json!("keys"), &json!("file")), "{database}");
    let mode = setting(&all, "keystore.postgres.tls.mode");
    assert_eq!(mode["place"], "environment variable PGSSLMODE", "{mode}");
    assert!(!printed.contains("pw9secret") && !shell.run(&arguments).ok().contains("pw9secret"));
}

#[test]
fn a_credential_of_systemd_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (file, root_key) = (dir.path().join("kms.toml"), dir.path().join("credentials/root.key"));
    fs::create_dir(root_key.parent().unwrap()).unwrap();
    fs::write(&root_key, "").unwrap();
    let content = config();
    let (before, _) = content.split_once("[keystore.vault]").unwrap();
    let before = before.replace("rotate_after = \"90d\"\n", "");
    fs::write(&file, format!("{before}[keystore.fs]\npath = \"/var/lib/kms\"\n")).unwrap();
    let shell = Shell::default()
        .set("APP", identity(2))
        .set("TLS_PASSWORD", "x")
        .set("CREDENTIALS_DIRECTORY", root_key.parent().unwrap().display())
        .set("KMS_KEYSTORE__FS__ROOT_KEY_FILE", root_key.display());
    let printed = shell.run(&["config", "show", "--config", text(&file), "--json"]).ok();
    let all: Value = serde_json::from_str(&printed).unwrap();
    let found = setting(&all, "keystore.fs.root_key_file");
    assert_eq!(found["origin"], "credential", "{found}");
    assert_eq!(found["place"], "environment variable KMS_KEYSTORE__FS__ROOT_KEY_FILE");
}
