//! A single node from `kms init` to `kms root-key rotate`. `kms check` looks at each step.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use kms_server::credentials::certificate::{Facts, first_of};
use kms_tests::shell::{Serving, Shell, field, kms, text};
use serde_json::Value;
use tempfile::TempDir;

/// A directory that `kms init` made, with a config that listens on a free port.
struct Node {
    dir: TempDir,
    made: String,
}

impl Node {
    fn init(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("node");
        let made = Shell::default().run(&[&["init", text(&node), "--json"], flags].concat()).ok();
        Self { dir, made }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("node").join(name)
    }

    fn edit(&self, edit: impl Fn(String) -> String) {
        let config = self.path("config.toml");
        fs::write(&config, edit(fs::read_to_string(&config).unwrap())).unwrap();
    }

    fn serve(&self) -> Serving {
        Shell::default().serve(&["--config", text(&self.path("config.toml")), "--addr", "127.0.0.1:0"])
    }

    fn client(&self, server: &Serving) -> Shell {
        let stdout = server.stdout();
        let endpoint = stdout.split_whitespace().find(|word| word.starts_with("https://")).unwrap();
        Shell::default()
            .set("KES_SERVER", endpoint)
            .set("KES_CA_CERT", self.path("server.crt").display())
            .set("KES_API_KEY", field(&self.made, "api_key"))
    }

    fn check(&self) -> kms_tests::shell::Done {
        Shell::default().run(&["check", "--config", text(&self.path("config.toml"))])
    }

    /// Expects that the check fails and prints these parts.
    #[track_caller]
    fn check_finds(&self, parts: &[&str]) {
        let done = self.check();
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        let told = done
            .stdout
            .lines()
            .any(|line| line.starts_with("error") && parts.iter().all(|part| line.contains(part)));
        assert!(told, "{parts:?} in {}", done.stdout);
    }
}

fn facts(cert: &Path) -> Facts {
    Facts::of(&first_of(&fs::read(cert).unwrap()).unwrap()).unwrap()
}

#[test]
fn init_makes_all_that_a_server_needs() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("my node");
    let text_made = Shell::default().run(&["init", text(&node)]).ok();
    for told in [
        "kms server --config",
        "Back this file up elsewhere than the store; losing it is losing all data",
        "kes:v1:",
    ] {
        assert!(text_made.contains(told), "{told} in {text_made}");
    }
    for secret in ["root.key", "server.key"] {
        assert_eq!(fs::metadata(node.join(secret)).unwrap().permissions().mode() & 0o777, 0o600, "{secret}");
    }
    let api_key = text_made.split_whitespace().find(|word| word.starts_with("kes:v1:")).unwrap();
    let identity = Shell::default().run(&["identity", "of", api_key]).ok();
    let config = fs::read_to_string(node.join("config.toml")).unwrap();
    assert!(config.contains(identity.trim_end()) && !config.contains("kes:v1:"), "{config}");
    let facts = facts(&node.join("server.crt"));
    assert_eq!(facts.dns_names[0], "localhost");
    assert_eq!(facts.ip_addresses[0].to_string(), "127.0.0.1");

    // A shell can run the line that the command prints.
    let next = text_made.lines().find(|line| line.trim().starts_with("kms server")).unwrap();
    assert!(next.contains(&format!("'{}'", node.join("config.toml").display())), "{next}");

    let before = fs::read(node.join("root.key")).unwrap();
    for missing in ["config.toml", "server.crt", "server.key"] {
        fs::remove_file(node.join(missing)).unwrap();
        let error = Shell::default().run(&["init", text(&node)]).error();
        assert!(error.contains("nothing is overwritten"), "{error}");
        assert!(!node.join(missing).exists());
    }
    assert_eq!(fs::read(node.join("root.key")).unwrap(), before);
}

