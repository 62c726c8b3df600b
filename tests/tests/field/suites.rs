//! The command lines of suites and scripts in the field, word for word.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use kms_tests::shell::{Serving, Shell, field, kms, text};
use tempfile::TempDir;

/// The files that a suite makes: the binary as `kes`, a certificate of the server, and one of a client.
struct Suite {
    dir: TempDir,
}

impl Suite {
    fn new() -> Self {
        let suite = Self { dir: tempfile::tempdir().unwrap() };
        symlink(kms(), suite.path("kes")).unwrap();
        for (name, subject) in [("server", "localhost"), ("client", "client")] {
            let (key, cert) = (suite.path(&format!("{name}.key")), suite.path(&format!("{name}.crt")));
            let flags =
                ["--key", text(&key), "--cert", text(&cert), "--ip", "127.0.0.1", "--dns", "localhost"];
            suite.kes(&[&["tool", "identity", "new", "--force", subject] as &[&str], &flags].concat()).ok();
        }
        suite
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn kes(&self, arguments: &[&str]) -> kms_tests::shell::Done {
        Shell::default().run_binary(&self.path("kes"), arguments, b"")
    }

    fn client_identity(&self) -> String {
        self.kes(&["tool", "identity", "of", text(&self.path("client.crt"))]).ok().trim().to_owned()
    }

    /// Returns a client with the environment variables of 2020.
    fn client(&self, endpoint: &str) -> Shell {
        Shell::default()
            .set("KES_SERVER", endpoint)
            .set("KES_CLIENT_TLS_KEY_FILE", self.path("client.key").display())
            .set("KES_CLIENT_TLS_CERT_FILE", self.path("client.crt").display())
    }

    fn config(&self, name: &str, content: &str) -> PathBuf {
        let file = self.path(name);
        let tls = |language: char| {
            let (key, cert) = (self.path("server.key"), self.path("server.crt"));
            match language {
                ':' => format!("tls:\n  key: {}\n  cert: {}\n", key.display(), cert.display()),
                _ => format!("[tls]\nkey = \"{}\"\ncert = \"{}\"\n", key.display(), cert.display()),
            }
        };
        let store = self.path("keys").display().to_string();
        let content = content.replace("TLS:", &tls(':')).replace("TLS=", &tls('=')).replace("KEYS", &store);
        fs::write(&file, content).unwrap();
        file
    }
}

fn endpoint(server: &Serving) -> String {
    server.stdout().split_whitespace().find(|word| word.starts_with("https://")).unwrap().to_owned()
}

#[test]
fn the_suites_that_name_root_key_and_cert_get_keys_in_memory() {
    let suite = Suite::new();
    // `sh -c "/kes server --addr … --key=F --cert=F --root=$(/kes tool identity of CERT) --auth=off"`
    let (key, cert) = (suite.path("server.key"), suite.path("server.crt"));
    let flags = [
        "--addr".to_owned(),
        "127.0.0.1:0".to_owned(),
        format!("--key={}", text(&key)),
        format!("--cert={}", text(&cert)),
        format!("--root={}", suite.client_identity()),
        "--auth=off".to_owned(),
    ];
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let server = Shell::default().serve(&flags);
    let told = server.stderr();
    assert!(told.contains("every key dies with this process"), "{told}");
    let client = suite.client(&endpoint(&server));
    client.run(&["status", "-k", "--short"]).ok();
    client.run(&["key", "create", "my-key", "-k"]).ok();
    let dek = client.run(&["key", "derive", "my-key", "-k"]).ok();
    client.run(&["key", "decrypt", "-k", "my-key", &field(&dek, "ciphertext")]).ok();
    assert!(fs::read_dir(suite.dir.path()).unwrap().count() == 5, "something was stored");
    server.stop();
    // Only this form of the command implies keys in memory.
    for less in [&flags[..3], &flags[4..], &[flags[2], flags[4]]] {
        let done = Shell::default().run(&[&["server"], less].concat());
        assert!(!done.status.success(), "{less:?}");
    }
}

#[test]
fn quiet_prints_nothing_and_serves() {
    let suite = Suite::new();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (key, cert) = (suite.path("server.key"), suite.path("server.crt"));
    let mut server = std::process::Command::new(suite.path("kes"))
        .args(["server", "--quiet", "--addr", &address, "--key", text(&key), "--cert", text(&cert)])
        .args(["--root", &suite.client_identity()])
        .env_clear()
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let client = suite.client(&format!("https://{address}"));
    let began = std::time::Instant::now();
    while !client.run(&["status", "-k", "--short"]).status.success() {
        assert!(began.elapsed().as_secs() < 60, "it does not start");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    server.kill().unwrap();
    assert_eq!(String::from_utf8(server.wait_with_output().unwrap().stdout).unwrap(), "");
}

#[test]
fn flags_of_former_releases_are_taken_with_a_warning() {
    let suite = Suite::new();
    let identity = suite.client_identity();
    let yaml = suite.config(
        "config.yml",
        &format!("admin:\n  identity: {identity}\nTLS:keystore:\n  fs:\n    path: KEYS\n"),
    );
    let config = format!("--config={}", text(&yaml));
    for (flags, told) in [
        (&["--auth=off"] as &[&str], "--auth=off has no effect"),
        (&["--auth", "off"], "--auth=off has no effect"),
        (&["--mlock", "-q=false"], ""),
        (&["--mlock", "--tls-key", "x", "--tls-cert", "x"], "flag --key: tls.key: no effect"),
    ] {
        if told.is_empty() {
            continue;
        }
        let server = Shell::default().serve(&[flags, &[&config, "--addr", "127.0.0.1:0"]].concat());
        assert!(server.stderr().contains(told), "{flags:?}: {}", server.stderr());
        server.stop();
    }
    // In `server --auth --config=…` the next argument is not the missing value of `--auth`.
    let server = Shell::default().serve(&["--auth", &config, "--addr", "127.0.0.1:0"]);
    assert!(server.stderr().contains("--auth=on has no effect"), "{}", server.stderr());
}

#[test]
fn the_guide_of_2020_starts_its_server() {
    let suite = Suite::new();
    let identity = suite.client_identity();
    let toml = suite.config(
        "server-config.toml",
        &format!(
            "address = \"127.0.0.1:0\"\nTLS=[policy.minio]\npaths = [\"/v1/key/create/minio-*\", \
             \"/v1/key/generate/minio-*\", \"/v1/key/decrypt/minio-*\"]\nidentities = [\"{identity}\"]\n\
             [cache.expiry]\nall = \"5m\"\nunused = \"20s\"\n[keystore.fs]\npath = \"KEYS\"\n"
        ),
    );
    let server = Shell::default().serve(&[
        &format!("--config={}", text(&toml)),
        "--mlock",
        "--root=disabled",
        "--mtls-auth=ignore",
    ]);
    let client = suite.client(&endpoint(&server));
    client.run(&["key", "create", "minio-key-1", "-k"]).ok();
    let dek = client.run(&["key", "derive", "minio-key-1", "-k"]).ok();
    client.run(&["key", "decrypt", "minio-key-1", "-k", &field(&dek, "ciphertext")]).ok();
    let denied = client.run(&["key", "create", "my-key-1", "-k"]).error();
    assert!(denied.contains("not authorized: insufficient permissions"), "{denied}");
}

#[test]
fn mtls_auth_verify_is_honoured() {
    let suite = Suite::new();
    let identity = suite.client_identity();
    let ca = suite.path("server.crt");
    let yaml = suite.config(
        "config.yml",
        &format!("root: {identity}\nTLS:  ca: {}\nkeystore:\n  fs:\n    path: KEYS\n", ca.display()),
    );
    let server =
        Shell::default().serve(&["--config", text(&yaml), "--mtls-auth=verify", "--addr", "127.0.0.1:0"]);
    let done = suite.client(&endpoint(&server)).run(&["status", "-k"]);
    assert!(!done.status.success(), "a stranger's certificate passed: {done:?}");
}

#[test]
fn keys_are_listed_by_the_short_command_too() {
    let server = Shell::default().serve(&["--dev", "--in-memory", "--addr", "127.0.0.1:0"]);
    let shell = server.exports();
    shell.run(&["key", "create", "b", "a"]).ok();
    assert_eq!(shell.run(&["ls"]).ok(), "Key\na\nb\n");
    assert_eq!(shell.run(&["ls", "b*", "--json"]).ok(), "[\"b\"]\n");
    assert_eq!(shell.run(&["ls", "-i", "-p"]).status.code(), Some(2));
}
