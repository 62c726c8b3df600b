//! Requests with unusual framing or an unusual target, alone and after others on one connection.

use std::sync::Arc;
use std::time::Duration;

use kms_tests::client::{exchange_raw, read_frame, tls_connect};
use kms_tests::{Protocol, TestIdentity, TestServer};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const PATIENCE: Duration = Duration::from_secs(4);

/// Requests of every form that may precede another one.
const BEFORE: [&str; 3] = [
    "GET /version HTTP/1.1\r\nhost: x\r\n\r\n",
    "POST /v1/key/generate/a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}",
    "POST /v1/key/generate/a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n1;a=b\r\n}\r\n0\r\n\r\n",
];

/// Sends `request` and returns the statuses of all answers and all bytes until the server closes.
async fn statuses(server: &TestServer, request: &str) -> (Vec<u16>, String) {
    let answer = exchange_raw(server.address(), server.admin_identity(), request.as_bytes(), PATIENCE).await;
    let answer = answer.unwrap_or_else(|error| panic!("{request:?}: {error}"));
    let codes = answer.match_indices("HTTP/1.1 ").map(|(at, _)| answer[at + 9..at + 12].parse().unwrap());
    (codes.collect(), answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_request_is_refused_and_closes_the_connection_alone_and_behind_others() {
    let server = TestServer::builder().key("a").start().await;
    let chunks = "2\r\n{}\r\n0\r\n\r\n";
    for (head, status, message) in [
        ("host: x\r\ntransfer-encoding: gzip\r\n", 501, "unsupported transfer encoding"),
        ("host: x\r\ntransfer-encoding: gzip, chunked\r\n", 501, "unsupported transfer encoding"),
        ("host: x\r\ntransfer-encoding: chunked, identity\r\n", 501, "unsupported transfer encoding"),
        (
            "host: x\r\nTransfer-Encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            501,
            "unsupported transfer encoding",
        ),
        ("host: x\r\nHost: y\r\ntransfer-encoding: chunked\r\n", 400, "too many host headers"),
        ("host: x\r\nhost: x\r\ncontent-length: 12\r\n", 400, "too many host headers"),
        ("host: x\r\ncontent-length: 12\r\ntransfer-encoding: chunked\r\n", 400, "invalid request body"),
        ("host: x\r\ntransfer-encoding: chunked\r\ncontent-length: 12\r\n", 400, "invalid request body"),
        ("host: x\r\nTransfer-Encoding: Chunked\r\nContent-Length:0\r\n", 400, "invalid request body"),
        ("host: x\r\ncontent-length: 12\r\ncontent-length: 13\r\n", 400, "invalid content length"),
        ("host: x\r\ncontent-length: -1\r\n", 400, "invalid content length"),
        ("host: x\r\ncontent-length: 1e1\r\n", 400, "invalid content length"),
        ("host: x\r\nno field\r\n", 400, "malformed request"),
    ] {
        let odd = format!("POST /v1/key/generate/a HTTP/1.1\r\n{head}\r\n{chunks}{}", BEFORE[0]);
        for before in ["", BEFORE[0], BEFORE[1], BEFORE[2], &BEFORE.concat()] {
            let expected: Vec<_> =
                (0..before.matches("host: x").count()).map(|_| 200).chain([status]).collect();
            let (codes, answer) = statuses(&server, &[before, &odd].concat()).await;
            assert_eq!(codes, expected, "{head:?} behind {before:?}: {answer}");
            let last = answer.rsplit("HTTP/1.1 ").next().unwrap();
            assert!(last.contains(&format!("{{\"message\":\"{message}\"")), "{head:?}: {last}");
            assert!(last.contains("connection: close\r\n"), "{head:?}: {last}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_all_forms_follow_each_other_on_one_connection() {
    let server = TestServer::builder().key("a").start().await;
    let last = "GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    for first in BEFORE {
        for second in BEFORE {
            let (codes, answer) = statuses(&server, &[first, second, first, last].concat()).await;
            assert_eq!(codes, [200; 4], "{first:?}, {second:?}: {answer}");
        }
    }
}

/// The client sends many requests ahead, small and large, in TLS records of any size.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_run_of_requests_is_answered_however_it_is_cut() {
    let server = TestServer::builder().key("a").start().await;
    let config = Arc::new(server.admin_identity().client_config(&["http/1.1"]));
    let body = format!("{{\"plaintext\":\"{}\"}}", "A".repeat(40_000));
    let length = body.len();
    let large = [
        format!("POST /v1/key/encrypt/a HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}"),
        format!(
            "POST /v1/key/encrypt/a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n\
             {length:x}\r\n{body}\r\n0\r\ntrailer: x\r\n\r\n"
        ),
    ];
    let mut run = String::new();
    for number in 0..60 {
        run.push_str(if number % 10 == 9 { &large[number / 10 % 2] } else { BEFORE[number % 3] });
    }
    run.push_str("GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    for size in [17, 100, 1_000, 9_000, 16_384] {
        let tls = tls_connect(server.address(), Arc::clone(&config)).await.unwrap();
        let (mut read, mut write) = tokio::io::split(tls);
        let sending = async {
            for part in run.as_bytes().chunks(size) {
                write.write_all(part).await.unwrap();
                write.flush().await.unwrap();
            }
        };
        let mut answers = Vec::new();
        let reading = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut answers);
        let both = async { tokio::join!(sending, reading).1 };
        tokio::time::timeout(Duration::from_secs(20), both).await.expect("all are answered").unwrap();
        let answers = String::from_utf8(answers).unwrap();
        assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 61, "parts of {size}");
    }
}

/// The head of a refused request arrives in two parts, cut at every place.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_comes_in_parts_is_looked_at_as_a_whole() {
    let server = TestServer::builder().key("a").start().await;
    let config = Arc::new(server.admin_identity().client_config(&["http/1.1"]));
    let odd = format!("{}POST /v1/key/generate/a HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", BEFORE[2]);
    for at in (BEFORE[2].len() - 8..odd.len()).step_by(3) {
        let mut tls = tls_connect(server.address(), Arc::clone(&config)).await.unwrap();
        for part in [&odd[..at], &odd[at..]] {
            tls.write_all(part.as_bytes()).await.unwrap();
            tls.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut answer = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut tls, &mut answer);
        let _ = tokio::time::timeout(PATIENCE, read).await.expect("it closes");
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "cut at {at}: {answer}");
        assert!(answer.contains("HTTP/1.1 400 Bad Request"), "cut at {at}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_with_a_fragment_is_refused_and_does_nothing() {
    let server = TestServer::builder().key("a").key("frag").start().await;
    for before in ["", BEFORE[1]] {
        let delete = format!("{before}DELETE /v1/key/delete/frag#1 HTTP/1.1\r\nhost: x\r\n\r\n");
        let (codes, _) = statuses(&server, &delete).await;
        assert_eq!(codes.last(), Some(&400));
    }
    let mut admin = server.admin(Protocol::Http1);
    assert_eq!(admin.send("GET", "/v1/key/describe/frag", "").await.unwrap().code(), 200);
}

/// A transfer coding is malformed on HTTP/2 (RFC 9113, section 8.2.2). Nothing reads a host.
#[tokio::test(flavor = "multi_thread")]
async fn on_http2_a_transfer_coding_is_malformed_and_hosts_mean_nothing() {
    let server = TestServer::start().await;
    for (fields, is_answered) in
        [(&[("transfer-encoding", "chunked")][..], false), (&[("host", "x"), ("host", "y")], true)]
    {
        let mut tls = begin_http2(&server, server.admin_identity(), "GET", "/version", fields).await;
        let answer = loop {
            match tokio::time::timeout(PATIENCE, read_frame(&mut tls)).await.expect("it is answered").unwrap()
            {
                (1, _, fields) => break Ok(fields),
                (3, _, code) => break Err(code),
                _ => {}
            }
        };
        match answer {
            Ok(fields) => assert!(is_answered && fields[0] == 0x88, "{fields:?}"),
            // The code is PROTOCOL_ERROR.
            Err(code) => assert!(!is_answered && code == [0, 0, 0, 1], "{code:?}"),
        }
    }
}

/// Connects and sends one request without a body on stream 1.
async fn begin_http2(
    server: &TestServer,
    identity: &TestIdentity,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
) -> TlsStream<TcpStream> {
    // HPACK (RFC 7541): `:method` as a literal, `:scheme` https, `:path` as a literal, and fields that are
    // not indexed.
    fn push(block: &mut Vec<u8>, text: &str) {
        block.push(u8::try_from(text.len()).unwrap());
        block.extend_from_slice(text.as_bytes());
    }
    let mut block = vec![0x02];
    push(&mut block, method);
    block.extend_from_slice(&[0x87, 0x04]);
    push(&mut block, path);
    for (name, value) in fields {
        block.push(0);
        push(&mut block, name);
        push(&mut block, value);
    }
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    request.extend_from_slice(&[0, 0, u8::try_from(block.len()).unwrap(), 1, 5, 0, 0, 0, 1]);
    request.extend_from_slice(&block);
    let mut tls = tls_connect(server.address(), Arc::new(identity.client_config(&["h2"]))).await.unwrap();
    tls.write_all(&request).await.unwrap();
    tls
}

/// On HTTP/2 the library cuts off a fragment before our code sees the path. Policy, effect and audit log have
/// to see the same path then.
#[tokio::test(flavor = "multi_thread")]
async fn a_fragment_on_http2_is_unknown_to_policy_effect_and_audit_alike() {
    let app = TestIdentity::new();
    let mut builder = TestServer::builder().key("frag").key("kept");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.log");
    builder.settings.log.audit_file = Some(file.clone());
    // The patterns cover the path without its fragment as well as the whole path.
    let builder = builder.policy(
        "p",
        &["/v1/key/delete/frag", "/v1/key/delete/kept#1", "/v1/key/delete/kept#*"],
        &["/v1/key/delete/frag#1"],
        &[app.identity()],
    );
    let server = builder.start().await;
    for (path, status) in [("/v1/key/delete/frag#1", b"200"), ("/v1/key/delete/kept#1", b"403")] {
        let mut tls = begin_http2(&server, &app, "DELETE", path, &[]).await;
        let fields = loop {
            let frame = tokio::time::timeout(PATIENCE, read_frame(&mut tls)).await.expect("it is answered");
            if let (1, _, fields) = frame.unwrap() {
                break fields;
            }
        };
        // 200 is entry 0x88 of the static table. Another status is a literal with the name at index 8.
        match status {
            b"200" => assert_eq!(fields[0], 0x88, "{path}"),
            _ => assert_ne!(fields[0], 0x88, "{path}"),
        }
    }
    let mut admin = server.admin(Protocol::Http2);
    assert_eq!(admin.send("GET", "/v1/key/describe/frag", "").await.unwrap().code(), 404);
    assert_eq!(admin.send("GET", "/v1/key/describe/kept", "").await.unwrap().code(), 200);
    server.stop().await;
    let log = std::fs::read_to_string(&file).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let seen: Vec<_> = lines
        .filter(|event| event["request"]["identity"] == app.identity().to_string())
        .map(|event| {
            let path = event["request"]["path"].as_str().unwrap().to_owned();
            (path, event["response"]["code"].as_u64().unwrap())
        })
        .collect();
    let expected = [("/v1/key/delete/frag", 200), ("/v1/key/delete/kept", 403)];
    assert_eq!(seen, expected.map(|(path, code)| (path.to_owned(), code)));
}
