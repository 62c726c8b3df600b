//! Clients hang up before their answer. The server finishes and records what it has begun.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_core::store::{EntryName, KeyStore};
use kms_core::{CacheConfig, ErrorKind, KeyName, KeyRing};
use kms_fs::{FsConfig, OpenMode, RootKey, open};
use kms_server::settings::AuditFailure;
use kms_tests::cut_off::CutOff;
use kms_tests::faults::FaultyStore;
use kms_tests::{Protocol, TestServer};
use serde_json::Value;

fn entry(name: &str) -> EntryName {
    EntryName::from(&KeyName::new(name).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn effects_in_the_embedded_store_are_recorded_although_the_client_left() {
    for audit_failure in [AuditFailure::Refuse, AuditFailure::Drop] {
        let (dir, root_key) = (tempfile::tempdir().unwrap(), RootKey::random().unwrap());
        let store =
            open(&FsConfig::new(dir.path().join("store")), &root_key, OpenMode::Create).unwrap().store;
        let ring = Arc::new(KeyRing::new(store, CacheConfig::default()));
        let audit_file = dir.path().join("audit.log");
        let mut builder = TestServer::builder();
        builder.settings.log.audit_file = Some(audit_file.clone());
        builder.settings.log.audit_failure = audit_failure;
        let server = builder.kms(ring.clone()).start().await;
        let cut_off = CutOff { server: &server, audit_file: &audit_file };
        cut_off.check(async |name| ring.store().get(&entry(name)).await.is_ok()).await;
    }
}

/// Returns the lines of an audit log about a path.
fn lines(file: &std::path::Path, path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["request"]["path"] == path).map(|line| line["response"].clone()).collect()
}

async fn line(file: &std::path::Path, path: &str) -> Value {
    let began = Instant::now();
    loop {
        let found = lines(file, path);
        match found.as_slice() {
            [] if began.elapsed() < Duration::from_secs(15) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            [line] => return line.clone(),
            other => panic!("{path}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_that_outlasts_its_route_is_followed_to_its_end_and_a_wait_is_not() {
    const WRITES_OF_ONE: usize = 32;
    let store = FaultyStore::new();
    let mut builder = TestServer::builder();
    let dir = tempfile::tempdir().unwrap();
    let audit_file = dir.path().join("audit.log");
    builder.settings.log.audit_file = Some(audit_file.clone());
    let route_timeout = Duration::from_millis(400);
    let server = builder.store(store.clone()).route_timeout(route_timeout).start().await;
    store.hang();
    let mut creates = Vec::new();
    for n in 0..WRITES_OF_ONE {
        let mut client = server.admin(Protocol::ALL[n % 2]);
        creates.push(tokio::spawn(async move {
            client.send("PUT", &format!("/v1/key/create/begun-{n}"), "").await.unwrap().code()
        }));
    }
    store.wait_for_waiting(WRITES_OF_ONE).await;
    // This client has no room for a further request. It leaves, and the request never begins.
    let mut client = server.admin(Protocol::Http2);
    let waiting = client.send("PUT", "/v1/key/create/waiting", "");
    assert!(tokio::time::timeout(Duration::from_millis(50), waiting).await.is_err());
    let told = line(&audit_file, "/v1/key/create/waiting").await;
    assert_eq!((told["code"].as_u64(), told["sent"].as_bool()), (Some(499), Some(false)), "{told}");
    for create in creates {
        assert_eq!(create.await.unwrap(), 504);
    }
    assert!(lines(&audit_file, "/v1/key/create/begun-0").is_empty(), "it is not known what comes of it");
    store.resume();
    for n in 0..WRITES_OF_ONE {
        let told = line(&audit_file, &format!("/v1/key/create/begun-{n}")).await;
        assert_eq!((told["code"].as_u64(), told["sent"].as_bool()), (Some(200), Some(false)), "{told}");
        assert_eq!(client.send("PUT", &format!("/v1/key/generate/begun-{n}"), "").await.unwrap().code(), 200);
    }
    let missing = store.get(&entry("waiting")).await.map(drop).unwrap_err().kind();
    assert_eq!(missing, ErrorKind::NotFound);
    server.stop().await;
    assert_eq!(lines(&audit_file, "/v1/key/create/waiting").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_was_cut_off_is_recorded_as_such() {
    let store = FaultyStore::new();
    let mut builder = TestServer::builder();
    let audit_file = builder.path("audit.log");
    builder.settings.log.audit_file = Some(audit_file.clone());
    builder.settings.cache = CacheConfig::default().with_any(Duration::ZERO);
    let server = builder.store(store.clone()).key("my-key").start().await;
    for (protocol, path) in
        [(Protocol::Http1, "/v1/key/generate/my-key"), (Protocol::Http2, "/v1/key/describe/my-key")]
    {
        let mut client = server.admin(protocol);
        client.connect().await.unwrap();
        store.hang();
        let method = if path.contains("generate") { "PUT" } else { "GET" };
        let cut_off = client.send(method, path, "");
        assert!(tokio::time::timeout(Duration::from_millis(100), cut_off).await.is_err());
        client.disconnect();
        let told = line(&audit_file, path).await;
        assert_eq!((told["code"].as_u64(), told["sent"].as_bool()), (Some(499), Some(false)), "{told}");
        store.resume();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_waits_for_what_has_begun_and_records_it() {
    let store = FaultyStore::new();
    let mut builder = TestServer::builder();
    let dir = tempfile::tempdir().unwrap();
    let audit_file = dir.path().join("audit.log");
    builder.settings.log.audit_file = Some(audit_file.clone());
    let mut server = builder.store(store.clone()).start().await;
    store.hang();
    let mut client = server.admin(Protocol::Http2);
    let create = client.send("PUT", "/v1/key/create/my-key", "");
    assert!(tokio::time::timeout(Duration::from_millis(200), create).await.is_err());
    client.disconnect();
    server.begin_stop();
    tokio::time::sleep(Duration::from_millis(300)).await;
    store.resume();
    server.stop().await;
    let told = lines(&audit_file, "/v1/key/create/my-key");
    assert_eq!(told.len(), 1);
    assert_eq!((told[0]["code"].as_u64(), told[0]["sent"].as_bool()), (Some(200), Some(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_of_short_time_makes_keys() {
    let server = TestServer::builder().route_timeout(Duration::from_millis(200)).start().await;
    let mut client = server.admin(Protocol::Http2);
    for n in 0..10 {
        assert_eq!(client.send("PUT", &format!("/v1/key/create/{n}"), "").await.unwrap().code(), 200);
        assert_eq!(client.send("PUT", &format!("/v1/key/generate/{n}"), "").await.unwrap().code(), 200);
    }
}
