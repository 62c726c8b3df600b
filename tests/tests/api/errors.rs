//! What a client is told when the key store fails, and what it is not told.

use std::time::{Duration, Instant};

use kms_core::ErrorKind;
use kms_tests::faults::FaultyStore;
use kms_tests::{Protocol, STATUS_KEPT, TestServer};

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_store_gives_the_texts_of_kes_and_no_detail() {
    let import = r#"{"key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","cipher":"AES256"}"#;
    let requests = [
        ("PUT", "/v1/key/create/x", "", "failed to create key"),
        ("PUT", "/v1/key/import/x", import, "failed to create key"),
        ("GET", "/v1/key/describe/x", "", "failed to read key"),
        ("GET", "/v1/key/list/x", "", "failed to list keys"),
        ("DELETE", "/v1/key/delete/x", "", "failed to delete key"),
        ("PUT", "/v1/key/generate/x", "{}", "failed to read key"),
        ("PUT", "/v1/key/encrypt/x", "{}", "failed to read key"),
        ("PUT", "/v1/key/decrypt/x", "{}", "failed to read key"),
        ("PUT", "/v1/key/hmac/x", "{}", "failed to read key"),
    ];
    let kinds = [
        (ErrorKind::Unreachable, 502, None),
        (ErrorKind::Sealed, 502, None),
        (ErrorKind::Denied, 502, None),
        (ErrorKind::LoginRefused, 502, None),
        (ErrorKind::Disabled, 502, None),
        (ErrorKind::Corrupt, 502, None),
        (ErrorKind::NotSetUp, 502, None),
        (ErrorKind::ReadOnly, 502, None),
        (ErrorKind::DiskFull, 502, None),
        (ErrorKind::Internal, 502, None),
        (ErrorKind::Unsupported, 501, Some("operation is not supported by the key store")),
        (ErrorKind::Throttled, 503, Some("too many requests")),
        (ErrorKind::NotFound, 404, Some("key does not exist")),
    ];
    for (kind, status, text) in kinds {
        let store = FaultyStore::new();
        store.fail(Some(kind));
        // The key ring may try again within the timeout of the route.
        let server = TestServer::builder().store(store).route_timeout(Duration::from_secs(2)).start().await;
        let mut admin = server.admin(Protocol::Http2);
        for (method, path, body, message) in requests {
            if kind == ErrorKind::NotFound
                && ["create", "import", "list"].iter().any(|part| path.contains(part))
            {
                continue;
            }
            let answer = admin.send(method, path, body).await.unwrap();
            let expected = format!("{{\"message\":\"{}\"\n}}", text.unwrap_or(message));
            assert_eq!((answer.code(), answer.text()), (status, expected.as_str()), "{kind:?} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_and_status_tell_of_the_store() {
    let store = FaultyStore::new();
    let server = TestServer::builder()
        .store(store.clone())
        .route_timeout(Duration::from_secs(2))
        .threads(3)
        .start()
        .await;
    let mut admin = server.admin(Protocol::Http1);
    let ready = admin.send("GET", "/v1/ready", "").await.unwrap();
    assert_eq!((ready.code(), ready.text()), (200, ""));
    let status: serde_json::Value =
        serde_json::from_slice(&admin.send("GET", "/v1/status", "").await.unwrap().body).unwrap();
    for fact in ["num_cpu", "num_cpu_used", "mem_heap_used", "mem_stack_used", "keystore_latency"] {
        assert!(status[fact].as_u64().unwrap() > 0, "{fact} in {status}");
    }
    assert_eq!(status["num_cpu_used"], 3, "the threads that serve: {status}");
    assert!(status["mem_heap_used"].as_u64().unwrap() > 100_000, "bytes, not pages: {status}");
    for (kind, code, message) in [
        (ErrorKind::Unreachable, 504, "key store is not reachable"),
        (ErrorKind::Sealed, 504, "key store is not reachable"),
        (ErrorKind::LoginRefused, 502, "key store is unavailable"),
    ] {
        store.fail(Some(kind));
        tokio::time::sleep(STATUS_KEPT).await;
        let ready = admin.send("GET", "/v1/ready", "").await.unwrap();
        assert_eq!((ready.code(), ready.text()), (code, format!("{{\"message\":\"{message}\"\n}}").as_str()));
        let status = admin.send("GET", "/v1/status", "").await.unwrap();
        let shown = status.text().contains(r#""keystore_unavailable":true,"keystore_unreachable":true}"#);
        assert!(status.code() == 200 && shown, "{}", status.text());
    }
    store.fail(None);
    tokio::time::sleep(STATUS_KEPT).await;
    assert_eq!(admin.send("GET", "/v1/ready", "").await.unwrap().code(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_is_answered_for_in_time_and_holds_up_nobody_else() {
    let store = FaultyStore::new();
    let server = TestServer::builder()
        .store(store.clone())
        .key("cached")
        .route_timeout(Duration::from_secs(2))
        .start()
        .await;
    store.hang();
    for protocol in Protocol::ALL {
        let mut waits = server.admin(protocol);
        let begun = Instant::now();
        let waiting = tokio::spawn(async move { waits.send("PUT", "/v1/key/generate/cold", "{}").await });
        let mut other = server.admin(protocol);
        let cached = other.send("PUT", "/v1/key/generate/cached", "{}").await.unwrap();
        assert_eq!(cached.code(), 200);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        let answer = waiting.await.unwrap().unwrap();
        assert_eq!((answer.code(), answer.text()), (504, "{\"message\":\"request timed out\"\n}"));
        let took = begun.elapsed();
        assert!(took > Duration::from_secs(1) && took < Duration::from_secs(3), "{took:?}");
    }
}