#[test]
fn init_for_a_minio_makes_its_policy_and_its_variables() {
    let node = Node::init(&["--minio"]);
    let made: Value = serde_json::from_str(&node.made).unwrap();
    assert_eq!(made["minio"]["variables"], text(&node.path("minio.env")));
    let permissions = fs::metadata(node.path("minio.env")).unwrap().permissions();
    assert_eq!(permissions.mode() & 0o777, 0o600);
    let variables = fs::read_to_string(node.path("minio.env")).unwrap();
    let variable = |name: &str| {
        let found = variables.lines().find_map(|line| line.strip_prefix(&format!("MINIO_KMS_KES_{name}=")));
        found.unwrap_or_else(|| panic!("{name} in {variables}")).to_owned()
    };
    assert_eq!(variable("ENDPOINT"), "https://localhost:7373");
    assert_eq!(variable("CAPATH"), text(&node.path("server.crt")));
    let identity = Shell::default().run(&["identity", "of", &variable("API_KEY")]).ok();
    assert_eq!(made["minio"]["identity"], identity.trim());
    assert_ne!(made["identity"], identity.trim(), "it is not the admin");
    let config = fs::read_to_string(node.path("config.toml")).unwrap();
    assert!(config.contains(identity.trim()) && !config.contains("kes:v1:"), "{config}");

    let told = node.check().ok();
    assert!(told.contains("0 errors, 0 warnings"), "{told}");
    let server = node.serve();
    let minio = node.client(&server).set("KES_API_KEY", variable("API_KEY"));
    let key = variable("KEY_NAME");
    minio.run(&["key", "create", &key]).ok();
    minio.run(&["key", "dek", &key]).ok();
    for refused in [["key", "create", "other"], ["key", "rm", &key]] {
        let error = minio.run(&refused).error();
        assert!(error.contains("not authorized"), "{refused:?}: {error}");
    }

    for usage in [&["init"] as &[&str], &["init", "--system", "/etc/kms"]] {
        assert_eq!(Shell::default().run(usage).status.code(), Some(2), "{usage:?}");
    }
}

#[test]
fn init_takes_only_names_by_which_a_server_can_be_reached() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    let init = |flags: &[&str]| Shell::default().run(&[&["init", text(&node), "--minio"], flags].concat());
    for (flags, value, expected) in [
        (&["--dns", "https://kms.example.com:7373"] as &[&str], "https://kms.example.com:7373", "host name"),
        (&["--dns", "kms.example.com:7373"], "kms.example.com:7373", "host name"),
        (&["--dns", "a\nMINIO_X=1"], "MINIO_X=1", "host name"),
        (&["--dns", "localhost,a b"], "a b", "host name"),
        (&["--dns", "a.*.example.com"], "a.*.example.com", "host name"),
        (&["--dns", "*"], "*", "host name"),
        (&["--dns", "10.0.0.1"], "10.0.0.1", "--ip"),
        (&["--dns", "*.example.com"], "*.example.com", "no server has this name"),
        (&["--ip", "0.0.0.0"], "0.0.0.0", "reach"),
        (&["--ip", "127.0.0.1,::"], "::", "reach"),
        (&["--ip", "224.0.0.1"], "224.0.0.1", "reach"),
    ] {
        let refused = init(flags);
        assert!(matches!(refused.status.code(), Some(1 | 2)), "{flags:?}: {refused:?}");
        assert!(
            refused.stderr.contains(value) && refused.stderr.contains(expected),
            "{flags:?}: {refused:?}"
        );
        assert!(!node.exists(), "{flags:?}");
    }
    for (flags, names, host) in [
        (
            &["--dns", "*.example.com,kms.example.com."] as &[&str],
            "*.example.com kms.example.com",
            "kms.example.com",
        ),
        (&["--dns", "*.example.com", "--ip", "::1"], "*.example.com", "[::1]"),
        (&["--dns", " localhost, my_kms ", "--ip", "127.0.0.1, ::1"], "localhost my_kms", "localhost"),
    ] {
        let told = init(flags).ok();
        assert!(told.contains(&format!("export KES_SERVER=https://{host}:7373\n")), "{told}");
        let variables = fs::read_to_string(node.join("minio.env")).unwrap();
        assert!(
            variables.contains(&format!("\nMINIO_KMS_KES_ENDPOINT=https://{host}:7373\n")),
            "{variables}"
        );
        assert_eq!(facts(&node.join("server.crt")).dns_names.join(" "), names);
        fs::remove_dir_all(&node).unwrap();
    }
}

