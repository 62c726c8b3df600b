//! A real KES 0.24 as a process of its own.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use kms_core::Identity;
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// How long KES may take to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running KES 0.24. It is killed when it is dropped.
pub struct Kes {
    endpoint: String,
    http: reqwest::Client,
    directory: TempDir,
    _child: Child,
}

impl Kes {
    /// Starts `program` with this section `keystore` and waits until it answers. Its cache keeps keys for a
    /// second.
    pub async fn start(program: &Path, keystore: Value) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let server_key = KeyPair::generate().unwrap();
        let server =
            CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&server_key).unwrap();
        std::fs::write(path("server.crt"), server.pem()).unwrap();
        std::fs::write(path("server.key"), server_key.serialize_pem()).unwrap();
        let client_key = KeyPair::generate().unwrap();
        let client = CertificateParams::default().self_signed(&client_key).unwrap();
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        // JSON is valid YAML.
        let settings = json!({
            "version": "v1", "address": address,
            "admin": {"identity": Identity::of_public_key(&client_key.subject_public_key_info()).to_string()},
            "tls": {"key": path("server.key"), "cert": path("server.crt")},
            "cache": {"expiry": {"any": "1s", "unused": "1s", "offline": "0s"}},
            "keystore": keystore,
        });
        std::fs::write(path("config.yml"), settings.to_string()).unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let child = Command::new(program)
            .args(["server", "--config"])
            .arg(path("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let identity = format!("{}{}", client.pem(), client_key.serialize_pem());
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_danger_accept_invalid_certs(true)
            .identity(reqwest::Identity::from_pem(identity.as_bytes()).unwrap())
            .timeout(Duration::from_secs(20))
            .build()
            .unwrap();
        let kes = Self { endpoint: format!("https://{address}/v1"), http, directory, _child: child };
        let began = Instant::now();
        while !kes.is_up().await {
            let log = std::fs::read_to_string(kes.directory.path().join("log")).unwrap();
            assert!(began.elapsed() < PATIENCE, "KES does not answer: {log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        kes
    }

    /// Sends a PUT and returns the JSON of the answer.
    pub async fn ask(&self, path: &str, body: Value) -> Value {
        let request = self.http.put(format!("{}/{path}", self.endpoint));
        let request = if body.is_null() { request } else { request.body(body.to_string()) };
        Self::answer(path, request).await
    }

    /// Sends a GET and returns the JSON of the answer.
    pub async fn get(&self, path: &str) -> Value {
        Self::answer(path, self.http.get(format!("{}/{path}", self.endpoint))).await
    }

    /// Sends a request and returns the status of the answer.
    pub async fn status(&self, method: Method, path: &str) -> u16 {
        let request = self.http.request(method, format!("{}/{path}", self.endpoint));
        request.send().await.unwrap().status().as_u16()
    }

    async fn is_up(&self) -> bool {
        let answer = self.http.get(format!("{}/status", self.endpoint)).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    }

    async fn answer(path: &str, request: reqwest::RequestBuilder) -> Value {
        let answer = request.send().await.unwrap();
        let (status, body) = (answer.status(), answer.text().await.unwrap());
        assert!(status == 200, "{path}: {status} {body}");
        serde_json::from_str(&body).unwrap_or(Value::Null)
    }
}
