//! Log streams that a client reads.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use kms_tests::process::DevServer;
use kms_tests::{Client, Protocol, TestIdentity, TestServer};
use serde_json::Value;

/// Reads lines of a body until `enough` returns true.
async fn lines_until(body: &mut Incoming, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let mut text = String::new();
    loop {
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let events: Vec<Value> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if enough(&events) {
            return events;
        }
        let frame = tokio::time::timeout(Duration::from_secs(10), body.frame()).await;
        let frame = frame.unwrap_or_else(|_| panic!("no more events after {events:?}"));
        text.push_str(std::str::from_utf8(frame.unwrap().unwrap().data_ref().unwrap()).unwrap());
    }
}

async fn listen(client: &mut Client, path: &str) -> Incoming {
    let opened = tokio::time::timeout(Duration::from_secs(5), client.open(path)).await;
    let response = opened.expect("the headers come at once").unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"application/x-ndjson".parse().unwrap())
    );
    response.into_body()
}

#[tokio::test]
async fn who_listens_to_the_audit_log_hears_of_every_known_client() {
    let stranger = TestIdentity::new();
    let server = TestServer::builder().key("my-key").start().await;
    for (protocol, path) in [(Protocol::Http1, "/v1/log/audit"), (Protocol::Http2, "/v1/log/audit/trace")] {
        let mut listener = server.admin(protocol);
        let mut log = listen(&mut listener, path).await;
        let mut client = server.admin(Protocol::Http2);
        client
            .send("POST", "/v1/key/generate/my-key", r#"{"context":"c2VjcmV0LWNvbnRleHQ="}"#)
            .await
            .unwrap();
        client.send("POST", "/v1/key/generate/none", "{}").await.unwrap();
        server.client(protocol, &stranger).send("GET", "/v1/status", "").await.unwrap();
        let told =
            lines_until(&mut log, |events| events.iter().any(|event| event["response"]["code"] == 403)).await;
        let of = |path: &str| {
            told.iter()
                .find(|event| event["request"]["path"] == path)
                .unwrap_or_else(|| panic!("{path}: {told:?}"))
        };
        let generate = of("/v1/key/generate/my-key");
        assert_eq!(generate["response"]["code"], 200);
        assert_eq!(generate["request"]["ip"], "127.0.0.1");
        assert_eq!(generate["request"]["identity"], server.admin_identity().identity().to_string());
        assert!(generate["response"]["time"].as_u64().unwrap() > 0);
        assert!(generate["time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(of("/v1/key/generate/none")["response"]["code"], 404);
        assert_eq!(of("/v1/status")["request"]["identity"], stranger.identity().to_string());
        assert!(!format!("{told:?}").contains("c2VjcmV0"), "no line holds a context");
    }
}

#[tokio::test]
async fn who_listens_to_the_error_log_hears_why_a_request_was_denied() {
    let server = DevServer::start();
    let stranger = TestIdentity::new();
    for protocol in Protocol::ALL {
        let mut listener = server.admin(protocol);
        let mut log = listen(&mut listener, "/v1/log/error").await;
        let mut client = Client::new(server.address(), protocol, &stranger);
        // The log would only count a line that it has already.
        let path = format!("/v1/key/create/{protocol:?}");
        assert_eq!(client.send("PUT", &path, "").await.unwrap().code(), 403);
        let told = lines_until(&mut log, |events| !events.is_empty()).await;
        let message = told[0]["message"].as_str().unwrap();
        for word in [&path, &stranger.identity().to_string(), "the identity has no policy"] {
            assert!(message.contains(word), "'{word}' is not in '{message}'");
        }
    }
}

#[tokio::test]
async fn a_listener_outlives_quiet_times_and_ends_with_the_server() {
    let (idle, close) = (Duration::from_millis(400), Duration::from_millis(300));
    let quick = kms_server::Bounds { idle, close, ..kms_server::Bounds::default() };
    let mut server = TestServer::builder().bounds(quick).start().await;
    let mut listeners = Vec::new();
    for protocol in Protocol::ALL {
        let mut client = server.admin(protocol);
        let log = listen(&mut client, "/v1/log/audit").await;
        listeners.push((client, log));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.admin(Protocol::Http1).send("GET", "/v1/status", "").await.unwrap();
    for (_, log) in &mut listeners {
        lines_until(log, |events| events.iter().any(|event| event["request"]["path"] == "/v1/status")).await;
    }
    server.begin_stop();
    for (_client, log) in listeners {
        let rest =
            tokio::time::timeout(Duration::from_secs(5), log.collect()).await.expect("the stream ends");
        assert!(rest.unwrap().to_bytes().is_empty());
    }
    tokio::time::timeout(Duration::from_secs(5), server.stop()).await.expect("the server stops at once");
}
