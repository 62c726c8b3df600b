//! A server process whose config file a test rewrites.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use kms_server::credentials::certificate::NewCertificate;
use kms_tests::client::tls_connect;
use kms_tests::process::kms_binary;
use kms_tests::{Client, Protocol, TestIdentity};
use rustix::process::{Pid, Signal, kill_process};

pub const LOADED: &str = "the configuration was loaded again";
pub const REFUSED: &str = "the configuration was not loaded";
pub const GENERATE: &str = "/v1/key/generate/my-key";

pub const FILES_LOADED: &str = "the certificate files have changed and were loaded";

/// A `kms server` with a config file that the test rewrites.
pub struct Reloaded {
    child: Option<Child>,
    pub directory: tempfile::TempDir,
    address: std::net::SocketAddr,
    pub admin: TestIdentity,
    pub app: TestIdentity,
}

impl Reloaded {
    pub fn start() -> Self {
        let (admin, app) = (TestIdentity::new(), TestIdentity::new());
        Self::start_with(admin, app, &[], |server| server.config("off", Some(&server.app)))
    }

    /// Starts a server with these files beside its config. Its file `roots.pem` holds the CAs of the system.
    pub fn start_with(
        admin: TestIdentity,
        app: TestIdentity,
        files: &[(&str, &str)],
        config: impl FnOnce(&Self) -> String,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(directory.path().join(name), content).unwrap();
        }
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        write_certificate(directory.path());
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let mut command = Command::new(kms_binary());
        command
            .args(["server", "--config", "kms.toml"])
            .current_dir(directory.path())
            .env_remove("KMS_LOG")
            .env_remove("RUST_LOG")
            .env("SSL_CERT_FILE", directory.path().join("roots.pem"))
            .env_remove("SSL_CERT_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let mut server = Self { child: None, directory, address, admin, app };
        fs::write(server.file("kms.toml"), config(&server)).unwrap();
        server.child = Some(command.spawn().unwrap());
        server.until_told("server is up", 1);
        server
    }

    pub fn client(&self, protocol: Protocol, identity: &TestIdentity) -> Client {
        Client::new(self.address, protocol, identity)
    }

    pub fn child(&self) -> &Child {
        self.child.as_ref().unwrap()
    }

    pub fn hang_up(&self) {
        kill_process(Pid::from_child(self.child()), Signal::HUP).unwrap();
    }

    /// Writes another configuration, sends SIGHUP, and waits until the log has `told` once more.
    pub fn reload(&self, config: &str, told: &str) {
        let before = self.log().matches(told).count();
        fs::write(self.file("kms.toml"), config).unwrap();
        self.hang_up();
        self.until_told(told, before + 1);
    }

    pub fn until_told(&self, words: &str, times: usize) {
        let began = Instant::now();
        while self.log().matches(words).count() < times {
            assert!(began.elapsed() < Duration::from_secs(20), "not '{words}' in: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn config(&self, auth: &str, app: Option<&TestIdentity>) -> String {
        config(self.address, &self.admin, auth, app)
    }

    /// Waits until the process has ended and returns its status.
    pub fn ended(&mut self) -> std::process::ExitStatus {
        let began = Instant::now();
        let child = self.child.as_mut().unwrap();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child().id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().split(' ').next().unwrap().parse().unwrap()
    }
}

impl Drop for Reloaded {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn write_certificate(directory: &Path) {
    let new = NewCertificate {
        common_name: "localhost".to_owned(),
        dns_names: vec!["localhost".to_owned()],
        ip_addresses: Vec::new(),
        validity: Duration::from_secs(3600),
        server: true,
    };
    let pair = new.with_new_key().unwrap();
    fs::write(directory.join("server.key"), pair.key_pem().as_bytes()).unwrap();
    fs::write(directory.join("server.crt"), pair.chain_pem()).unwrap();
}

pub async fn server_certificate(server: &Reloaded) -> Vec<u8> {
    let config = Arc::new(server.app.client_config(&["h2"]));
    let tls = tls_connect(server.address, config).await.unwrap();
    tls.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn config(
    address: std::net::SocketAddr,
    admin: &TestIdentity,
    auth: &str,
    app: Option<&TestIdentity>,
) -> String {
    let identities = app.map_or(String::new(), |app| format!("\"{}\"", app.identity()));
    format!(
        r#"address = "{address}"
[admin]
identity = "{}"
[tls]
key = "server.key"
cert = "server.crt"
auth = "{auth}"
ca = "server.crt"
[policy.app]
allow = ["/v1/key/generate/my-*", "/v1/log/*"]
identities = [{identities}]
[[keys]]
name = "my-key"
[keystore.memory]
"#,
        admin.identity()
    )
}

/// Returns whether a body ends. It does not if nothing arrives for half a second.
pub async fn ends(body: &mut Incoming) -> bool {
    loop {
        match tokio::time::timeout(Duration::from_millis(500), body.frame()).await {
            Err(_) => return false,
            Ok(None) => return true,
            Ok(Some(frame)) => drop(frame.unwrap()),
        }
    }
}

/// Waits until the server has closed the connection of a client.
pub async fn until_closed(client: &Client) {
    let began = Instant::now();
    while client.is_connected() {
        assert!(began.elapsed() < Duration::from_secs(5), "a connection of the old rule lives on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
