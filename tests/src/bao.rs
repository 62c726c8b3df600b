//! A real OpenBao for one test: configured, initialised and unsealed. It ends with the test.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use kms_vault::{AppRole, KvVersion, Login, Secret, SecretSource, VaultConfig};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::programs::{free_port, http, program, until};

/// The policy of MinIO's guide for K/V version 1.
pub const GUIDE_POLICY: &str = r#"path "kv/minio/*" { capabilities = ["create", "read", "delete"] }"#;
/// The least policy that K/V version 2 needs.
pub const LEAST_POLICY: &str = r#"
path "kv/data/minio/*" { capabilities = ["create", "read"] }
path "kv/metadata/minio/*" { capabilities = ["read", "list", "delete"] }"#;
/// A policy that allows everything that a test needs.
pub const WIDE_POLICY: &str = r#"
path "kv/*" { capabilities = ["create", "read", "update", "delete", "list"] }
path "transit/encrypt/*" { capabilities = ["update"] }
path "transit/decrypt/*" { capabilities = ["update"] }"#;

/// A running OpenBao.
pub struct Bao {
    directory: TempDir,
    child: Option<Child>,
    http: reqwest::Client,
    port: u16,
    tls_port: Option<u16>,
    unseal_key: String,
    /// The root token.
    pub root: String,
}

/// The files of the TLS listener.
pub struct Tls {
    /// The certificate of the server.
    pub cert: PathBuf,
    /// The private key of the server.
    pub key: PathBuf,
    /// The CA of clients. With it, OpenBao asks clients for a certificate.
    pub client_ca: Option<PathBuf>,
}

impl Bao {
    /// Starts an OpenBao with an empty store, initialised and unsealed.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts an OpenBao that also listens with TLS.
    pub async fn start_with(tls: Option<Tls>) -> Self {
        let directory = memory_directory();
        let (port, cluster_port, tls_port) = (free_port(), free_port(), tls.as_ref().map(|_| free_port()));
        let path = directory.path();
        std::fs::create_dir(path.join("raft")).unwrap();
        let mut config = format!(
            r#"
            storage "raft" {{
              path = "{}"
              node_id = "n1"
            }}
            listener "tcp" {{
              address = "127.0.0.1:{port}"
              tls_disable = true
            }}
            api_addr = "http://127.0.0.1:{port}"
            cluster_addr = "http://127.0.0.1:{cluster_port}"
            disable_mlock = true
            "#,
            path.join("raft").display()
        );
        if let (Some(tls), Some(port)) = (&tls, tls_port) {
            let client = match &tls.client_ca {
                Some(ca) => format!(
                    "tls_require_and_verify_client_cert = true\ntls_client_ca_file = \"{}\"",
                    ca.display()
                ),
                None => String::new(),
            };
            write!(
                config,
                r#"
                listener "tcp" {{
                  address = "127.0.0.1:{port}"
                  tls_cert_file = "{}"
                  tls_key_file = "{}"
                  {client}
                }}
                "#,
                tls.cert.display(),
                tls.key.display()
            )
            .unwrap();
        }
        std::fs::write(path.join("config.hcl"), config).unwrap();
        let (unseal_key, root) = (String::new(), String::new());
        let mut bao = Self { directory, child: None, http: http(), port, tls_port, unseal_key, root };
        bao.run().await;
        let init = bao.ask(Method::PUT, "sys/init", json!({"secret_shares": 1, "secret_threshold": 1})).await;
        bao.unseal_key = init["keys"][0].as_str().unwrap().to_owned();
        bao.root = init["root_token"].as_str().unwrap().to_owned();
        bao.unseal().await;
        bao
    }

    /// Starts an OpenBao with a K/V engine of this version at `kv`.
    pub async fn with_kv(version: KvVersion) -> Self {
        let bao = Self::start().await;
        bao.mount_kv("kv", version).await;
        bao
    }

    /// Returns the URL of the plain listener.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns the URL of the TLS listener.
    pub fn tls_endpoint(&self) -> String {
        format!("https://127.0.0.1:{}", self.tls_port.expect("no TLS was asked for"))
    }

