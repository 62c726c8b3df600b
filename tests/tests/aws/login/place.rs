//! A server in a directory of its own, with a chosen environment.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use kms_server::credentials::certificate::NewCertificate;
use kms_tests::process::kms_binary;
use kms_tests::programs::until;
use kms_tests::{Client, Protocol, TestIdentity};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// An endpoint at which nobody listens. Only a server with credentials sends a request there.
pub const NOBODY: &str = "http://127.0.0.1:9";
pub const ROLE: &str = "arn:aws:iam::000000000000:role/kms";

/// A directory with a config for AWS, and the environment of its server.
pub struct Place {
    directory: TempDir,
    address: SocketAddr,
    admin: TestIdentity,
    environment: Vec<(&'static str, String)>,
}

/// The key store that uses AWS.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keys {
    Kms,
    Secrets,
    Wrapped,
}

impl Place {
    pub fn new(keys: Keys, endpoint: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let pair = NewCertificate {
            common_name: "localhost".to_owned(),
            dns_names: vec!["localhost".to_owned()],
            ip_addresses: vec![[127, 0, 0, 1].into()],
            validity: Duration::from_secs(3600),
            server: true,
        };
        let pair = pair.with_new_key().unwrap();
        fs::write(file("server.crt"), pair.chain_pem()).unwrap();
        fs::write(file("server.key"), pair.key_pem().as_bytes()).unwrap();
        let admin = TestIdentity::new();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let aws = format!("region = \"eu-central-1\"\nendpoint = \"{endpoint}\"\n");
        let section = match keys {
            Keys::Kms => format!("[keystore.aws.kms]\n{aws}"),
            Keys::Secrets => format!("[keystore.aws.secretsmanager]\n{aws}"),
            Keys::Wrapped => {
                format!("[keystore.fs]\npath = \"store\"\n[kms.aws]\nkey = \"alias/root\"\n{aws}")
            }
        };
        let config = format!(
            "address = \"{address}\"\n[admin]\nidentity = \"{}\"\n[tls]\ncert = \"server.crt\"\nkey = \"server.key\"\n\
             [cache.expiry]\nany = \"1s\"\noffline = \"1h\"\n{section}",
            admin.identity()
        );
        fs::write(file("config.toml"), config).unwrap();
        Self { directory, address, admin, environment: Vec::new() }
    }

    /// Sets a variable.
    pub fn with(mut self, variable: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((variable, value.into()));
        self
    }

    /// Switches instance metadata off. A machine of AWS would answer for it.
    pub fn without_instance(self) -> Self {
        self.with("AWS_EC2_METADATA_DISABLED", "true")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(kms_binary());
        command
            .args(arguments)
            .args(["--config", "config.toml"])
            .current_dir(self.directory.path())
            .env_clear()
            .env("HOME", self.directory.path())
            .envs(self.environment.iter().map(|(variable, value)| (variable, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs `kms check` and expects that it finds a problem. Returns its output and how long it took.
    pub async fn check(&self) -> (String, Duration) {
        tokio::task::spawn_blocking(kms_binary).await.unwrap();
        let began = Instant::now();
        let output = self.command(&["check"]).output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{text}");
        (text, began.elapsed())
    }

    pub async fn serve(&self) -> Child {
        tokio::task::spawn_blocking(kms_binary).await.unwrap();
        let log = fs::File::create(self.path("log")).unwrap();
        let mut command = self.command(&["server"]);
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        until("the server is up", async || self.log().contains("Server is up and running")).await;
        child
    }

    pub fn log(&self) -> String {
        kms_tests::process::settled(&self.path("log"))
    }

    pub async fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let mut client = Client::new(self.address, Protocol::Http1, &self.admin);
        let answer = client.send(method, path, "").await.unwrap();
        (answer.code(), answer.text().to_owned())
    }
}

/// Fails unless a text tells operators about credentials, without jargon and without an outage.
pub fn assert_told(what: &str, text: &str, parts: &[&str]) {
    for part in ["login failed", "credentials"].iter().chain(parts) {
        assert!(text.contains(part), "{what}: '{part}' in\n{text}");
    }
    for jargon in [
        "not reachable:",
        "deadline exceeded",
        "dispatch failure",
        "DispatchFailure",
        "ProviderError",
        "SdkError",
        "Some(",
    ] {
        assert!(!text.contains(jargon), "{what}: '{jargon}' in\n{text}");
    }
}
