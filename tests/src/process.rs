//! The binary `kms` as a process of its own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use kms_server::credentials::apikey::ApiKey;
use tempfile::TempDir;

use crate::server::server_certificate;
use crate::{Client, Protocol, TestIdentity};

/// A `kms server --dev` with an encrypted store in a directory of its own; it is killed when dropped.
pub struct DevServer {
    child: Child,
    address: SocketAddr,
    admin: TestIdentity,
    _directory: TempDir,
}

impl DevServer {
    /// Starts it and waits until it is up.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new(kms_binary())
            .args(["server", "--dev", "--addr", "127.0.0.1:0", "--dir"])
            .arg(directory.path().join("dev"))
            .env_remove("KMS_LOG")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (mut address, mut api_key) = (None, None);
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let words: Vec<_> = line.split_whitespace().collect();
            match words.as_slice() {
                ["Endpoint", endpoint] => address = endpoint.strip_prefix("https://").unwrap().parse().ok(),
                ["API", "Key", key] => api_key = ApiKey::parse(key).ok(),
                _ if line.contains("Server is up and running") => break,
                _ => {}
            }
        }
        let admin = api_key.expect("the banner has an API key").client_certificate().unwrap().into();
        let address = address.expect("the banner has an endpoint");
        Self { child, address, admin, _directory: directory }
    }

    /// Returns the address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lends the certificate of its admin.
    pub fn admin_identity(&self) -> &TestIdentity {
        &self.admin
    }

    /// Makes a client with the admin's certificate.
    pub fn admin(&self, protocol: Protocol) -> Client {
        Client::new(self.address, protocol, &self.admin)
    }

    /// Returns the resident memory of the process in MiB.
    pub fn resident_mib(&self) -> u64 {
        self.resident_kib() / 1024
    }

    /// Returns the resident memory of the process in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// Returns the most memory that was ever resident, in MiB.
    pub fn most_resident_mib(&self) -> u64 {
        self.status_kib("VmHWM:") / 1024
    }

    fn status_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().split(' ').next().unwrap().parse().unwrap()
    }
}

impl Drop for DevServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `kms server --config` with keys in memory, and what a test puts into its config; it is killed when dropped.
pub struct ConfigServer {
    child: Child,
    address: SocketAddr,
    admin: TestIdentity,
    _directory: TempDir,
}

impl ConfigServer {
    /// Starts it with these lines in its config and this stderr, and waits until it is up.
    pub fn start(config: &str, stderr: Stdio) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let admin = TestIdentity::new();
        let (cert, key) = (directory.path().join("server.crt"), directory.path().join("server.key"));
        let pair = server_certificate();
        std::fs::write(&cert, pair.chain_pem()).unwrap();
        std::fs::write(&key, pair.key_pem().as_bytes()).unwrap();
        let text = format!(
            "address = '127.0.0.1:0'\n[admin]\nidentity = '{}'\n[tls]\ncert = '{}'\nkey = '{}'\n[keystore.memory]\n{config}",
            admin.identity(),
            cert.display(),
            key.display()
        );
        let file = directory.path().join("kms.toml");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(kms_binary());
        command.args(["server", "--config"]).arg(&file).env_remove("KMS_LOG").env_remove("RUST_LOG");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.split_once("https://")?.1.parse().ok());
        let address = address.expect("the server says where it listens");
        Self { child, address, admin, _directory: directory }
    }

    /// Takes its stderr, if that is a pipe.
    pub fn take_stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().unwrap()
    }

    /// Lends the certificate of its admin.
    pub fn admin_identity(&self) -> &TestIdentity {
        &self.admin
    }

    /// Makes a client with this certificate.
    pub fn client(&self, protocol: Protocol, identity: &TestIdentity) -> Client {
        Client::new(self.address, protocol, identity)
    }

    /// Tells it to stop, and waits until it has.
    pub fn stop(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for ConfigServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a log that another process writes in its own time: when nothing has come for a moment.
pub fn settled(log: &Path) -> String {
    let mut before = std::fs::read_to_string(log).unwrap();
    loop {
        std::thread::sleep(Duration::from_millis(150));
        let now = std::fs::read_to_string(log).unwrap();
        if now == before {
            return now;
        }
        before = now;
    }
}

/// Returns the path of the binary `kms`, built from this tree.
///
/// The whole workspace is named, so that the build has the same features as that of the tests.
pub fn kms_binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--workspace", "--bin", "kms", "--message-format", "json"]);
        let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "the binary kms cannot be built");
        let messages = String::from_utf8(output.stdout).unwrap();
        let mut executables = messages.lines().filter_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            message["executable"].as_str().map(PathBuf::from)
        });
        executables.next_back().expect("cargo tells where the binary is")
    };
    BINARY.get_or_init(build).clone()
}
