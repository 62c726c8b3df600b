//! The server on a Vault store, as its clients see it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine;
use kms_core::CacheConfig;
use kms_tests::bao::{Bao, LEAST_POLICY};
use kms_tests::process::kms_binary;
use kms_tests::programs::{free_port, program, until};
use kms_tests::{Client, Protocol, STATUS_KEPT, TestIdentity, TestServer};
use kms_vault::{AppRole, KvVersion, Login, SecretSource, VaultConfig};
use reqwest::Method;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::common::open;
use super::proxy::{Fault, Proxy};

/// The suite of the embedded store runs with Vault as the key store and with 5,000 keys.
#[tokio::test(flavor = "multi_thread")]
async fn the_official_sdk_is_served_from_vault() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let login = bao.approle(LEAST_POLICY, "5m").await;
    // As in a config of KES.
    let server = KmsProcess::start(&bao.endpoint(), &login, "[deletion]\ngrace = \"0s\"\n", "info").await;
    let suite = tokio::task::spawn_blocking(|| program("kes-go")).await.unwrap();
    let output = Command::new(suite)
        .env("KES_TEST_ENDPOINT", format!("https://{}", server.address))
        .env("KES_TEST_CA", server.file("server.crt"))
        .env("KES_TEST_ADMIN_KEY", &server.admin_key)
        .env("KES_TEST_APP_KEY", &server.app_key)
        .env("KES_TEST_CERT", server.file("client.crt"))
        .env("KES_TEST_KEY", server.file("client.key"))
        .env("KES_TEST_MANY", "5000")
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("all cases passed"), "{text}\n{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_log_holds_a_token_a_secret_id_or_a_key() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    bao.mount_transit("minio").await;
    let proxy = Proxy::start(bao.endpoint()).await;
    let login = bao.approle(kms_tests::bao::WIDE_POLICY, "2s").await;
    let keys = "[[keys]]\nname = \"my-key\"\n[keystore.vault.transit]\nkey = \"minio\"\n";
    let server = KmsProcess::start(&proxy.endpoint(), &login, keys, "trace").await;
    until("the key is made", async || {
        bao.try_in("", Method::GET, "kv/data/minio/my-key", Value::Null).await.0 == 200
    })
    .await;
    // The log also has a renewal, a revoked token and its successor.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    proxy
        .fail(Fault::Garbage(br#"{"auth": {"client_token": "garbage-token"}, "data": {"data": "garbage"}}"#));
    tokio::time::sleep(Duration::from_millis(1500)).await;

    let stored = bao.ask(Method::GET, "kv/data/minio/my-key", Value::Null).await;
    let sealed = serde_json::json!({"ciphertext": stored["data"]["data"]["my-key"]});
    let plain = bao.ask(Method::PUT, "transit/decrypt/minio", sealed).await;
    let plain = plain["data"]["plaintext"].as_str().unwrap();
    let record = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(plain).unwrap()).unwrap();
    let (log, Login::AppRole(AppRole { secret: SecretSource::Value(secret), .. })) = (server.log(), &login)
    else {
        unreachable!()
    };
    assert!(
        log.contains("TRACE") && log.contains("logged in to vault"),
        "this is no log at trace level: {log}"
    );
    let tokens = proxy.tokens();
    assert!(!tokens.is_empty());
    for word in tokens.iter().map(String::as_str).chain([secret.expose(), plain, &record, "garbage-token"]) {
        assert!(
            !log.contains(word),
            "'{word}' is in the log: {}",
            log.lines().find(|line| line.contains(word)).unwrap()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_config_are_made_when_vault_is_back() {
    let mut bao = Bao::with_kv(KvVersion::V2).await;
    let login = bao.approle(LEAST_POLICY, "5m").await;
    for absent in [false, true] {
        let login = login.clone();
        let config = VaultConfig { login, ping: Duration::from_secs(1), ..bao.config(KvVersion::V2) };
        if absent {
            bao.kill().await;
        } else {
            bao.seal().await;
        }
        let name = if absent { "after-absence" } else { "after-seal" };
        let server = TestServer::builder().store(open(config)).key(name).start().await;
        let mut admin = server.admin(Protocol::Http2);
        let (code, text) = ask(&mut admin, "GET", "/v1/ready").await;
        assert!(code == 504 && text.contains(&format!("not there yet: '{name}'")), "{code} {text}");
        if absent {
            bao.run().await;
        }
        bao.unseal().await;
        let began = Instant::now();
        while ask(&mut admin, "GET", "/v1/ready").await != (200, String::new()) {
            assert!(began.elapsed() < Duration::from_secs(40), "the key is not made");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let (code, text) = ask(&mut admin, "GET", &format!("/v1/key/describe/{name}")).await;
        assert_eq!(code, 200, "{text}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_get_an_answer_whatever_vault_does() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let proxy = Proxy::start(bao.endpoint()).await;
    let login = bao.approle(LEAST_POLICY, "5m").await;
    let mut server = TestServer::builder();
    let short = Duration::from_millis(300);
    server.settings.cache = CacheConfig::new()
        .with_any(short)
        .with_unused(short)
        .with_offline(Duration::from_secs(600))
        .with_ping(Duration::from_secs(1));
    let store = open(VaultConfig { login, endpoint: proxy.endpoint(), ..bao.config(KvVersion::V2) });
    let server = server.store(store).route_timeout(Duration::from_secs(8)).start().await;
    let mut client = server.admin(Protocol::Http2);
    assert_eq!(ask(&mut client, "PUT", "/v1/key/create/cached").await.0, 200);
    for fault in
        [Fault::Drop, Fault::Reset, Fault::Status(429), Fault::Status(500), Fault::Garbage(b"<html>")]
    {
        proxy.fail(fault.clone());
        tokio::time::sleep(STATUS_KEPT.max(2 * short)).await;
        let began = Instant::now();
        assert_eq!(ask(&mut client, "PUT", "/v1/key/generate/cached").await.0, 200, "{fault:?}");
        assert!(began.elapsed() < Duration::from_secs(3), "{fault:?}: {:?}", began.elapsed());
        for (method, path) in [
            ("PUT", "/v1/key/generate/uncached"),
            ("PUT", "/v1/key/create/uncached"),
            ("DELETE", "/v1/key/delete/uncached"),
            ("GET", "/v1/key/list/"),
        ] {
            let began = Instant::now();
            let (code, text) = ask(&mut client, method, path).await;
            assert!(matches!(code, 502..=504), "{fault:?}, {path}: {code} {text}");
            assert!(!text.contains("vault") && !text.contains("kv/"), "the backend's own words: {text}");
            assert!(began.elapsed() < Duration::from_secs(9), "{fault:?}, {path}: {:?}", began.elapsed());
        }
        let (code, status) = ask(&mut client, "GET", "/v1/status").await;
        let status: Value = serde_json::from_str(&status).unwrap();
        assert!(code == 200 && status["keystore_unreachable"] == true, "{fault:?}: {status}");
        assert_eq!(ask(&mut client, "GET", "/v1/ready").await.0, 200, "{fault:?}");
        proxy.fail(Fault::None);
        let began = Instant::now();
        while ask(&mut client, "PUT", "/v1/key/generate/uncached").await.0 != 404 {
            assert!(began.elapsed() < Duration::from_secs(2), "{fault:?}: it does not recover");
        }
    }
    bao.seal().await;
    let (code, _) = ask(&mut client, "PUT", "/v1/key/generate/uncached").await;
    assert!(matches!(code, 502 | 504), "{code}");
}

/// Keys that were used before an idle time survive an outage that is much longer than the cache keeps them.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_fails_no_request_for_a_key_that_was_in_use() {
    let seconds = |name: &str, short: u64| {
        Duration::from_secs(std::env::var(name).map_or(short, |text| text.parse().unwrap()))
    };
    let (idle, outage) = (seconds("KMS_TEST_IDLE_SECONDS", 4), seconds("KMS_TEST_OUTAGE_SECONDS", 15));
    let mut bao = Bao::with_kv(KvVersion::V2).await;
    let login = bao.approle(LEAST_POLICY, "5m").await;
    let mut server = TestServer::builder();
    server.settings.cache = CacheConfig::default()
        .with_any(Duration::from_secs(1))
        .with_unused(Duration::from_secs(1))
        .with_offline(Duration::from_secs(600));
    let server = server.store(open(VaultConfig { login, ..bao.config(KvVersion::V2) })).start().await;
    let mut client = server.admin(Protocol::Http2);
    let mut sealed = Vec::new();
    for name in ["used-1", "used-2", "used-3"] {
        assert_eq!(ask(&mut client, "PUT", &format!("/v1/key/create/{name}")).await.0, 200);
        let answer = client.send("POST", &format!("/v1/key/generate/{name}"), "{}").await.unwrap();
        sealed.push((name, answer.member("ciphertext")));
    }
    tokio::time::sleep(idle).await;
    bao.kill().await;
    let (began, mut requests, mut slowest) = (Instant::now(), 0, Duration::ZERO);
    while began.elapsed() < outage {
        let mut fresh = server.admin(if requests % 2 == 0 { Protocol::Http1 } else { Protocol::Http2 });
        for _ in 0..10 {
            for (name, ciphertext) in &sealed {
                let asked = Instant::now();
                let body = format!("{{\"ciphertext\":\"{ciphertext}\"}}");
                let answer = fresh.send("POST", &format!("/v1/key/decrypt/{name}"), body).await.unwrap();
                assert_eq!(answer.code(), 200, "{}", answer.text());
                assert_eq!(
                    fresh.send("POST", &format!("/v1/key/generate/{name}"), "{}").await.unwrap().code(),
                    200
                );
                slowest = slowest.max(asked.elapsed());
                requests += 2;
            }
            tokio::time::sleep(outage.min(Duration::from_secs(10)) / 20).await;
        }
        let ready = fresh.send("GET", "/v1/ready", "").await.unwrap();
        assert!(ready.code() == 200 && !ready.text().is_empty(), "it says what is wrong: {}", ready.text());
    }
    println!("{requests} requests in an outage of {outage:?}, the slowest two took {slowest:?}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

/// A running `kms server` on a Vault with an admin and an application.
pub struct KmsProcess {
    address: String,
    admin_key: String,
    app_key: String,
    directory: TempDir,
    child: Child,
}

impl KmsProcess {
    /// Runs `kms check` and starts the server. `more` is the end of the config.
    pub async fn start(vault: &str, login: &Login, more: &str, log_level: &str) -> Self {
        let kms = tokio::task::spawn_blocking(kms_binary).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name).display().to_string();
        for (name, subject) in [("server", "localhost"), ("client", "client")] {
            let (key, cert) = (file(&format!("{name}.key")), file(&format!("{name}.crt")));
            run(&kms, &["identity", "new", "--key", &key, "--cert", &cert, "--ip", "127.0.0.1", subject])
                .await;
        }
        let (admin_key, app_key) = (api_key(&kms).await, api_key(&kms).await);
        let (admin, app) = (identity(&kms, &admin_key).await, identity(&kms, &app_key).await);
        let client = identity(&kms, &file("client.crt")).await;
        let Login::AppRole(AppRole { id, secret: SecretSource::Value(secret), .. }) = login else {
            unreachable!()
        };
        let (address, secret) = (format!("127.0.0.1:{}", free_port()), secret.expose());
        let (key, cert) = (file("server.key"), file("server.crt"));
        let config = format!(
            r#"address = "{address}"
[admin]
identity = "{admin}"
[tls]
key = "{key}"
cert = "{cert}"
[policy.app]
allow = [
    "/v1/status", "/v1/key/create/my-*", "/v1/key/import/my-*", "/v1/key/describe/my-*", "/v1/key/generate/my-*",
    "/v1/key/encrypt/my-*", "/v1/key/decrypt/my-*", "/v1/key/hmac/my-*", "/v1/key/delete/my-*",
    "/v1/key/list/my-*", "/v1/key/generate/other-*",
]
deny = ["/v1/key/generate/my-internal*"]
identities = ["{app}", "{client}"]
[keystore.vault]
endpoint = "{vault}"
version = "v2"
prefix = "minio"
[keystore.vault.approle]
id = "{id}"
secret = "{secret}"
{more}"#
        );
        std::fs::write(file("config.toml"), config).unwrap();
        let found = run(&kms, &["check", "--config", &file("config.toml")]).await;
        assert!(found.contains("vault: keys: 0 at 'kv/metadata/minio/'"), "{found}");
        let log = std::fs::File::create(file("log")).unwrap();
        let child = Command::new(&kms)
            .args(["server", "--config", &file("config.toml")])
            .env("RUST_LOG", log_level)
            .env_remove("KMS_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        until("the server listens", async || tokio::net::TcpStream::connect(&address).await.is_ok()).await;
        Self { address, admin_key, app_key, directory, child }
    }

    /// Creates a client with a certificate that has the policy `app`.
    pub fn app(&self, protocol: Protocol) -> Client {
        let chain = std::fs::read_to_string(self.file("client.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.file("client.key")).unwrap();
        let identity = TestIdentity::from_pem_and_der(&chain, key.secret_der());
        Client::new(self.address.parse().unwrap(), protocol, &identity)
    }

    /// Returns the id of the process.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn log(&self) -> String {
        kms_tests::process::settled(&self.file("log"))
    }
}

async fn ask(client: &mut Client, method: &str, path: &str) -> (u16, String) {
    let answer = client.send(method, path, "").await.unwrap();
    (answer.code(), answer.text().to_owned())
}

async fn run(program: &Path, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{args:?}: {text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

async fn api_key(kms: &Path) -> String {
    let made = run(kms, &["identity", "new"]).await;
    made.split_whitespace().find(|word| word.starts_with("kes:v1:")).unwrap().to_owned()
}

async fn identity(kms: &Path, of: &str) -> String {
    run(kms, &["identity", "of", of]).await.split_whitespace().last().unwrap().to_owned()
}
