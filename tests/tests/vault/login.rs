//! Logins, renewals, and tokens that end, are revoked or were never valid.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kms_core::ErrorKind;
use kms_core::store::KeyStore;
use kms_tests::bao::{Bao, LEAST_POLICY, WIDE_POLICY};
use kms_tests::programs::until;
use kms_vault::{AppRole, Kubernetes, KvVersion, Login, Secret, SecretSource, VaultConfig};
use reqwest::Method;
use serde_json::{Value, json};

use super::common::{entry, open, record};
use super::proxy::{Fault, Proxy};

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_replaced_once_and_nobody_notices() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let proxy = Proxy::start(bao.endpoint()).await;
    let login = bao.approle(LEAST_POLICY, "5m").await;
    let store = open(VaultConfig { login, endpoint: proxy.endpoint(), ..bao.config(KvVersion::V2) });
    put(&store, "key").await;
    assert_eq!(logins(&proxy), 1);
    tokio::time::sleep(Duration::from_millis(1100)).await;

    revoke_all(&bao).await;
    let reads: Vec<_> = (0..30)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.get(&entry("key")).await.map(|_| ()) })
        })
        .collect();
    for read in reads {
        read.await.unwrap().expect("a read with a revoked token");
    }
    assert_eq!(logins(&proxy), 1, "one login for all of them");

    tokio::time::sleep(Duration::from_millis(1100)).await;
    revoke_all(&bao).await;
    put(&store, "created-with-a-revoked-token").await;
    assert_eq!(logins(&proxy), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_policy_denies_is_no_reason_to_log_in() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let proxy = Proxy::start(bao.endpoint()).await;
    let login = bao.approle(LEAST_POLICY, "5m").await;
    let config = VaultConfig { login, endpoint: proxy.endpoint(), ..bao.config(KvVersion::V2) };
    let store = open(VaultConfig { prefix: "others".to_owned(), ..config });
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for _ in 0..5 {
        let error = store.get(&entry("key")).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Denied);
        let text = error.chain().to_string();
        assert!(text.contains("'read'") && text.contains("kv/data/others/key"), "{text}");
    }
    let error = store.create(&entry("key"), &record()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(logins(&proxy), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_id_in_a_file_can_be_changed_under_way() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret-id");
    let Login::AppRole(role) = bao.approle(LEAST_POLICY, "5m").await else { unreachable!() };
    let first = role.secret.clone();
    std::fs::write(&file, format!("{}\n", text(&first))).unwrap();
    let login = Login::AppRole(AppRole { secret: SecretSource::File(file.clone()), ..role });
    let store = open(VaultConfig { login, ..bao.config(KvVersion::V2) });
    put(&store, "key").await;

    std::fs::write(&file, bao.secret_id().await).unwrap();
    let old = json!({"secret_id": text(&first)});
    bao.ask(Method::POST, "auth/approle/role/kms/secret-id/destroy", old).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    revoke_all(&bao).await;
    store.get(&entry("key")).await.expect("the login takes the new secret id");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_is_told_at_once_and_tried_again_at_leisure() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let proxy = Proxy::start(bao.endpoint()).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret-id");
    std::fs::write(&file, "11111111-2222-3333-4444-555555555555").unwrap();
    let Login::AppRole(role) = bao.approle(LEAST_POLICY, "5m").await else { unreachable!() };
    let login = Login::AppRole(AppRole { secret: SecretSource::File(file.clone()), ..role });
    let ping = Duration::from_secs(1);
    let store = open(VaultConfig { login, ping, endpoint: proxy.endpoint(), ..bao.config(KvVersion::V2) });
    let began = Instant::now();
    let mut asked = 0;
    while began.elapsed() < Duration::from_secs(3) {
        let error = store.get(&entry("key")).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::LoginRefused, "{error:?}");
        assert!(!error.chain().to_string().contains("11111111"), "{error:?}");
        asked += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let logins = logins(&proxy);
    assert!(asked > 100 && logins == 2, "{logins} logins for {asked} requests: at five Vault locks the role");
    assert_eq!(store.status().await.err().map(|error| error.kind()), Some(ErrorKind::LoginRefused));

    std::fs::write(&file, bao.secret_id().await).unwrap();
    let began = Instant::now();
    until("the right secret id is taken", async || store.status().await.is_ok()).await;
    assert!(began.elapsed() < ping * 2, "{:?}", began.elapsed());

    std::fs::remove_file(&file).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    revoke_all(&bao).await;
    let error = store.get(&entry("key")).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::LoginRefused);
    let told = error.chain().to_string();
    assert!(told.contains("secret-id"), "the file is named: {told}");
    assert!(!told.contains("refused") && told.matches("login").count() == 1, "nobody was asked: {told}");
}

