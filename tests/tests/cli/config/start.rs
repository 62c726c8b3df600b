//! The binary reports mistakes of a config in the same words, and names the setting when a start fails.

use std::fs;

use kms_tests::shell::{Shell, text};

use super::example::{ADMIN, GOOD};

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

/// A file that cannot be used is reported with the setting that names it.
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