#[test]
fn init_writes_each_path_so_that_every_reader_of_its_files_gets_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join(r#"it's "my" $node\ `here`"#);
    let told = Shell::default().run(&["init", text(&node), "--minio", "--dns", "localhost"]).ok();
    let config = node.join("config.toml");
    Shell::default().run(&["check", "--config", text(&config)]).ok();
    let by_shell = |line: &str| {
        let done = std::process::Command::new("sh").args(["-c", line, "sh", text(&node)]).output().unwrap();
        String::from_utf8(done.stdout).unwrap()
    };
    let read = by_shell(r#". "$1/minio.env"; echo "$MINIO_KMS_KES_CAPATH""#);
    assert_eq!(read.trim_end(), text(&node.join("server.crt")));
    let export = told.lines().find(|line| line.trim().starts_with("export KES_CA_CERT=")).unwrap();
    let read = by_shell(&format!(r#"{export}; echo "$KES_CA_CERT""#));
    assert_eq!(read.trim_end(), text(&node.join("server.crt")));
    // systemd reads no quote inside of a word, and within double quotes a backslash as a shell does.
    let variables = fs::read_to_string(node.join("minio.env")).unwrap();
    let word = variables.lines().find_map(|line| line.strip_prefix("MINIO_KMS_KES_CAPATH=")).unwrap();
    assert!(word.starts_with('"') && word.ends_with('"'), "{word}");

    let newline = dir.path().join("a\nb");
    let error = Shell::default().run(&["init", text(&newline)]).error();
    assert!(error.contains(r"a\nb") && error.contains("control character"), "{error}");
    let bytes: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"n\xff");
    let done = std::process::Command::new(kms()).arg("init").arg(dir.path().join(bytes)).output().unwrap();
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stderr).contains("is not UTF-8"), "{done:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only the first node");
}

#[test]
fn init_makes_the_store_on_a_volume_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (node, volume) = (dir.path().join("node"), dir.path().join("volume"));
    // A new volume has nothing in it but what its file system put there.
    fs::create_dir_all(volume.join("lost+found")).unwrap();
    let init = ["init", text(&node), "--data", text(&volume), "--json"];
    let made = Shell::default().run(&init).ok();
    assert_eq!(field(&made, "data"), text(&volume));
    assert!(volume.join("journal").exists() && !node.join("data").exists());
    let config = node.join("config.toml");
    let told = Shell::default().run(&["check", "--config", text(&config)]).ok();
    assert!(told.contains("0 errors, 0 warnings"), "{told}");

    // The store of another node is never taken, nor overwritten.
    fs::remove_dir_all(&node).unwrap();
    let error = Shell::default().run(&init).error();
    assert!(error.contains(text(&volume)) && error.contains("nothing is overwritten"), "{error}");
    assert!(!node.exists());
    // A root key inside of its store protects nothing.
    for inside in [node.clone(), dir.path().to_owned()] {
        let error = Shell::default().run(&["init", text(&node), "--data", text(&inside)]).error();
        assert!(error.contains("the root key would lie inside of the store"), "{error}");
    }
    let usage = Shell::default().run(&["init", "--system", "--data", text(&volume)]);
    assert_eq!(usage.status.code(), Some(2), "{usage:?}");
}

#[test]
fn a_node_serves_keeps_its_keys_and_passes_the_check() {
    let node = Node::init(&["--dns", "kms.example.org,localhost", "--ip", "127.0.0.1"]);
    assert_eq!(facts(&node.path("server.crt")).dns_names, ["kms.example.org", "localhost"]);
    let told = node.check().ok();
    assert!(told.contains("0 keys read and decoded") && told.contains("0 errors, 0 warnings"), "{told}");

    let server = node.serve();
    let client = node.client(&server);
    client.run(&["key", "create", "my-key"]).ok();
    let dek = client.run(&["key", "dek", "my-key"]).ok();
    let told = node.check().ok();
    assert!(told.contains("in use by") && told.contains(&server.pid().to_string()), "{told}");
    assert!(server.stop().success());

    let told = node.check().ok();
    assert!(told.contains("1 key read and decoded"), "{told}");
    let identity = field(&node.made, "identity");
    assert!(told.contains(&format!("identity {identity} is the admin")), "{told}");

    let server = node.serve();
    let opened = node.client(&server).run(&["key", "decrypt", "my-key", &field(&dek, "ciphertext")]).ok();
    assert_eq!(field(&opened, "plaintext"), field(&dek, "plaintext"));
    // The check has deleted its test key.
    assert_eq!(node.client(&server).run(&["key", "ls", "--json"]).ok(), "[\"my-key\"]\n");
}