    /// Starts the process and waits until it answers. OpenBao is sealed then.
    ///
    /// A test calls this again after [`kill`](Self::kill).
    pub async fn run(&mut self) {
        let log = |name: &str| {
            let file =
                std::fs::File::options().create(true).append(true).open(self.directory.path().join(name));
            Stdio::from(file.unwrap())
        };
        let child = Command::new(program("bao"))
            .args(["server", "-config"])
            .arg(self.directory.path().join("config.hcl"))
            .stdin(Stdio::null())
            .stdout(log("log"))
            .stderr(log("log"))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let url = format!("{}/v1/sys/health", self.endpoint());
        until("OpenBao answers", async || self.http.get(&url).send().await.is_ok()).await;
    }

    /// Kills the process.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.unwrap();
        }
    }

    /// Seals OpenBao.
    pub async fn seal(&self) {
        self.ask(Method::PUT, "sys/seal", Value::Null).await;
    }

    /// Unseals OpenBao and waits until it serves.
    pub async fn unseal(&self) {
        self.ask(Method::PUT, "sys/unseal", json!({"key": self.unseal_key})).await;
        let url = format!("{}/v1/sys/health", self.endpoint());
        until("OpenBao is active", async || {
            self.http.get(&url).send().await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
    }

    /// Mounts a K/V engine and waits until it is ready.
    pub async fn mount_kv(&self, path: &str, version: KvVersion) {
        let version = if version == KvVersion::V1 { "1" } else { "2" };
        let body = json!({"type": "kv", "options": {"version": version}});
        self.ask(Method::POST, &format!("sys/mounts/{path}"), body).await;
        // OpenBao upgrades a new engine to version 2 in the background. The engine answers 400 until then.
        let url = format!("{}/v1/{path}/data/probe", self.endpoint());
        until("the engine is ready", async || {
            let answer = self.http.get(&url).header("X-Vault-Token", &self.root).send().await;
            answer.is_ok_and(|answer| answer.status() == 404)
        })
        .await;
    }

    /// Enables transit at `transit` and creates a key there.
    pub async fn mount_transit(&self, key: &str) {
        self.ask(Method::POST, "sys/mounts/transit", json!({"type": "transit"})).await;
        self.ask(Method::POST, &format!("transit/keys/{key}"), json!({})).await;
    }

    /// Enables AppRole and returns the login of a role `kms`.
    ///
    /// The role has `policy`, and its tokens have the period `period`.
    pub async fn approle(&self, policy: &str, period: &str) -> Login {
        self.ask(Method::PUT, "sys/policies/acl/kms", json!({"policy": policy})).await;
        self.ask(Method::POST, "sys/auth/approle", json!({"type": "approle"})).await;
        let role = json!({"token_policies": "kms", "token_period": period});
        self.ask(Method::POST, "auth/approle/role/kms", role).await;
        let id = self.ask(Method::GET, "auth/approle/role/kms/role-id", Value::Null).await;
        let id = id["data"]["role_id"].as_str().unwrap().to_owned();
        Login::AppRole(AppRole::new(id, Secret::from(self.secret_id().await)))
    }

    /// Creates a new secret id for the role `kms`.
    pub async fn secret_id(&self) -> String {
        let secret = self.ask(Method::PUT, "auth/approle/role/kms/secret-id", json!({})).await;
        secret["data"]["secret_id"].as_str().unwrap().to_owned()
    }

    /// Returns the configuration of a store on this OpenBao, with the root token.
    pub fn config(&self, version: KvVersion) -> VaultConfig {
        let root = Login::Token(SecretSource::Value(Secret::from(self.root.as_str())));
        VaultConfig { version, prefix: "minio".to_owned(), ..VaultConfig::new(self.endpoint(), root) }
    }

    /// Sends a request with the root token and expects success.
    pub async fn ask(&self, method: Method, path: &str, body: Value) -> Value {
        self.ask_in("", method, path, body).await
    }

    /// Sends a request with the root token in a namespace and expects success.
    pub async fn ask_in(&self, namespace: &str, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.try_in(namespace, method.clone(), path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Sends a request with the root token in a namespace.
    pub async fn try_in(&self, namespace: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
        let mut request = self
            .http
            .request(method, format!("{}/v1/{path}", self.endpoint()))
            .header("X-Vault-Token", &self.root)
            .header("X-Vault-Namespace", namespace);
        if !body.is_null() {
            request = request.body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.bytes().await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }
}

/// Creates a directory in memory if the machine has one. No test here is about disks.
fn memory_directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
