//! Routes about policies and identities, and routes that are open to everybody.

use std::collections::BTreeMap;
use std::time::Duration;

use kms_core::ErrorKind;
use kms_server::settings::RouteSettings;
use kms_tests::faults::FaultyStore;
use kms_tests::{Client, Protocol, TestIdentity, TestServer};
use serde_json::{Value, json};

async fn get(client: &mut Client, path: &str) -> (u16, Value) {
    let answer = client.send("GET", path, "").await.unwrap();
    (answer.code(), serde_json::from_str(answer.text()).unwrap_or_default())
}

#[tokio::test]
async fn everybody_is_told_what_it_may_do() {
    let (minio, stranger) = (TestIdentity::new(), TestIdentity::new());
    let allow = ["/v1/key/generate/my-*", "/v1/key/bulk/decrypt/my-*"];
    let builder =
        TestServer::builder().policy("minio", &allow, &["/v1/key/generate/my-x"], &[minio.identity()]);
    let server = builder.start().await;
    let admin = server.admin_identity().identity().to_string();
    for protocol in Protocol::ALL {
        let path = "/v1/identity/self/describe";
        let (code, told) = get(&mut server.client(protocol, &minio), path).await;
        assert_eq!(code, 200);
        assert_eq!(told["identity"], minio.identity().to_string());
        assert_eq!((&told["policy"], &told["created_by"]), (&json!("minio"), &json!(admin)));
        assert_eq!(told["allow"], json!({"/v1/key/generate/my-*": {}, "/v1/key/bulk/decrypt/my-*": {}}));
        assert_eq!(told["deny"], json!({"/v1/key/generate/my-x": {}}));
        assert!(told["created_at"].as_str().unwrap().ends_with('Z'));

        let (code, told) = get(&mut server.admin(protocol), path).await;
        assert_eq!((code, &told["admin"], &told["identity"]), (200, &json!(true), &json!(admin)));
        let (code, told) = get(&mut server.client(protocol, &stranger), path).await;
        assert_eq!((code, &told["message"]), (404, &json!("identity does not exist")));
    }
}

#[tokio::test]
async fn listings_of_policies_have_pages() {
    let mut builder = TestServer::builder();
    for number in 0..1030 {
        builder = builder.policy(&format!("p-{number:04}"), &[], &[], &[]);
    }
    let server = builder.policy("other", &[], &[], &[]).start().await;
    let mut admin = server.admin(Protocol::Http2);
    let (_, page) = get(&mut admin, "/v1/policy/list/p-").await;
    let names = page["names"].as_array().unwrap();
    assert_eq!((names.len(), &names[1023]), (1024, &json!("p-1023")));
    let next = page["continue_at"].as_str().unwrap();
    let (_, page) = get(&mut admin, &format!("/v1/policy/list/{next}")).await;
    assert_eq!((page["names"].as_array().unwrap().len(), &page["continue_at"]), (6, &json!("")));
}

#[tokio::test]
async fn routes_that_are_open_need_no_certificate_and_others_do() {
    let open = RouteSettings { skip_auth: true, timeout: None };
    let mut builder = TestServer::builder();
    builder.settings.routes =
        BTreeMap::from([("/v1/ready".to_owned(), open), ("/v1/metrics".to_owned(), open)]);
    let server = builder.key("my-key").start().await;
    for protocol in Protocol::ALL {
        let mut nobody = server.client(protocol, &TestIdentity::none());
        for (path, code) in [("/v1/ready", 200), ("/v1/metrics", 200), ("/version", 200)] {
            assert_eq!(nobody.send("GET", path, "").await.unwrap().code(), code, "{path}");
        }
        for (method, path) in [
            ("GET", "/v1/status"),
            ("GET", "/v1/api"),
            ("GET", "/metrics"),
            ("GET", "/v1/log/error"),
            ("POST", "/v1/key/decrypt/my-key"),
        ] {
            let answer = nobody.send(method, path, "").await.unwrap();
            assert_eq!(answer.code(), 400, "{path}");
            assert!(answer.text().contains("tls: client certificate is required"), "{path}");
        }
        let mut stranger = server.client(protocol, &TestIdentity::new());
        assert_eq!(stranger.send("GET", "/v1/ready", "").await.unwrap().code(), 200);
        assert_eq!(stranger.send("GET", "/v1/status", "").await.unwrap().code(), 403);
        let mut admin = server.admin(protocol);
        assert_eq!(admin.send("POST", "/v1/key/generate/my-key", "{}").await.unwrap().code(), 200);
    }
}

#[tokio::test]
async fn a_route_has_the_time_that_it_is_given() {
    let store = FaultyStore::new();
    let mut builder = TestServer::builder();
    let short = RouteSettings { skip_auth: false, timeout: Some(Duration::from_millis(700)) };
    builder.settings.routes = BTreeMap::from([("/v1/key/describe/".to_owned(), short)]);
    let server = builder.store(store.clone()).start().await;
    let mut admin = server.admin(Protocol::Http2);
    assert_eq!(admin.send("PUT", "/v1/key/create/a", "").await.unwrap().code(), 200);
    store.hang();
    let begun = std::time::Instant::now();
    let mut fresh = server.admin(Protocol::Http1);
    assert_eq!(fresh.send("GET", "/v1/key/describe/other", "").await.unwrap().code(), 504);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    store.resume();
    assert_eq!(fresh.send("GET", "/v1/key/describe/a", "").await.unwrap().code(), 200);
}

#[tokio::test]
async fn many_are_decrypted_at_once_or_none() {
    let server = TestServer::builder().key("my-key").start().await;
    let mut admin = server.admin(Protocol::Http1);
    let mut sealed = Vec::new();
    for context in ["YQ==", "Yg==", ""] {
        let body = json!({"plaintext": "aGVsbG8=", "context": context}).to_string();
        let answer = admin.send("POST", "/v1/key/encrypt/my-key", body).await.unwrap();
        sealed.push(json!({"ciphertext": answer.member("ciphertext"), "context": context}));
    }
    let path = "/v1/key/bulk/decrypt/my-key";
    let answer = admin.send("POST", path, json!(sealed).to_string()).await.unwrap();
    let one = r#"{"plaintext":"aGVsbG8="}"#;
    assert_eq!(answer.text().trim_end(), format!("[{one},{one},{one}]"));
    assert_eq!(admin.send("POST", path, "[]").await.unwrap().text(), "[]\n");

    sealed[1]["context"] = json!("eHg=");
    let answer = admin.send("POST", path, json!(sealed).to_string()).await.unwrap();
    assert_eq!(
        (answer.code(), answer.member("message")),
        (400, "decryption failed: ciphertext is not authentic".into())
    );
    for bad in ["", "{}", "[1]", "[{\"ciphertext\":1}]"] {
        let answer = admin.send("POST", path, bad).await.unwrap();
        assert_eq!((answer.code(), answer.member("message")), (400, "invalid request body".into()), "{bad}");
    }
}

#[tokio::test]
async fn a_denied_store_is_no_denied_client() {
    let store = FaultyStore::new();
    let server = TestServer::builder().store(store.clone()).start().await;
    store.fail(Some(ErrorKind::Denied));
    let (code, told) = get(&mut server.admin(Protocol::Http1), "/v1/key/describe/a").await;
    assert_eq!((code, &told["message"]), (502, &json!("failed to read key")));
}