/// Vault is available, and the error says what is wrong with its answer.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_a_login_that_is_of_no_use_is_told_as_an_answer() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let proxy = Proxy::start(bao.endpoint()).await;
    let login = bao.approle(LEAST_POLICY, "5m").await;
    for (body, why) in [
        (&b"[]"[..], "it is no JSON object"),
        (b"<html>", "it is no JSON"),
        (br#"{"data":{}}"#, "the field 'auth' is missing"),
        (
            br#"{"auth":{"client_token":"s.secret","lease_duration":"1h"}}"#,
            "the field 'lease_duration' in its answer has another type",
        ),
    ] {
        proxy.fail(Fault::Garbage(body));
        let config =
            VaultConfig { login: login.clone(), endpoint: proxy.endpoint(), ..bao.config(KvVersion::V2) };
        let error = open(config).get(&entry("key")).await.err().unwrap();
        assert!(error.kind().is_outage(), "{error:?}");
        let told = error.chain().to_string();
        assert!(told.contains(why), "{why} in {told}");
        assert!(!told.contains("reachable") && !told.contains("s.secret"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_its_token_refuses_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    for content in [None, Some("")] {
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let login = Login::Kubernetes(Kubernetes::new("kms", SecretSource::File(file.clone())));
        let error = kms_vault::open(VaultConfig::new("http://127.0.0.1:1", login)).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
        let told = error.chain().to_string();
        assert!(told.contains("kubernetes.jwt") && told.contains(&*file.to_string_lossy()), "{told}");
    }
}

/// The lease is shorter than any in the field. Renewals have an end or not.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_sees_the_end_of_a_lease() {
    let seconds = std::env::var("KMS_TEST_LEASE_SECONDS").map_or(20, |text| text.parse().unwrap());
    let bao = Bao::with_kv(KvVersion::V2).await;
    let periodic = bao.approle(LEAST_POLICY, "5s").await;
    let limited =
        json!({"token_policies": "kms", "token_ttl": "5s", "token_max_ttl": "8s", "token_period": 0});
    let limited = another_role(&bao, "limited", limited).await;
    let stores: Vec<_> =
        [periodic, limited].map(|login| open(VaultConfig { login, ..bao.config(KvVersion::V2) })).into();
    put(&stores[0], "key").await;
    let end = Instant::now() + Duration::from_secs(seconds);
    let load: Vec<_> = stores
        .iter()
        .flat_map(|store| (0..4).map(|_| Arc::clone(store)))
        .map(|store| {
            tokio::spawn(async move {
                let mut reads = 0;
                while Instant::now() < end {
                    if let Err(error) = store.get(&entry("key")).await {
                        panic!("after {reads} reads: {error:?}");
                    }
                    reads += 1;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                reads
            })
        })
        .collect();
    for reads in load {
        assert!(reads.await.unwrap() > 100);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_others_are_taken_from_the_config_and_from_files() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    bao.ask(Method::PUT, "sys/policies/acl/kms", json!({"policy": WIDE_POLICY})).await;
    let given =
        token(&bao, json!({"policies": ["kms"], "ttl": "3s", "renewable": true, "period": "3s"})).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, token(&bao, json!({"policies": ["kms"], "ttl": "2s", "renewable": false})).await)
        .unwrap();

    let by_value = open_with_token(&bao, SecretSource::Value(Secret::from(given)));
    let by_file = open_with_token(&bao, SecretSource::File(file.clone()));
    put(&by_value, "key").await;
    by_file.get(&entry("key")).await.unwrap();

    // The first token is renewed. The second one is replaced in its file, as an agent does.
    std::fs::write(&file, token(&bao, json!({"policies": ["kms"], "ttl": "1h", "renewable": false})).await)
        .unwrap();
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        by_value.get(&entry("key")).await.expect("a token that is renewed");
        by_file.get(&entry("key")).await.expect("a token that is replaced");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    for wrong in ["hvs.unknown", "with\u{7f}control"] {
        let store = open_with_token(&bao, SecretSource::Value(Secret::from(wrong)));
        let error = store.get(&entry("key")).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::LoginRefused, "{error:?}");
        assert!(!error.chain().to_string().contains(wrong), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_login_may_be_in_another_namespace() {
    let bao = Bao::start().await;
    bao.ask(Method::POST, "sys/namespaces/team", json!({})).await;
    let engine = json!({"type": "kv", "options": {"version": "2"}});
    bao.ask_in("team", Method::POST, "sys/mounts/kv", engine).await;
    let policy = r#"path "team/kv/*" { capabilities = ["create", "read", "delete", "list"] }"#;
    let Login::AppRole(role) = bao.approle(policy, "2s").await else { unreachable!() };
    let config = VaultConfig { namespace: Some("team".to_owned()), ..bao.config(KvVersion::V2) };

    let elsewhere = Login::AppRole(role.clone());
    let store = open(VaultConfig { login: elsewhere, ..config.clone() });
    let refused = store.get(&entry("key")).await.err().map(|error| error.kind());
    assert_eq!(refused, Some(ErrorKind::LoginRefused), "the namespace of the engine has no such role");

    let root = Login::AppRole(AppRole { namespace: Some("/".to_owned()), ..role });
    let store = open(VaultConfig { login: root, ..config });
    put(&store, "key").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    store.get(&entry("key")).await.expect("the renewal goes to the namespace of the login");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_logs_in_with_the_token_that_its_file_holds_now() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let cluster = TokenReviews::start().await;
    bao.ask(Method::PUT, "sys/policies/acl/kms", json!({"policy": WIDE_POLICY})).await;
    bao.ask(Method::POST, "sys/auth/kubernetes", json!({"type": "kubernetes"})).await;
    let config = json!({
        "kubernetes_host": cluster.endpoint, "disable_local_ca_jwt": true,
        "kubernetes_ca_cert": rcgen::generate_simple_self_signed(Vec::new()).unwrap().cert.pem(),
        "token_reviewer_jwt": jwt("reviewer"),
    });
    bao.ask(Method::POST, "auth/kubernetes/config", config).await;
    let role = json!({
        "bound_service_account_names": "minio", "bound_service_account_namespaces": "default",
        "token_policies": "kms", "token_period": "5m",
    });
    bao.ask(Method::POST, "auth/kubernetes/role/kms", role).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, jwt("minio")).unwrap();
    let login = Login::Kubernetes(Kubernetes::new("kms", SecretSource::File(file.clone())));
    let store = open(VaultConfig { login, ..bao.config(KvVersion::V2) });
    put(&store, "key").await;

    std::fs::write(&file, jwt("another")).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    revoke_all_of(&bao, "auth/kubernetes").await;
    let refused = store.get(&entry("key")).await.err().map(|error| error.kind());
    assert_eq!(refused, Some(ErrorKind::LoginRefused));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_not_followed_and_never_get_the_token() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let (proxy, thief) = (Proxy::start(bao.endpoint()).await, Proxy::start(bao.endpoint()).await);
    let login = bao.approle(LEAST_POLICY, "5m").await;
    let store = open(VaultConfig { login, endpoint: proxy.endpoint(), ..bao.config(KvVersion::V2) });
    put(&store, "key").await;
    proxy.fail(Fault::Redirect(thief.endpoint()));
    for outcome in [
        store.get(&entry("key")).await.map(|_| ()),
        store.create(&entry("other"), &record()).await,
        store.delete(&entry("key")).await,
        store.status().await.map(|_| ()),
    ] {
        assert_eq!(outcome.err().map(|error| error.kind()), Some(ErrorKind::Unreachable));
    }
    assert!(thief.take_seen().is_empty());
}

/// A fake API of Kubernetes that Vault asks about a token. The token belongs to the account that it names.
struct TokenReviews {
    endpoint: String,
    task: tokio::task::AbortHandle,
}

impl TokenReviews {
    async fn start() -> Self {
        use http_body_util::{BodyExt, Full};
        use hyper::body::Bytes;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let review = async |request: hyper::Request<hyper::body::Incoming>| {
            let body = request.into_body().collect().await?.to_bytes();
            let answer = Full::new(Bytes::from(reviewed(&body)));
            let response = hyper::Response::builder().status(201).header("content-type", "application/json");
            Ok::<_, hyper::Error>(response.body(answer).unwrap())
        };
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let io = hyper_util::rt::TokioIo::new(stream);
                let service = hyper::service::service_fn(review);
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
            }
        });
        Self { endpoint, task: task.abort_handle() }
    }
}

impl Drop for TokenReviews {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn reviewed(question: &[u8]) -> String {
    let question: Value = serde_json::from_slice(question).unwrap();
    let claims = question["spec"]["token"].as_str().unwrap().split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    let user = json!({"username": claims["sub"], "uid": "1", "groups": []});
    let status = json!({"authenticated": true, "user": user});
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}).to_string()
}

