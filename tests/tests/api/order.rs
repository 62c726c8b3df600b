//! The order of checks, and paths that try to evade them.

use kms_tests::{Protocol, TestIdentity, TestServer};

/// Starts a server whose client `minio` may use keys `my-…` except `my-internal…`.
async fn server(minio: &TestIdentity) -> TestServer {
    let allow =
        ["/v1/key/create/my-*", "/v1/key/generate/my-*", "/v1/key/list/my-*", "/v1/key/describe/exact"];
    let deny = ["/v1/key/generate/my-internal*", "/v1/key/create/my-internal"];
    TestServer::builder()
        .policy("minio", &allow, &deny, &[minio.identity()])
        .key("my-key")
        .key("my-internal1")
        .key("exact")
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_check_that_fails_answers() {
    let (minio, stranger) = (TestIdentity::new(), TestIdentity::new());
    let server = server(&minio).await;
    let cases = [
        // The path is checked before method and policy.
        (&stranger, "PATCH", "/v1/nothing", "", 404),
        // The method is checked before policy and name.
        (&stranger, "GET", "/v1/key/create/bad.name", "", 405),
        (&stranger, "HEAD", "/v1/key/create/x", "", 405),
        (&stranger, "OPTIONS", "/v1/status", "", 405),
        // The policy is checked before name, body and existence.
        (&stranger, "PUT", "/v1/key/generate/bad.name", "no json", 403),
        (&minio, "PUT", "/v1/key/generate/other.name", "no json", 403),
        // The name is checked before the body.
        (&minio, "PUT", "/v1/key/generate/my-bad.name", "no json", 400),
        // The body is checked before the existence.
        (&minio, "PUT", "/v1/key/generate/my-absent", "no json", 400),
        (&minio, "PUT", "/v1/key/generate/my-absent", "{}", 404),
        (&minio, "PUT", "/v1/key/generate/my-key", "{}", 200),
    ];
    for protocol in Protocol::ALL {
        for (who, method, path, body, status) in cases {
            let answer = server.client(protocol, who).send(method, path, body).await.unwrap();
            assert_eq!(answer.code(), status, "{protocol:?} {method} {path} {body}: {}", answer.text());
        }
        let mut client = server.client(protocol, &minio);
        let name = client.send("PUT", "/v1/key/generate/my-bad.name", "no json").await.unwrap();
        assert!(name.text().contains("key name 'my-bad.name'"), "{}", name.text());
        let method = client.send("GET", "/v1/key/generate/my-key", "").await.unwrap();
        assert_eq!(method.headers["accept"], "PUT");
        assert_eq!(method.headers["allow"], "PUT, POST");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_encoding_gets_round_a_policy() {
    let minio = TestIdentity::new();
    let server = server(&minio).await;
    let cases = [
        ("/v1/key/generate/%6Dy-key", 200),
        ("/v1/key/%67enerate/my-key", 200),
        ("/v1/key/generate/my-key?x=/v1/key/generate/exact", 200),
        ("/v1/key/generate/my-internal1", 403),
        ("/v1/key/generate/my-%69nternal1", 403),
        ("/v1/key/generate/my%2Dinternal1", 403),
        ("/v1/key/generate/%6d%79%2d%69%6e%74%65%72%6e%61%6c%31", 403),
        ("/v1/key/%67enerate/my-internal1", 403),
        ("/%76%31/key/generate/my-internal1", 403),
        ("/v1/key/generate/my-internal1/", 403),
        ("/v1/key/generate/my-internal1%00", 403),
        ("/v1/key/generate/my-internal1?", 403),
        ("/v1/key/generate/exact", 403),
        ("/v1/key/generate/%65xact", 403),
        // The server decodes a path exactly once.
        ("/v1/key/generate/my%252Dinternal1", 403),
        ("/v1/key/generate/my-%2569nternal1", 400),
        ("/v1/key/generate/my-x/%252e%252e/my-internal1", 400),
        ("/v1/key/generate/my-key%C3%28", 400),
        ("/v1/key/generate/my-key%00", 400),
        ("/v1/key/generate/my-key%0A", 400),
        ("/v1/key/generate/my-key%FF", 400),
        ("/v1/key/generate/my-key;x", 400),
        ("/v1/key/generate/my-key%3Fx", 400),
        ("/v1/key/generate/my-a%2Fb", 400),
        ("/v1/key/generate/my-a/b", 400),
        ("/v1/key/generate/my-x%2f..%2fmy-internal1", 400),
        ("/v1/key/generate/my-key%2F", 400),
        ("/v1/key/generate/my-key%252F", 400),
        ("/v1/key/generate/%2Fmy-internal1", 403),
        // An encoded `/` does not end a segment.
        ("/v1/key/generate%2Fmy-key", 404),
        ("/v1/key%2fgenerate/my-key", 404),
        ("/v1%2Fkey%2Fgenerate%2Fmy-key", 404),
        ("/v1/key%2Flist", 404),
        // Nobody finds these paths.
        ("/v1/key/generate/my-x/../my-internal1", 404),
        ("/v1/key/generate/my-x/%2e%2e/my-internal1", 404),
        ("/v1/key/generate//my-internal1", 404),
        ("/v1/key/generate/./my-internal1", 404),
        ("/v1/key/generate/%2e/my-internal1", 404),
        ("/v1/key/%2E%2E/key/generate/my-key", 404),
        ("/v1/key/create/my-/../../generate/my-internal1", 404),
        ("/v1/key//generate/my-internal1", 404),
        ("//v1/key/generate/my-internal1", 404),
        ("/v1/key/./generate/my-internal1", 404),
        ("/v1/KEY/generate/my-internal1", 404),
        ("/v1/key/Generate/my-internal1", 404),
    ];
    for protocol in Protocol::ALL {
        let mut client = server.client(protocol, &minio);
        for (path, status) in cases {
            let answer = client.send("PUT", path, "{}").await.unwrap();
            assert_eq!(answer.code(), status, "{protocol:?} {path}: {}", answer.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_is_denied_is_denied_however_it_is_written() {
    let app = TestIdentity::new();
    let deny = ["/v1/key/list/", "/v1/key/list/my-", "/v1/policy/list/a", "/v1/identity/list/"];
    let server = TestServer::builder().policy("app", &["/v1/*"], &deny, &[app.identity()]).start().await;
    let mut client = server.client(Protocol::Http2, &app);
    for (path, code) in [
        ("/v1/key/list/", 403),
        ("/v1/key/list/*", 403),
        ("/v1/key/list/%2A", 403),
        ("/v1/key/list/~0", 403),
        ("/v1/key/list/*~0", 403),
        ("/v1/key/list/my-*", 403),
        ("/v1/key/list/my-~my-a", 403),
        ("/v1/key/list/my-a*", 200),
        ("/v1/key/list/my*", 200),
        ("/v1/policy/list/a*", 403),
        ("/v1/policy/list/*", 200),
        ("/v1/identity/list/*", 403),
    ] {
        assert_eq!(client.send("GET", path, "").await.unwrap().code(), code, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoded_slash_is_none_to_route_policy_effect_and_audit() {
    let (app, directory) = (TestIdentity::new(), tempfile::tempdir().unwrap());
    // Each pattern would allow a request if the server decoded the path once more.
    let allow = ["/v1/key/create/a", "/v1/key/create/a/b", "/v1/key/describe/*"];
    let mut builder = TestServer::builder().policy("app", &allow, &[], &[app.identity()]);
    let log = directory.path().join("audit.log");
    builder.settings.log.audit_file = Some(log.clone());
    let server = builder.start().await;
    let cases = [
        ("/v1/key/create%2Fa", "/v1/key/create%2Fa", 404, 404),
        ("/v1%2fkey/create/a", "/v1%2Fkey/create/a", 404, 404),
        ("/v1/key/create/a%2Fb", "/v1/key/create/a%2Fb", 403, 400),
        ("/v1/key/create/a%252Fb", "/v1/key/create/a%2Fb", 403, 400),
        ("/v1/key/create/%61%2f..%2Fa", "/v1/key/create/a%2F..%2Fa", 403, 400),
    ];
    for protocol in Protocol::ALL {
        for (path, _, of_app, of_admin) in cases {
            let answer = server.client(protocol, &app).send("PUT", path, "").await.unwrap();
            assert_eq!(answer.code(), of_app, "{path}: {}", answer.text());
            let answer = server.admin(protocol).send("PUT", path, "").await.unwrap();
            assert_eq!(answer.code(), of_admin, "{path}: {}", answer.text());
        }
        let mut client = server.client(protocol, &app);
        assert_eq!(
            client.send("GET", "/v1/key/describe/a", "").await.unwrap().code(),
            404,
            "nothing was made"
        );
    }
    server.stop().await;
    let log = std::fs::read_to_string(log).unwrap();
    for (_, seen, of_app, of_admin) in cases {
        for code in [of_app, of_admin] {
            let line = log.lines().find(|line| {
                line.contains(&format!("\"path\":\"{seen}\"")) && line.contains(&format!("\"code\":{code},"))
            });
            assert!(line.is_some(), "{seen} {code}: {log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_without_a_star_is_one_path() {
    let minio = TestIdentity::new();
    let server = server(&minio).await;
    let mut client = server.client(Protocol::Http2, &minio);
    for (path, status) in [
        ("/v1/key/describe/exact", 200),
        ("/v1/key/describe/exact2", 403),
        ("/v1/key/describe/exac", 403),
        ("/v1/key/list/my-", 200),
        ("/v1/key/list/my", 403),
        ("/v1/key/list/", 403),
    ] {
        assert_eq!(client.send("GET", path, "").await.unwrap().code(), status, "{path}");
    }
    assert_eq!(client.send("PUT", "/v1/key/create/my-internal2", "").await.unwrap().code(), 200);
    assert_eq!(client.send("PUT", "/v1/key/create/my-internal", "").await.unwrap().code(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_from_the_client_comes_back_escaped() {
    let server = TestServer::start().await;
    let mut admin = server.admin(Protocol::Http1);
    let answer = admin.send("PUT", "/v1/key/create/%3Cb%3E%22%26%5C%0A%C3%BC", "").await.unwrap();
    let expected = "{\"message\":\"key name '\\u003cb\\u003e\\\"\\u0026\\\\\\nü' is empty, too long or contains invalid characters\"\n}";
    assert_eq!((answer.code(), answer.text()), (400, expected));
    assert_eq!(answer.headers["content-type"], "application/json");
}
