//! Bounds on the requests to Vault at once and on the length of its answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_core::store::{EntryName, KeyStore};
use kms_core::{CacheConfig, ErrorKind, ListQuery, Result};
use kms_server::settings::RouteSettings;
use kms_tests::bao::{Bao, WIDE_POLICY};
use kms_tests::programs::until;
use kms_tests::{TestIdentity, TestServer, ask_at_once};
use kms_vault::{KvVersion, TransitConfig, VaultConfig};
use tokio::task::JoinSet;

use super::common::{entry, open, record, ring};
use super::proxy::{Fault, Proxy};

const MIB: usize = 1 << 20;
/// How many bytes the sockets hold in addition to those that the server reads.
const SOCKETS: usize = 16 * MIB;

type Outcome = Result<()>;

async fn operate(store: &dyn KeyStore, operation: &str, name: &EntryName) -> Outcome {
    match operation {
        "create" => store.create(name, &record()).await,
        "get" => store.get(name).await.map(drop),
        "delete" => store.delete(name).await,
        "list" => store.list(&ListQuery::prefix("")).await.map(drop),
        _ => store.status().await.map(drop),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_read_up_to_its_bound() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    bao.mount_transit("minio").await;
    let proxy = Proxy::start(bao.endpoint()).await;
    let policy = format!("{WIDE_POLICY}\npath \"auth/token/*\" {{ capabilities = [\"read\", \"update\"] }}");
    let login = bao.approle(&policy, "5m").await;
    let config = VaultConfig {
        login,
        transit: Some(TransitConfig::new("minio")),
        endpoint: proxy.endpoint(),
        ..bao.config(KvVersion::V2)
    };
    let store = open(config.clone());
    store.create(&entry("key"), &record()).await.unwrap();
    let long_lists = 64 * MIB;
    for (method, path, operation, limit) in [
        ("GET", "kv/data/minio/key", "get", MIB),
        ("PUT", "kv/data/minio/new", "create", MIB),
        ("GET", "kv/metadata/minio/", "list", long_lists),
        ("DELETE", "kv/metadata/minio/key", "delete", MIB),
        ("GET", "sys/health", "status", MIB),
        ("POST", "transit/decrypt/minio", "get", MIB),
        ("POST", "transit/encrypt/minio", "create", MIB),
        ("POST", "auth/approle/login", "get", MIB),
        ("GET", "auth/token/lookup-self", "get", MIB),
    ] {
        for fault in
            [Fault::Endless(200), Fault::Endless(404), Fault::Endless(500), Fault::Announced(1 << 40)]
        {
            let is_error = matches!(fault, Fault::Endless(404 | 500));
            let limit = if is_error { MIB } else { limit };
            let name = entry(if operation == "create" { "new" } else { "key" });
            let (of_method, of_path) = (method, format!("/v1/{path}"));
            let told = fault.clone();
            proxy.fail_if(move |method, path| {
                if method == of_method && path.starts_with(&of_path) { told.clone() } else { Fault::None }
            });
            // This store has its own token and session, so that it asks for tokens.
            let store = match path {
                "auth/approle/login" => {
                    open(VaultConfig { ping: Duration::from_millis(100), ..config.clone() })
                }
                "auth/token/lookup-self" => open(VaultConfig {
                    login: bao.config(KvVersion::V2).login,
                    ping: Duration::from_millis(100),
                    ..config.clone()
                }),
                _ => Arc::clone(&store),
            };
            let began = Instant::now();
            let cell = format!("{fault:?} {method} {path}");
            let error = operate(store.as_ref(), operation, &name).await.expect_err(&cell);
            assert!(began.elapsed() < Duration::from_secs(5), "{cell}: {:?}", began.elapsed());
            assert_eq!(error.kind(), ErrorKind::Unreachable, "{cell}: {error:?}");
            let text = error.chain().to_string();
            let said = format!("its answer to '{path}' is longer than {limit} bytes");
            assert!(text.contains(&said), "{cell}: {text}");
            // The store may repeat a login in the background.
            let taken = proxy.take_sent();
            assert!(taken < 4 * (limit + SOCKETS), "{cell}: {taken} bytes were taken");
            proxy.fail(Fault::None);
        }
    }
    store.get(&entry("key")).await.expect("all is well again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_without_end_costs_no_key_and_is_tried_again() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let proxy = Proxy::start(bao.endpoint()).await;
    let login = bao.approle(WIDE_POLICY, "4s").await;
    let store = open(VaultConfig { login, endpoint: proxy.endpoint(), ..bao.config(KvVersion::V2) });
    store.create(&entry("key"), &record()).await.unwrap();
    proxy.fail_if(|_, path| if path.contains("renew-self") { Fault::Endless(200) } else { Fault::None });
    let renewals = || proxy.take_seen().iter().filter(|(_, path)| path.contains("renew-self")).count();
    let (began, mut tried) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(5) {
        store.get(&entry("key")).await.expect("while the token lasts, and after a login");
        tried += renewals();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(tried >= 1, "no renewal was tried");
    let taken = proxy.take_sent();
    assert!(taken < tried * (MIB + SOCKETS), "{taken} bytes of {tried} answers");
}

/// The names of keys are long, and one answer has all of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_a_hundred_thousand_long_names_is_read() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let proxy = Proxy::start(bao.endpoint()).await;
    let names: Vec<String> = (0..100_000).map(|n| format!("{n:0>80}")).collect();
    let listing = serde_json::json!({"request_id": "1", "data": {"keys": names}}).to_string();
    let listing: &'static [u8] = listing.into_bytes().leak();
    let store = open(VaultConfig { endpoint: proxy.endpoint(), ..bao.config(KvVersion::V2) });
    proxy.fail_if(
        move |_, path| {
            if path.contains("list=true") { Fault::Garbage(listing) } else { Fault::None }
        },
    );
    let query = ListQuery { limit: usize::MAX, ..ListQuery::prefix("") };
    assert_eq!(store.list(&query).await.unwrap().names.len(), names.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_once_are_bounded_and_never_keep_us_from_the_token() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let proxy = Proxy::start(bao.endpoint()).await;
    let login = bao.approle(WIDE_POLICY, "4s").await;
    let config = VaultConfig {
        login,
        timeout: Duration::from_secs(20),
        endpoint: proxy.endpoint(),
        ..bao.config(KvVersion::V2)
    };
    let store = open(config);
    store.create(&entry("key"), &record()).await.unwrap();
    proxy.take_seen();
    // From now on Vault does not answer requests about keys.
    proxy.fail_if(|_, path| if path.contains("/kv/") { Fault::Drop } else { Fault::None });
    let mut waiting = JoinSet::new();
    for _ in 0..1000 {
        let store = Arc::clone(&store);
        waiting.spawn(async move { store.get(&entry("key")).await.map(drop) });
    }
    let about = |what: &'static str| move |(_, path): &&(String, String)| path.contains(what);
    let (began, mut reads, mut renewals) = (Instant::now(), 0, 0);
    while began.elapsed() < Duration::from_secs(6) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let seen = proxy.take_seen();
        reads += seen.iter().filter(about("/kv/")).count();
        renewals += seen.iter().filter(about("renew-self")).count();
    }
    assert!((1..=128).contains(&reads), "{reads} reads at once");
    assert!(renewals >= 1, "the token was not renewed beside them");
    // The others get their turn when the first requests end.
    proxy.fail(Fault::None);
    waiting.abort_all();
    while waiting.join_next().await.is_some() {}
    let mut reading = JoinSet::new();
    for _ in 0..1000 {
        let store = Arc::clone(&store);
        reading.spawn(async move { store.get(&entry("key")).await.map(drop) });
    }
    while let Some(read) = reading.join_next().await {
        read.unwrap().unwrap();
    }
    let most = proxy.most_connections();
    assert!(most <= 128 + 32 + 8, "{most} connections");
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_ask_for_health_vault_hears_a_question_a_second() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let proxy = Proxy::start(bao.endpoint()).await;
    let login = bao.approle(WIDE_POLICY, "5m").await;
    let config = VaultConfig { login, endpoint: proxy.endpoint(), ..bao.config(KvVersion::V2) };
    let mut server = TestServer::builder();
    server.settings.probes = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let skip = RouteSettings { skip_auth: true, ..RouteSettings::default() };
    server.settings.routes = ["/v1/ready", "/v1/status"].map(|path| (path.to_owned(), skip)).into();
    let kms = ring(config, CacheConfig::default());
    // The admin asks, because strangers have fewer streams.
    let asker = Arc::new(TestIdentity::new());
    let server = server.kms(kms).policy("asker", &["/v1/*"], &[], &[asker.identity()]).start().await;
    until("we are logged in", async || {
        proxy.take_seen().iter().any(|(_, path)| path.ends_with("/auth/approle/login"))
    })
    .await;
    let slow = Duration::from_millis(500);
    proxy.fail_if(move |_, _| Fault::Delay(slow));
    let (address, probes) = (server.address(), server.probes_address().unwrap());
    let began = Instant::now();
    let mut asking = JoinSet::new();
    for path in ["/v1/ready", "/v1/status"] {
        for _ in 0..5 {
            let asker = Arc::clone(&asker);
            asking.spawn(async move { ask_at_once(address, &asker, path, 100).await });
        }
    }
    for _ in 0..20 {
        asking.spawn(async move {
            let answer =
                kms_tests::programs::http().get(format!("http://{probes}/v1/ready")).send().await.unwrap();
            vec![answer.status().as_u16()]
        });
    }
    let codes = asking.join_all().await.concat();
    assert_eq!(codes, [200; 1020]);
    let took = usize::try_from(began.elapsed().as_secs()).unwrap();
    let seen = proxy.take_seen();
    // A server asks a few more questions after its start, such as the number of keys. They may come late.
    let (questions, others): (Vec<_>, Vec<_>) = seen.iter().partition(|(_, path)| path == "/v1/sys/health");
    assert!(others.len() <= 4, "{others:?}");
    assert!((1..=took + 2).contains(&questions.len()), "{} questions in {took} s", questions.len());
}
