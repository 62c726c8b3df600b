//! The metrics as a monitoring system reads them.

use kms_tests::{Client, Protocol, TestIdentity, TestServer};

/// Returns one sample of the text format.
async fn sample(client: &mut Client, path: &str, series: &str) -> Option<f64> {
    let answer = client.send("GET", path, "").await.unwrap();
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let line = answer.text().lines().find(|line| line.starts_with(&format!("{series} ")))?.to_owned();
    Some(line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

#[tokio::test]
async fn each_series_of_requests_begins_at_zero() {
    let server = TestServer::builder().key("my-key").start().await;
    let mut admin = server.admin(Protocol::Http2);
    for (family, codes) in [
        ("kes_http_request_success", &["200"][..]),
        ("kes_http_request_error", &["400", "404"]),
        ("kes_http_request_failure", &["500", "501", "502", "503", "504"]),
    ] {
        for code in codes {
            let series = format!("{family}{{code=\"{code}\"}}");
            assert_eq!(sample(&mut admin, "/v1/metrics", &series).await, Some(0.0), "{series}");
        }
    }
}

#[tokio::test]
async fn who_describes_itself_is_counted_and_who_has_no_certificate_is_not() {
    let mut builder = TestServer::builder();
    builder.settings.routes.insert(
        "/v1/ready".to_owned(),
        kms_server::settings::RouteSettings { skip_auth: true, timeout: None },
    );
    let server = builder.start().await;
    let mut admin = server.admin(Protocol::Http1);
    assert_eq!(admin.send("GET", "/v1/identity/self/describe", "").await.unwrap().code(), 200);
    let mut nobody = server.client(Protocol::Http1, &TestIdentity::none());
    assert_eq!(nobody.send("GET", "/v1/key/list/", "").await.unwrap().code(), 400);
    assert_eq!(sample(&mut admin, "/v1/metrics", "kes_http_request_success{code=\"200\"}").await, Some(1.0));
    assert_eq!(sample(&mut admin, "/v1/metrics", "kes_http_request_error{code=\"400\"}").await, Some(0.0));
}

#[tokio::test]
async fn answers_are_counted_by_what_came_of_them() {
    let server = TestServer::builder().key("my-key").start().await;
    let mut admin = server.admin(Protocol::Http2);
    for _ in 0..5 {
        assert_eq!(admin.send("POST", "/v1/key/generate/my-key", "{}").await.unwrap().code(), 200);
    }
    for _ in 0..3 {
        assert_eq!(admin.send("POST", "/v1/key/generate/none", "{}").await.unwrap().code(), 404);
    }
    // KES does not count requests for status and metrics nor refused requests. This server does not either.
    for path in ["/version", "/v1/ready", "/v1/status", "/v1/api", "/v1/metrics", "/metrics"] {
        assert_eq!(admin.send("GET", path, "").await.unwrap().code(), 200, "{path}");
    }
    admin.send("GET", "/v1/key/generate/my-key", "").await.unwrap();
    admin.send("GET", "/nowhere", "").await.unwrap();
    server.client(Protocol::Http1, &TestIdentity::new()).send("GET", "/v1/status", "").await.unwrap();

    let kes = "/v1/metrics";
    assert_eq!(sample(&mut admin, kes, "kes_http_request_success{code=\"200\"}").await, Some(5.0));
    assert_eq!(sample(&mut admin, kes, "kes_http_request_error{code=\"404\"}").await, Some(3.0));
    assert_eq!(sample(&mut admin, kes, "kes_http_request_error{code=\"403\"}").await, None);
    assert_eq!(
        sample(&mut admin, kes, "kes_http_request_active").await,
        Some(0.0),
        "who asks is not counted"
    );
    assert_eq!(sample(&mut admin, kes, "kes_http_response_time_count").await, Some(8.0));
    for series in ["kes_system_num_cpu", "kes_system_num_threads", "kes_system_mem_heap_used"] {
        assert!(sample(&mut admin, kes, series).await.unwrap() >= 1.0, "{series}");
    }
    let text = admin.send("GET", kes, "").await.unwrap().text().to_owned();
    assert!(!text.contains("kms_"), "the SDK fails on families that it does not know");

    let all = "/metrics";
    assert_eq!(sample(&mut admin, all, "kms_requests_refused_total").await, Some(3.0));
    assert!(sample(&mut admin, all, "kms_cache_hits").await.unwrap() >= 4.0);
    assert!(sample(&mut admin, all, "kms_key_store_reads").await.unwrap() >= 1.0);
    assert!(sample(&mut admin, all, "kms_certificate_expiry_timestamp_seconds").await.unwrap() > 1.7e9);
    assert!(sample(&mut admin, all, "kes_http_request_success{code=\"200\"}").await.unwrap() >= 5.0);
}
