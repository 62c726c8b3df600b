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

/// A `kms server --dev` with an encrypted store in a directory of its own. It is killed when it is dropped.
pub struct DevServer {
    child: Child,
    address: SocketAddr,
    admin: TestIdentity,
    _directory: TempDir,
}

impl DevServer {
    /// Starts the server and waits until it is up.
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

    /// Returns the address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the certificate of the admin.
    pub fn admin_identity(&self) -> &TestIdentity {
        &self.admin
    }

    /// Creates a client with the certificate of the admin.
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

    /// Returns the highest resident memory so far, in MiB.
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

/// A `kms server --config` with keys in memory and further settings of a test. It is killed when it is
/// dropped.
pub struct ConfigServer {
    child: Child,
    address: SocketAddr,
    admin: TestIdentity,
    _directory: TempDir,
}

impl ConfigServer {
    /// Starts the server with these lines in its config and this stderr, and waits until it is up.
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

    /// Takes the stderr of the server, which has to be a pipe.
    pub fn take_stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().unwrap()
    }

    /// Returns the address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the certificate of the admin.
    pub fn admin_identity(&self) -> &TestIdentity {
        &self.admin
    }

    /// Creates a client with this certificate.
    pub fn client(&self, protocol: Protocol, identity: &TestIdentity) -> Client {
        Client::new(self.address, protocol, identity)
    }

    /// Sends SIGTERM and waits until the server has ended.
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

/// Reads a log of another process as soon as it has not grown for a moment.
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

/// Builds the binary `kms` of this tree once and returns its path.
///
/// The build names the whole workspace, so that it has the same features as the build of the tests.
pub fn kms_binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        // The figures of benches/ are those of a release build.
        if let Some(binary) = std::env::var_os("KMS_BIN") {
            return binary.into();
        }
        let mut cargo = Command::new(env!("CARGO"));
        // With a test beside it the dependencies have the features that tests ask for, and need not be built again.
        cargo.args([
            "build",
            "--workspace",
            "--bin",
            "kms",
            "--test",
            "architecture",
            "--message-format",
            "json",
        ]);
        let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "the binary kms cannot be built");
        let messages = String::from_utf8(output.stdout).unwrap();
        let mut executables = messages.lines().filter_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            let is_kms = message["target"]["name"] == "kms";
            message["executable"].as_str().filter(|_| is_kms).map(PathBuf::from)
        });
        executables.next_back().expect("cargo tells where the binary is")
    };
    BINARY.get_or_init(build).clone()
}
