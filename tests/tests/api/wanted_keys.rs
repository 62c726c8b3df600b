//! Keys that the config names, while the key store is not available.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_core::{ErrorKind, KeyName, KeyRing};
use kms_server::Server;
use kms_tests::faults::FaultyStore;
use kms_tests::{Client, Protocol, TestServer};

use super::probes::get;

const PATIENCE: Duration = Duration::from_secs(30);

async fn ready(client: &mut Client) -> String {
    let answer = client.send("GET", "/v1/ready", "").await.unwrap();
    format!("{} {}", answer.code(), answer.text())
}

/// Waits until the server is ready and reports no problem.
async fn until_ready(client: &mut Client) {
    let began = Instant::now();
    while ready(client).await != "200 " {
        assert!(began.elapsed() < PATIENCE, "{}", ready(client).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_when_a_store_that_was_away_or_full_at_the_start_is_back() {
    for (kind, code) in [(ErrorKind::Sealed, 504), (ErrorKind::Unreachable, 504), (ErrorKind::DiskFull, 502)]
    {
        let store = FaultyStore::new();
        store.fail(Some(kind));
        let mut builder = TestServer::builder();
        builder.settings.probes = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        let server = builder.store(store.clone()).key("one").key("two").start().await;
        let mut admin = server.admin(Protocol::Http2);
        let told = "2 keys of the config are not there yet: 'one', 'two'";
        let answer = ready(&mut admin).await;
        assert!(answer.starts_with(&format!("{code} ")) && answer.contains(told), "{answer}");
        let answer = get(server.probes_address().unwrap(), "/v1/ready").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")) && answer.contains(told), "{answer}");
        store.fail(None);
        until_ready(&mut admin).await;
        for key in ["one", "two"] {
            let answer = admin.send("GET", &format!("/v1/key/describe/{key}"), "").await.unwrap();
            assert_eq!(answer.code(), 200, "{}", answer.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_ends_the_start() {
    for kind in [ErrorKind::Denied, ErrorKind::Unsupported] {
        let store = FaultyStore::new();
        store.fail(Some(kind));
        let error = TestServer::builder().store(store).key("one").try_start().await.err().unwrap();
        assert!(error.to_string().starts_with("keys: cannot create 'one': "), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_reload_are_made_when_the_store_is_back() {
    let store = FaultyStore::new();
    let builder = TestServer::builder();
    let kms = Arc::new(KeyRing::new(store.clone(), builder.settings.cache));
    let (cert, key) = (builder.settings.tls.cert.clone(), builder.settings.tls.key.clone());
    let listening = Server::with_kms(builder.settings, kms).await.unwrap().listen().await.unwrap();
    let (address, reloader) = (listening.local_addr(), listening.reloader());
    let serving = tokio::spawn(listening.serve(std::future::pending()));
    let mut next = TestServer::builder();
    let admin = kms_tests::TestIdentity::new();
    next.settings.admin = Some(admin.identity());
    (next.settings.tls.cert, next.settings.tls.key) = (cert, key);
    next.settings.keys.push(KeyName::new("late").unwrap());
    store.fail(Some(ErrorKind::Sealed));
    reloader.reload(next.settings).await.unwrap();
    let mut admin = Client::new(address, Protocol::Http1, &admin);
    let answer = ready(&mut admin).await;
    assert!(answer.contains("1 key of the config is not there yet: 'late'"), "{answer}");
    store.fail(None);
    until_ready(&mut admin).await;
    assert_eq!(admin.send("GET", "/v1/key/describe/late", "").await.unwrap().code(), 200);
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_the_waiting_for_keys() {
    let store = FaultyStore::new();
    store.fail(Some(ErrorKind::Sealed));
    let server = TestServer::builder().store(store.clone()).key("one").start().await;
    store.hang();
    store.wait_for_waiting(1).await;
    let began = Instant::now();
    server.stop().await;
    assert!(began.elapsed() < Duration::from_secs(14), "{:?}", began.elapsed());
    store.fail(None);
    store.resume();
}
