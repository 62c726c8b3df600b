//! A reload changes who may do what, also on connections that exist already.

use std::time::{Duration, Instant};

use kms_tests::client::body_over_channel;
use kms_tests::{Protocol, TestIdentity};

use super::server::{GENERATE, LOADED, Reloaded, ends};

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_without_its_policy_is_refused_on_the_connection_that_it_has() {
    let server = tokio::task::block_in_place(Reloaded::start);
    for protocol in Protocol::ALL {
        let mut app = server.client(protocol, &server.app);
        assert_eq!(app.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
        server.reload(&server.config("off", None), LOADED);
        assert!(app.is_connected());
        assert_eq!(app.send("POST", GENERATE, "{}").await.unwrap().code(), 403);
        server.reload(&server.config("off", Some(&server.app)), LOADED);
        assert_eq!(app.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
        assert!(app.is_connected(), "the same connection all the time");
    }
}

/// The HTTP/2 connection has the few streams of a client that may do nothing. So the server closes it, and
/// the client opens another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_gets_a_policy_while_it_is_connected_gets_another_connection() {
    let server = tokio::task::block_in_place(Reloaded::start);
    let other = TestIdentity::new();
    for (protocol, stays) in [(Protocol::Http1, true), (Protocol::Http2, false)] {
        server.reload(&server.config("off", None), LOADED);
        let mut client = server.client(protocol, &other);
        assert_eq!(client.send("POST", GENERATE, "{}").await.unwrap().code(), 403);
        assert!(client.is_connected());
        server.reload(&server.config("off", Some(&other)), LOADED);
        let begun = Instant::now();
        while client.is_connected() && begun.elapsed() < Duration::from_secs(1) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(client.is_connected(), stays, "{protocol:?}");
        assert_eq!(client.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_policy_goes_while_its_body_comes_has_no_effect() {
    let server = tokio::task::block_in_place(Reloaded::start);
    let with = |allow: &str, app: Option<&TestIdentity>| {
        server.config("off", app).replace("\"/v1/key/generate/my-*\"", allow)
    };
    let import = "\"/v1/key/import/*\"";
    let key = "{\"bytes\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"}";
    let cases = [
        ("gone", with(import, None), 403),
        ("denied", with("\"/v1/key/generate/*\"", Some(&server.app)), 403),
        ("other", with("\"/v1/key/*\"", Some(&server.app)), 200),
        ("same", with(import, Some(&server.app)), 200),
    ];
    for protocol in Protocol::ALL {
        for (what, config, code) in &cases {
            server.reload(&with(import, Some(&server.app)), LOADED);
            let name = format!("{what}-{protocol:?}");
            let (parts, body) = body_over_channel();
            let mut client = server.client(protocol, &server.app);
            let path = format!("/v1/key/import/{name}");
            let asked = tokio::spawn(async move { client.send_body("PUT", &path, &[], body).await });
            let (first, second) = key.split_at(20);
            parts.send(first.into()).unwrap();
            // The head and the first part have to reach the server before the reload.
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.reload(config, LOADED);
            parts.send(second.into()).unwrap();
            drop(parts);
            let answer = asked.await.unwrap().unwrap();
            assert_eq!(answer.code(), *code, "{name}: {}", answer.text());
            let mut admin = server.client(protocol, &server.admin);
            let there = admin.send("GET", &format!("/v1/key/describe/{name}"), "").await.unwrap().code();
            assert_eq!(there, if *code == 200 { 200 } else { 404 }, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_listened_to_ends_with_the_right_to_it() {
    let server = tokio::task::block_in_place(Reloaded::start);
    for protocol in Protocol::ALL {
        for path in ["/v1/log/audit", "/v1/log/error/trace"] {
            let (mut app, mut admin) =
                (server.client(protocol, &server.app), server.client(protocol, &server.admin));
            let mut of_app = app.open(path).await.unwrap().into_body();
            let mut of_admin = admin.open(path).await.unwrap().into_body();
            server.reload(&server.config("off", Some(&server.app)), LOADED);
            assert!(!ends(&mut of_app).await, "{path}: a reload that changes nothing ends nothing");
            server.reload(&server.config("off", None), LOADED);
            assert!(ends(&mut of_app).await, "{path} goes on without a policy");
            assert!(!ends(&mut of_admin).await, "{path} of the admin goes on");
            server.reload(&server.config("off", Some(&server.app)), LOADED);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_rule_for_clients_ends_connections_and_their_requests_are_answered() {
    let server = tokio::task::block_in_place(Reloaded::start);
    let mut clients: Vec<_> =
        Protocol::ALL.into_iter().map(|protocol| server.client(protocol, &server.admin)).collect();
    for client in &mut clients {
        assert_eq!(client.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
    }
    server.reload(&server.config("on", Some(&server.app)), LOADED);
    for client in &mut clients {
        let began = Instant::now();
        while client.is_connected() {
            assert!(began.elapsed() < Duration::from_secs(5), "a connection of the old rule lives on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(
            client.send("POST", GENERATE, "{}").await.is_err(),
            "no CA that is trusted signed the certificate"
        );
    }
    server.reload(&server.config("off", Some(&server.app)), LOADED);
    for client in &mut clients {
        assert_eq!(client.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
    }
}
