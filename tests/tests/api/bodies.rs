//! Request bodies that are empty, malformed, too large, unexpected or framed in unusual ways.

use std::time::{Duration, Instant};

use kms_tests::client::{Then, body_in_parts, exchange_raw};
use kms_tests::{Protocol, TestIdentity, TestServer};

const INVALID: &str = "{\"message\":\"invalid request body\"\n}";
const PATIENCE: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn a_dek_needs_no_body_however_its_absence_is_framed() {
    let server = TestServer::builder().key("a").start().await;
    for protocol in Protocol::ALL {
        let mut admin = server.admin(protocol);
        let bodies = [
            ("no part", body_in_parts(Vec::<&str>::new(), Then::End)),
            ("an empty part", body_in_parts([""], Then::End)),
            ("an object in two parts", body_in_parts(["{\"context\":", "\"aGk=\"}"], Then::End)),
            ("an object and an empty part", body_in_parts(["{}", ""], Then::End)),
        ];
        for (what, body) in bodies {
            let answer = admin.send_body("POST", "/v1/key/generate/a", &[], body).await.unwrap();
            assert_eq!(answer.code(), 200, "{protocol:?}, {what}: {}", answer.text());
        }
        for operation in ["encrypt", "decrypt", "hmac"] {
            let body = body_in_parts([""], Then::End);
            let answer = admin.send_body("POST", &format!("/v1/key/{operation}/a"), &[], body).await.unwrap();
            assert_eq!((answer.code(), answer.text()), (400, INVALID), "{protocol:?} {operation}");
        }
        assert!(admin.is_connected());
    }
    let chunked = "POST /v1/key/generate/a HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let answer = exchange_raw(server.address(), server.admin_identity(), chunked.as_bytes(), PATIENCE).await;
    assert!(answer.unwrap().starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_gets_400_and_the_connection_goes_on() {
    let server = TestServer::builder().key("a").start().await;
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_objects = format!("{}1{}", "{\"x\":".repeat(50_000), "}".repeat(50_000));
    let bad = [
        "no json",
        "[]",
        "[{}]",
        "7",
        "\"{}\"",
        "true",
        "{",
        "{}{}",
        "{\"context\":5}",
        "{\"context\":[1]}",
        "{\"context\":{}}",
        "{\"context\":\"%%\"}",
        "{\"context\":\"aGk\"}",
        "{\"context\":\"a-_k\"}",
        "{\"context\":\" aGk=\"}",
        "{\"context\":\"aGk=\",\"context\":\"aGk=\"}",
        "\u{feff}{}",
        deep.as_str(),
        deep_objects.as_str(),
    ];
    for protocol in Protocol::ALL {
        let mut admin = server.admin(protocol);
        admin.connect().await.unwrap();
        for body in bad {
            let shown = &body[..body.len().min(40)];
            let answer = admin.send("POST", "/v1/key/generate/a", body.to_owned()).await.unwrap();
            assert_eq!((answer.code(), answer.text()), (400, INVALID), "{protocol:?} {shown}");
            assert!(admin.is_connected(), "{protocol:?} {shown}");
        }
        for good in
            ["{\"CONTEXT\":\"aGk=\"}", "{\"context\":\"aG\\r\\nk=\"}", "{\"length\":[[[{}]]]}", " null\n"]
        {
            let answer = admin.send("POST", "/v1/key/generate/a", good).await.unwrap();
            assert_eq!(answer.code(), 200, "{protocol:?} {good}: {}", answer.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_megabyte_is_the_limit() {
    let server = TestServer::builder().key("a").start().await;
    let body_of = |len: usize| {
        let frame = "{\"plaintext\":\"\"}".len();
        let text = "A".repeat((len - frame) / 4 * 4);
        format!("{{\"plaintext\":\"{text}\"{}}}", " ".repeat((len - frame) % 4))
    };
    for protocol in Protocol::ALL {
        for (len, status) in [(1_000_000, 200), (1_000_001, 400), (3_000_000, 400)] {
            let body = body_of(len);
            assert_eq!(body.len(), len);
            let mut admin = server.admin(protocol);
            let known = admin.send("PUT", "/v1/key/encrypt/a", body.clone()).await.unwrap();
            assert_eq!(known.code(), status, "{protocol:?} {len}");
            let mut admin = server.admin(protocol);
            let parts = body_in_parts(body.as_bytes().chunks(60_000), Then::End);
            let unknown = admin.send_body("PUT", "/v1/key/encrypt/a", &[], parts).await.unwrap();
            assert_eq!(unknown.code(), status, "{protocol:?} {len}, length unknown");
            if status == 400 {
                assert_eq!((known.text(), unknown.text()), (INVALID, INVALID));
                let closes = known.headers.get("connection").is_some_and(|value| value == "close");
                assert_eq!(closes, protocol == Protocol::Http1);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_cannot_fill_the_memory() {
    let server = TestServer::builder().key("a").route_timeout(Duration::from_secs(3)).start().await;
    let mut clients = Vec::new();
    // Each body has almost a megabyte and never ends.
    for _ in 0..40 {
        let mut admin = server.admin(Protocol::Http2);
        admin.connect().await.unwrap();
        clients.push(tokio::spawn(async move {
            let body = body_in_parts(vec![[b' '; 10_000]; 90], Then::Silence);
            admin.send_body("PUT", "/v1/key/encrypt/a", &[], body).await.map(|answer| answer.code())
        }));
    }
    let mut busy = 0;
    for client in clients {
        match client.await.unwrap().unwrap() {
            503 => busy += 1,
            code => assert_eq!(code, 504),
        }
    }
    assert!(busy >= 20, "4 MiB are held at most, but only {busy} of 40 were refused");
    // The whole room is free again.
    let body = format!("{{\"plaintext\":\"{}\"}}", "A".repeat(800_000));
    assert_eq!(
        server.admin(Protocol::Http2).send("PUT", "/v1/key/encrypt/a", body).await.unwrap().code(),
        200
    );
}

/// The bodies of one tenant announce a great length. First hardly any byte of them arrives, then almost all.
#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_of_one_tenant_leave_room_for_others() {
    let tenants = [TestIdentity::new(), TestIdentity::new()];
    let builder = TestServer::builder().key("a").route_timeout(Duration::from_secs(8));
    let identities = tenants.each_ref().map(TestIdentity::identity);
    let server = builder.policy("p", &["/v1/key/*"], &[], &identities).start().await;
    let whole = format!("{{\"plaintext\":\"{}\"}}", "A".repeat(800_000));
    let mut slow = Vec::new();
    for (parts, own) in [(2, 200), (90, 503)] {
        for _ in 0..40 {
            let mut client = server.client(Protocol::Http2, &tenants[0]);
            client.connect().await.unwrap();
            slow.push(tokio::spawn(async move {
                let body = body_in_parts(vec![[b' '; 10_000]; parts], Then::Silence);
                let length = [("content-length", "900000")];
                client.send_body("PUT", "/v1/key/encrypt/a", &length, body).await.map(|answer| answer.code())
            }));
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
        for (tenant, code) in tenants.iter().zip([own, 200]) {
            let mut client = server.client(Protocol::Http2, tenant);
            let answer = client.send("PUT", "/v1/key/encrypt/a", whole.clone()).await.unwrap();
            assert_eq!(answer.code(), code, "{parts} parts");
        }
    }
    for client in slow {
        client.abort();
    }
}

/// Each body is small and never ends.
#[tokio::test(flavor = "multi_thread")]
async fn many_small_bodies_of_one_tenant_are_bounded_too() {
    const STREAMS: usize = 200;
    let tenants = [TestIdentity::new(), TestIdentity::new()];
    let builder = TestServer::builder().key("a").route_timeout(Duration::from_secs(20));
    let identities = tenants.each_ref().map(TestIdentity::identity);
    let server = builder.policy("p", &["/v1/key/*"], &[], &identities).start().await;
    let mut unended = tokio::task::JoinSet::new();
    for n in 0..2 * STREAMS {
        // Each connection has only two bodies, so that its window is not the limit.
        let mut client = server.client(Protocol::ALL[n % 2], &tenants[0]);
        unended.spawn(async move {
            let body = body_in_parts([vec![b' '; 15_000]], Then::Silence);
            client.send_body("PUT", "/v1/key/encrypt/a", &[], body).await.map(|answer| answer.code())
        });
    }
    // 4 MiB are room for 256 bodies of 16 KiB. The server refuses the others and does not keep them.
    for _ in 0..2 * STREAMS - 300 {
        let refused = tokio::time::timeout(Duration::from_secs(10), unended.join_next()).await;
        assert_eq!(refused.expect("they are kept").unwrap().unwrap().unwrap(), 503);
    }
    for (tenant, code) in tenants.iter().zip([503, 200]) {
        let body = body_in_parts(["{\"plaintext\":", "\"AAAA\"}"], Then::End);
        let mut client = server.client(Protocol::Http2, tenant);
        assert_eq!(client.send_body("PUT", "/v1/key/encrypt/a", &[], body).await.unwrap().code(), code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_nobody_asked_for_does_no_harm() {
    let server = TestServer::builder().key("a").start().await;
    for protocol in Protocol::ALL {
        let mut admin = server.admin(protocol);
        admin.connect().await.unwrap();
        for (number, body) in ["{\"x\":1}".to_owned(), "x".repeat(60_000)].into_iter().enumerate() {
            let path = format!("/v1/key/create/{protocol:?}-{number}");
            assert_eq!(admin.send("PUT", &path, body.clone()).await.unwrap().code(), 200);
            assert_eq!(admin.send("PUT", &path, body.clone()).await.unwrap().code(), 400, "it exists");
            assert_eq!(admin.send("GET", "/v1/key/describe/a", body.clone()).await.unwrap().code(), 200);
            assert_eq!(admin.send("PUT", "/v1/status", body.clone()).await.unwrap().code(), 405);
            assert_eq!(admin.send("PUT", "/v1/nothing", body).await.unwrap().code(), 404);
            assert!(admin.is_connected(), "{protocol:?}");
        }
        // These bodies are too long to be read without a use. The client still gets its answer; over HTTP/1.1
        // it loses the connection.
        assert_eq!(admin.send("PUT", "/v1/nothing", "x".repeat(500_000)).await.unwrap().code(), 404);
        assert_eq!(admin.send("GET", "/v1/key/describe/a", "x".repeat(5_000_000)).await.unwrap().code(), 200);
        assert_eq!(admin.send("GET", "/version", "").await.unwrap().code(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_never_ends_is_answered_for_in_time() {
    let server = TestServer::builder().key("a").route_timeout(Duration::from_secs(2)).start().await;
    let stranger = TestIdentity::new();
    for protocol in Protocol::ALL {
        for (who, path, then, status) in [
            (server.admin_identity(), "/v1/key/generate/a", Then::Silence, 504),
            (server.admin_identity(), "/v1/key/generate/a", Then::Again, 400),
            (server.admin_identity(), "/v1/key/create/b", Then::Silence, 200),
            (&stranger, "/v1/key/generate/a", Then::Silence, 403),
            (&stranger, "/v1/key/generate/a", Then::Again, 403),
        ] {
            let mut client = server.client(protocol, who);
            let begun = Instant::now();
            let body = body_in_parts([[b' '; 5_000]], then);
            let answer = client.send_body("PUT", path, &[], body).await.unwrap();
            let allowed = if path.contains("create") { [200, 400] } else { [status, status] };
            assert!(allowed.contains(&answer.code()), "{protocol:?} {path} {then:?}: {}", answer.code());
            assert!(begun.elapsed() < Duration::from_secs(3), "{protocol:?} {path}: {:?}", begun.elapsed());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_sent_ahead_are_answered_in_order() {
    let server = TestServer::builder().key("a").start().await;
    let requests = "POST /v1/key/generate/a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}\
                    GET /v1/nothing HTTP/1.1\r\nhost: x\r\n\r\n\
                    GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answers =
        exchange_raw(server.address(), server.admin_identity(), requests.as_bytes(), PATIENCE).await;
    let answers = answers.unwrap();
    let statuses: Vec<_> =
        answers.match_indices("HTTP/1.1 ").map(|(at, _)| &answers[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "404", "200"], "{answers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_to_be_told_to_go_on_is_told_or_refused() {
    let server = TestServer::builder().key("a").start().await;
    let request = |path: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{body}"
        )
    };
    let told = request("/v1/key/generate/a", "{}");
    let told =
        exchange_raw(server.address(), server.admin_identity(), told.as_bytes(), PATIENCE).await.unwrap();
    assert!(told.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"), "{told}");
    // The client never sends its body, because the server refuses the request.
    let refused = request("/v1/key/generate/a", "");
    let refused =
        exchange_raw(server.address(), &TestIdentity::new(), refused.as_bytes(), PATIENCE).await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_have_a_limit() {
    let server = TestServer::start().await;
    for size in [10_000, 20_000, 600_000] {
        let request = format!(
            "GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: {}\r\n\r\n",
            "y".repeat(size)
        );
        let answer =
            exchange_raw(server.address(), server.admin_identity(), request.as_bytes(), PATIENCE).await;
        let answer = answer.unwrap_or_default();
        let status = if size > 16_384 { "HTTP/1.1 431" } else { "HTTP/1.1 200" };
        assert!(answer.starts_with(status) || (size > 100_000 && answer.is_empty()), "{size}: {answer}");
        let mut http2 = server.admin(Protocol::Http2);
        let answer = http2.send_with("GET", "/version", &[("x", &"y".repeat(size))], "").await;
        let refused = answer.as_ref().map_or(true, |answer| answer.code() == 431);
        assert_eq!(refused, size > 16_384, "{size}: {answer:?}");
        assert_eq!(server.admin(Protocol::Http2).send("GET", "/version", "").await.unwrap().code(), 200);
    }
}