/// Returns a token of a service account. Nobody here verifies its signature.
fn jwt(account: &str) -> String {
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "iss": "kubernetes/serviceaccount", "sub": format!("system:serviceaccount:default:{account}"),
        "kubernetes.io/serviceaccount/namespace": "default",
        "kubernetes.io/serviceaccount/service-account.name": account,
        "kubernetes.io/serviceaccount/service-account.uid": "1",
    });
    format!("{}.{}.{}", encode(json!({"alg": "RS256"})), encode(claims), URL_SAFE_NO_PAD.encode("signature"))
}

async fn another_role(bao: &Bao, name: &str, role: Value) -> Login {
    let path = format!("auth/approle/role/{name}");
    bao.ask(Method::POST, &path, role).await;
    let id = bao.ask(Method::GET, &format!("{path}/role-id"), Value::Null).await;
    let secret = bao.ask(Method::PUT, &format!("{path}/secret-id"), json!({})).await;
    let secret = Secret::from(secret["data"]["secret_id"].as_str().unwrap());
    Login::AppRole(AppRole::new(id["data"]["role_id"].as_str().unwrap(), secret))
}

async fn token(bao: &Bao, wanted: Value) -> String {
    let made = bao.ask(Method::POST, "auth/token/create", wanted).await;
    made["auth"]["client_token"].as_str().unwrap().to_owned()
}

async fn revoke_all(bao: &Bao) {
    revoke_all_of(bao, "auth/approle").await;
}

async fn revoke_all_of(bao: &Bao, method: &str) {
    bao.ask(Method::PUT, &format!("sys/leases/revoke-prefix/{method}"), json!({"sync": true})).await;
}

/// Returns the number of logins since the last call.
fn logins(proxy: &Proxy) -> usize {
    proxy.take_seen().iter().filter(|(_, path)| path.ends_with("/login")).count()
}

fn open_with_token(bao: &Bao, token: SecretSource) -> Arc<dyn KeyStore> {
    open(VaultConfig { login: Login::Token(token), ..bao.config(KvVersion::V2) })
}

async fn put(store: &Arc<dyn KeyStore>, name: &str) {
    store.create(&entry(name), &record()).await.unwrap();
}

fn text(secret: &SecretSource) -> &str {
    match secret {
        SecretSource::Value(secret) => secret.expose(),
        SecretSource::File(_) => unreachable!(),
    }
}