#[test]
fn the_root_key_is_rotated_while_the_server_rests() {
    let node = Node::init(&[]);
    let config = node.path("config.toml");
    let rotate = ["root-key", "rotate", "--config", text(&config)];
    let server = node.serve();
    node.client(&server).run(&["key", "create", "my-key"]).ok();
    let dek = node.client(&server).run(&["key", "dek", "my-key"]).ok();
    assert!(Shell::default().run(&rotate).error().contains("in use"));
    server.stop();

    let old = fs::read(node.path("root.key")).unwrap();
    let told = Shell::default().run(&rotate).ok();
    assert!(told.contains("Back this file up elsewhere than the store"), "{told}");
    let new = fs::read(node.path("root.key")).unwrap();
    assert_ne!(new, old);
    let server = node.serve();
    node.client(&server).run(&["key", "decrypt", "my-key", &field(&dek, "ciphertext")]).ok();
    server.stop();

    fs::write(node.path("root.key"), &old).unwrap();
    node.check_finds(&["key store", "the root key is not that of store", text(&node.path("data"))]);
    let start = Shell::default().run(&["server", "--config", text(&config), "--addr", "127.0.0.1:0"]);
    assert_eq!(start.status.code(), Some(1));
    assert!(start.stderr.lines().last().unwrap().contains("root key is not that of store"), "{start:?}");
    assert_eq!(start.stdout, "");
}

#[test]
fn a_root_key_from_the_environment_is_rotated_too() {
    let node = Node::init(&[]);
    node.edit(|config| {
        let lines = config
            .lines()
            .map(|line| if line.starts_with("root_key_file") { "root_key_env = \"ROOT\"" } else { line });
        lines.collect::<Vec<_>>().join("\n")
    });
    fs::remove_dir_all(node.path("data")).unwrap();
    let key = |byte: u8| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode([byte; 32])
    };
    let config = node.path("config.toml");
    let serve = ["--config", text(&config), "--addr", "127.0.0.1:0"];
    let shell = Shell::default().set("ROOT", key(1)).set("NEXT", key(2));
    shell.serve(&serve).stop();
    let rotate = ["root-key", "rotate", "--config", text(&config)];
    assert!(shell.run(&rotate).error().contains("--new-env"));
    shell.run(&[&rotate as &[&str], &["--new-env", "NEXT"]].concat()).ok();
    let check = ["check", "--config", text(&config)];
    assert_eq!(shell.run(&check).status.code(), Some(1));
    shell.set("ROOT", key(2)).run(&check).ok();
    assert_eq!(Shell::default().run(&check).status.code(), Some(1), "the variable is not set");
}

