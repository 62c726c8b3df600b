//! The server on Secrets Manager: the answers to its clients, its logs and `kms check`.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use kms_aws::{Level, check_secrets};
use kms_core::{CacheConfig, KeyRing};
use kms_server::credentials::certificate::NewCertificate;
use kms_tests::localstack::{Aws, Fault};
use kms_tests::process::kms_binary;
use kms_tests::programs::until;
use kms_tests::{Client, Protocol, TestIdentity, TestServer};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};

async fn ask(client: &mut Client, method: &str, path: &str) -> (u16, String) {
    let answer = client.send(method, path, "").await.unwrap();
    (answer.code(), answer.text().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_until_when_a_key_can_be_restored_and_how() {
    let aws = Aws::start().await;
    let server = Process::start(&aws, "trace").await;
    let mut client = server.client();
    assert_eq!(ask(&mut client, "PUT", "/v1/key/create/my-key").await.0, 200);
    let there = aws.ask_secrets("GetSecretValue", json!({"SecretId": "my-key"})).await;
    let record = there["SecretString"].as_str().unwrap().to_owned();
    let generated = client.send("PUT", "/v1/key/generate/my-key", "").await.unwrap();
    assert_eq!(ask(&mut client, "DELETE", "/v1/key/delete/my-key").await.0, 200);
    let (code, text) = ask(&mut client, "PUT", "/v1/key/create/my-key").await;
    assert!(code == 400 && text.contains(r#""message":"key already exists""#), "{code} {text}");
    assert_eq!(ask(&mut client, "GET", "/v1/key/describe/my-key").await.0, 409);
    assert_eq!(ask(&mut client, "DELETE", "/v1/key/delete/my-key").await.0, 409);

    let command = "aws secretsmanager restore-secret --secret-id my-key --region eu-central-1";
    until("the log has it", async || {
        let log = server.log();
        let told = |level: &str| {
            log.lines().any(|line| {
                line.contains(level) && line.contains(command) && line.contains("can be restored until 20")
            })
        };
        told("WARN") && told("ERROR")
    })
    .await;
    let log = server.log();
    assert!(!log.contains(&record) && !log.contains("secret-access-key"), "the log holds a secret");

    let found = server.check().await;
    for part in ["aws: identity: arn:aws:", "aws: list: 0 secrets", "aws: deleted: 'my-key'", command] {
        assert!(found.contains(part), "{part} in {found}");
    }
    aws.ask_secrets("RestoreSecret", json!({"SecretId": "my-key"})).await;
    let body = format!(r#"{{"ciphertext":"{}"}}"#, generated.member("ciphertext"));
    let opened = client.send("PUT", "/v1/key/decrypt/my-key", body).await.unwrap();
    assert_eq!((opened.code(), opened.member("plaintext")), (200, generated.member("plaintext")));
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_keys_serve_whatever_secrets_manager_does() {
    let aws = Aws::start().await;
    let ring = KeyRing::new(aws.secrets(|_| {}).await, CacheConfig::default());
    let server = TestServer::builder()
        .kms(std::sync::Arc::new(ring))
        .route_timeout(Duration::from_secs(6))
        .start()
        .await;
    let mut client = server.admin(Protocol::Http2);
    assert_eq!(ask(&mut client, "PUT", "/v1/key/create/cached").await.0, 200);
    for fault in [Fault::Reset, Fault::Error(400, "ThrottlingException"), Fault::Garbage(b"<html>")] {
        aws.fail(fault.clone());
        assert_eq!(ask(&mut client, "PUT", "/v1/key/generate/cached").await.0, 200, "{fault:?}");
        let (code, text) = ask(&mut client, "PUT", "/v1/key/generate/uncached").await;
        assert!((502..=504).contains(&code), "{fault:?}: {code} {text}");
        assert!(!text.contains("told to fail"), "AWS's words are for the log: {text}");
        aws.fail(Fault::None);
        until("it is back", async || {
            let mut client = server.admin(Protocol::Http1);
            ask(&mut client, "PUT", "/v1/key/generate/uncached").await.0 == 404
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_tells_rights_that_lack_and_secrets_that_are_no_keys() {
    let aws = Aws::start().await;
    let config = || kms_aws::SecretsConfig::new(aws.connection());
    let findings = check_secrets(config()).await;
    assert!(findings.iter().all(|finding| finding.level == Level::Good), "{findings:?}");
    aws.ask_secrets(
        "CreateSecret",
        json!({"Name": "db-password", "SecretString": "hunter2", "ClientRequestToken": "x".repeat(32)}),
    )
    .await;
    let findings = check_secrets(config()).await;
    let stranger = findings.iter().find(|finding| finding.what == "read").unwrap();
    assert!(stranger.level == Level::Warning && stranger.detail.contains("db-password"), "{findings:?}");
    assert!(!format!("{findings:?}").contains("hunter2"));
    for (operation, level) in [
        ("ListSecrets", Level::Problem),
        ("GetSecretValue", Level::Problem),
        ("DescribeSecret", Level::Warning),
    ] {
        aws.fail_if(move |name, _| match name {
            _ if name == operation => Fault::Error(400, "AccessDeniedException"),
            _ => Fault::None,
        });
        let findings = check_secrets(config()).await;
        let right = format!("secretsmanager:{operation}");
        assert!(
            findings.iter().any(|finding| finding.level == level && finding.detail.contains(&right)),
            "{right} in {findings:?}"
        );
    }
    let seen = aws.take_seen();
    assert!(
        seen.iter().all(|(name, _)| name != "CreateSecret" && name != "DeleteSecret"),
        "nothing is written"
    );
}

/// The binary with a config for Secrets Manager.
struct Process {
    address: std::net::SocketAddr,
    admin: TestIdentity,
    directory: TempDir,
    _child: Child,
}

impl Process {
    async fn start(aws: &Aws, log_level: &str) -> Self {
        let kms = tokio::task::spawn_blocking(kms_binary).await.unwrap();
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
        std::fs::write(file("server.crt"), pair.chain_pem()).unwrap();
        std::fs::write(file("server.key"), pair.key_pem().as_bytes()).unwrap();
        let admin = TestIdentity::new();
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let connection = aws.connection();
        let keys = connection.credentials.unwrap();
        // JSON is valid YAML.
        let settings = json!({
            "version": "v1", "address": address,
            "admin": {"identity": admin.identity().to_string()},
            "tls": {"key": file("server.key"), "cert": file("server.crt")},
            "keystore": {"aws": {"secretsmanager": {
                "endpoint": aws.endpoint(), "region": connection.region, "kmskey": "",
                "credentials": {"accesskey": keys.access_key, "secretkey": *keys.secret_key, "token": ""},
            }}},
        });
        std::fs::write(file("config.yml"), settings.to_string()).unwrap();
        let log = std::fs::File::create(file("log")).unwrap();
        let child = Command::new(&kms)
            .args(["server", "--config"])
            .arg(file("config.yml"))
            .env("RUST_LOG", log_level)
            .env_remove("KMS_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let process = Self { address, admin, directory, _child: child };
        until("the server is up", async || process.log().contains("Server is up and running")).await;
        process
    }

    fn client(&self) -> Client {
        Client::new(self.address, Protocol::Http1, &self.admin)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn log(&self) -> String {
        kms_tests::process::settled(&self.path("log"))
    }

    async fn check(&self) -> String {
        let output = Command::new(kms_binary())
            .args(["check", "--config"])
            .arg(self.path("config.yml"))
            .output()
            .await;
        let output = output.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        text
    }
}
