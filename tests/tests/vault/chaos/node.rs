//! One of the servers. It is the real binary, and it has an audit file for each of its lives.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use kms_core::Identity;
use kms_tests::process::kms_binary;
use kms_tests::programs::{free_port, until};
use kms_tests::server::server_certificate;
use kms_vault::{AppRole, Login, SecretSource};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// How long a server keeps keys in memory. A key that another server deleted still works for this time.
pub const CACHE: Duration = Duration::from_secs(2);

pub struct Node {
    pub address: SocketAddr,
    /// The times at which the server was killed.
    pub kills: Vec<Instant>,
    directory: TempDir,
    lives: usize,
    child: Option<Child>,
}

impl Node {
    pub async fn start(vault: &str, login: &Login, known: &[Identity]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let pair = server_certificate();
        std::fs::write(path.join("server.crt"), pair.chain_pem()).unwrap();
        std::fs::write(path.join("server.key"), pair.key_pem().as_bytes()).unwrap();
        let Login::AppRole(AppRole { id, secret: SecretSource::Value(secret), .. }) = login else {
            unreachable!()
        };
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let known: Vec<_> = known.iter().map(|identity| format!("\"{identity}\"")).collect();
        let config = format!(
            r#"address = "{address}"
[admin]
identity = "disabled"
[tls]
cert = "{cert}"
key = "{key}"
[policy.app]
allow = ["/v1/key/*", "/v1/ready"]
identities = [{known}]
[cache.expiry]
any = "{cache}s"
[deletion]
grace = "0s"
[keystore.vault]
endpoint = "{vault}"
version = "v2"
prefix = "minio"
[keystore.vault.approle]
id = "{id}"
secret = "{secret}"
"#,
            cert = path.join("server.crt").display(),
            key = path.join("server.key").display(),
            known = known.join(", "),
            cache = CACHE.as_secs(),
            secret = secret.expose(),
        );
        std::fs::write(path.join("config.toml"), config).unwrap();
        let mut node = Self { address, kills: Vec::new(), directory, lives: 0, child: None };
        node.run().await;
        node
    }

    /// Starts the process and waits until it listens.
    pub async fn run(&mut self) {
        let kms = tokio::task::spawn_blocking(kms_binary).await.unwrap();
        self.lives += 1;
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        let mut command = Command::new(kms);
        command
            .arg("server")
            .arg("--config")
            .arg(self.directory.path().join("config.toml"))
            .env("KMS_LOG__AUDIT_FILE", self.audit_file(self.lives))
            .env_remove("KMS_LOG")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true);
        self.child = Some(command.spawn().unwrap());
        let address = self.address;
        until("the server listens", async || tokio::net::TcpStream::connect(address).await.is_ok()).await;
    }

    pub fn reload(&self) {
        kill_process(self.pid(), Signal::HUP).unwrap();
    }

    pub async fn kill(&mut self) {
        self.kills.push(Instant::now());
        if let Some(mut child) = self.child.take() {
            child.kill().await.unwrap();
        }
    }

    /// Stops the server and expects success.
    pub async fn stop(&mut self) {
        kill_process(self.pid(), Signal::TERM).unwrap();
        if let Some(mut child) = self.child.take() {
            let status = child.wait().await.unwrap();
            assert!(status.success(), "{status}: {}", self.log());
        }
    }

    /// Returns the resident memory in KiB and the number of open descriptors.
    pub fn measure(&self) -> (u64, usize) {
        let process = format!("/proc/{}", self.pid().as_raw_nonzero());
        let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let memory = line.trim().split(' ').next().unwrap().parse().unwrap();
        (memory, std::fs::read_dir(format!("{process}/fd")).unwrap().count())
    }

    /// Returns the audit lines of all lives.
    pub fn audit(&self) -> String {
        (1..=self.lives).map(|life| std::fs::read_to_string(self.audit_file(life)).unwrap() + "\n").collect()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap()
    }

    fn pid(&self) -> Pid {
        let id = self.child.as_ref().and_then(Child::id).expect("it runs");
        Pid::from_raw(id.cast_signed()).unwrap()
    }

    fn audit_file(&self, life: usize) -> PathBuf {
        self.directory.path().join(format!("audit-{life}.log"))
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}