#[test]
fn the_check_finds_what_is_wrong_with_the_certificate() {
    let certificate = |flags: &[&str]| {
        let node = Node::init(&[]);
        let (key, cert) = (node.path("server.key"), node.path("server.crt"));
        let new = ["identity", "new", "-f", "--key", text(&key), "--cert", text(&cert)];
        Shell::default().run(&[&new as &[&str], flags].concat()).ok();
        node
    };
    certificate(&["localhost"]).check_finds(&[
        "certificate",
        "no subject alternative name",
        "MinIO",
        "kms identity new",
    ]);

    let soon = certificate(&["--dns", "localhost", "--expiry", "100h"]).check();
    assert!(soon.stdout.contains("expires soon"), "{soon:?}");
    assert!(soon.status.success(), "a warning is no error: {soon:?}");
    certificate(&["--dns", "localhost", "--expiry", "0s"]).check_finds(&["certificate", "expired"]);

    let node = Node::init(&[]);
    let ca = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).map(|mut params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
    });
    let key = rcgen::KeyPair::generate().unwrap();
    fs::write(node.path("server.crt"), ca.unwrap().self_signed(&key).unwrap().pem()).unwrap();
    node.check_finds(&["certificate", "is not the private key of"]);
    fs::write(node.path("server.key"), key.serialize_pem()).unwrap();
    node.check_finds(&["certificate", "CA:TRUE", "MinIO", "kms identity new"]);

    for (file, content) in [("server.crt", "nothing"), ("server.key", "nothing")] {
        let node = Node::init(&[]);
        fs::write(node.path(file), content).unwrap();
        node.check_finds(&["certificate", text(&node.path(file)), "expected PEM"]);
        fs::remove_file(node.path(file)).unwrap();
        node.check_finds(&["certificate", text(&node.path(file)), "no such file"]);
    }
}

#[test]
fn the_check_finds_what_is_wrong_with_the_key_store() {
    let node = Node::init(&[]);
    fs::set_permissions(node.path("root.key"), fs::Permissions::from_mode(0o644)).unwrap();
    node.check_finds(&["key store", text(&node.path("root.key")), "chmod 600"]);
    fs::write(node.path("root.key"), "nothing").unwrap();
    fs::set_permissions(node.path("root.key"), fs::Permissions::from_mode(0o600)).unwrap();
    node.check_finds(&["key store", text(&node.path("root.key")), "base64 of 32 bytes"]);
    fs::remove_file(node.path("root.key")).unwrap();
    node.check_finds(&["key store", text(&node.path("root.key"))]);

    let node = Node::init(&[]);
    fs::remove_dir_all(node.path("data")).unwrap();
    node.check_finds(&["key store", text(&node.path("data")), "is the volume mounted?"]);
    let start = Shell::default().run(&["server", "--config", text(&node.path("config.toml"))]).error();
    assert!(start.contains("is the volume mounted?") && start.contains("--create"), "{start}");
    assert!(!node.path("data").exists(), "a start that is refused makes nothing");

    let node = Node::init(&[]);
    let inside = node.path("data/root.key");
    node.edit(|config| config.replace("/root.key\"", "/data/root.key\""));
    fs::rename(node.path("root.key"), &inside).unwrap();
    let told = node.check().stdout;
    assert!(told.contains("root key lies inside of the data directory"), "{told}");
}

#[test]
fn the_check_tells_the_config_apart_and_speaks_json() {
    let node = Node::init(&[]);
    let config = node.path("config.toml");
    let good: Value =
        serde_json::from_str(&Shell::default().run(&["check", "--json", "--config", text(&config)]).ok())
            .unwrap();
    assert_eq!(good["ok"], true);
    assert_eq!(good["identities"][0]["identity"], field(&node.made, "identity"));

    let app = "11".repeat(32);
    node.edit(|config| {
        format!(
            "{config}\n[policy.app]\n\
             allow = [\"/v1/key/*/x\", \"/v1/status\"]\nidentities = [\"{app}\", \"nobody\"]\n"
        )
    });
    let done = Shell::default().run(&["check", "--json", "--config", text(&config)]);
    assert_eq!(done.status.code(), Some(1));
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["ok"], false);
    let grant = &report["identities"][1];
    assert_eq!((&grant["identity"], &grant["policy"]), (&Value::from(app), &Value::from("app")));
    let found = |part: &str| {
        let findings = report["findings"].as_array().unwrap();
        findings
            .iter()
            .any(|finding| finding["level"] == "error" && finding["message"].as_str().unwrap().contains(part))
    };
    assert!(found("policy.app.allow[0]") && found("policy.app.identities[1]"), "{report}");

    node.edit(|config| config.replace("[tls]", "[tsl]"));
    node.check_finds(&["config", text(&config), "tsl", "unknown key"]);
    let missing = Shell::default().run(&["check", "--config", "/missing.toml"]);
    assert!(
        missing.stdout.contains("/missing.toml: cannot read the config file: no such file"),
        "{missing:?}"
    );
}
