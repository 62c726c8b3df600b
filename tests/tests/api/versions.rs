//! `/v1/key/rotate`, `/v1/key/rewrap` and `/v1/key/versions`.

use std::time::Duration;

use kms_core::CacheConfig;
use kms_tests::{Client, Protocol, TestServer};
use serde_json::{Value, json};

/// A new version seals after this time.
const ANY: Duration = Duration::from_millis(300);

async fn put(client: &mut Client, operation: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = client.send("PUT", &format!("/v1/key/{operation}/my-key"), body).await.unwrap();
    (answer.code(), serde_json::from_str(answer.text()).unwrap_or_default())
}

async fn start() -> (TestServer, Client) {
    let mut builder = TestServer::builder();
    builder.settings.cache = CacheConfig::default().with_any(ANY);
    let server = builder.start().await;
    let mut client = server.admin(Protocol::Http2);
    assert_eq!(put(&mut client, "create", &Value::Null).await.0, 200);
    (server, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_rotated_listed_and_its_ciphertexts_rewrapped() {
    let (_server, mut client) = start().await;
    let (_, old) = put(&mut client, "generate", &json!({"context": "Yw=="})).await;
    let (code, made) = put(&mut client, "rotate", &Value::Null).await;
    assert_eq!((code, &made), (200, &json!({"version": 2, "seals_after_ms": 300})));
    tokio::time::sleep(ANY + Duration::from_millis(20)).await;
    let (_, new) = put(&mut client, "generate", &json!({"context": "Yw=="})).await;
    let length = |value: &Value| value["ciphertext"].as_str().unwrap().len();
    assert!(length(&new) > length(&old), "it names its version");
    for dek in [&old, &new] {
        let body = json!({"ciphertext": dek["ciphertext"], "context": "Yw=="});
        assert_eq!(put(&mut client, "decrypt", &body).await, (200, json!({"plaintext": dek["plaintext"]})));
    }
    let body = json!({"ciphertext": old["ciphertext"], "context": "Yw=="});
    let (code, rewrapped) = put(&mut client, "rewrap", &body).await;
    assert_eq!((code, rewrapped.as_object().unwrap().len(), length(&rewrapped)), (200, 1, length(&new)));
    let body = json!({"ciphertext": rewrapped["ciphertext"], "context": "Yw=="});
    assert_eq!(put(&mut client, "decrypt", &body).await.1["plaintext"], old["plaintext"]);
    let (code, refused) = put(&mut client, "rewrap", &json!({"ciphertext": old["ciphertext"]})).await;
    assert_eq!((code, &refused["message"]), (400, &json!("decryption failed: ciphertext is not authentic")));

    let list = client.send("GET", "/v1/key/versions/my-key", "").await.unwrap();
    let list: Value = serde_json::from_str(list.text()).unwrap();
    let versions = list["versions"].as_array().unwrap();
    assert_eq!((&list["name"], versions.len()), (&json!("my-key"), 2));
    for (n, version) in versions.iter().enumerate() {
        assert_eq!((&version["version"], &version["readable"]), (&json!(n + 1), &json!(true)));
        assert_eq!(version["fingerprint"].as_str().unwrap().len(), 32);
        assert!(version["created_at"].is_string() && version["created_by"].is_string());
    }
    let described = client.send("GET", "/v1/key/describe/my-key", "").await.unwrap();
    let described: Value = serde_json::from_str(described.text()).unwrap();
    assert_eq!(described.as_object().unwrap().len(), 4, "as KES describes it: {described}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_says_why() {
    let (server, mut client) = start().await;
    for (operation, path) in [("PUT", "rotate"), ("PUT", "rewrap"), ("GET", "versions")] {
        let body = if path == "rewrap" { r#"{"ciphertext":"AAAA"}"# } else { "" };
        let answer = client.send(operation, &format!("/v1/key/{path}/absent"), body).await.unwrap();
        assert_eq!((answer.code(), answer.member("message").as_str()), (404, "key does not exist"), "{path}");
    }
    let api = client.send("GET", "/v1/api", "").await.unwrap();
    for path in ["rotate", "rewrap", "versions"] {
        assert!(!api.text().contains(path), "KES's clients read this list");
    }
    drop(server);

    let mut builder = TestServer::builder();
    builder.settings.is_for_kes = true;
    let server = builder.start().await;
    let mut client = server.admin(Protocol::Http2);
    put(&mut client, "create", &Value::Null).await;
    for body in [Value::Null, json!({"confirm": "other"}), json!({})] {
        let (code, refused) = put(&mut client, "rotate", &body).await;
        assert_eq!(code, 409, "{refused}");
        assert!(refused["message"].as_str().unwrap().contains("--yes"), "{refused}");
    }
    assert_eq!(put(&mut client, "rotate", &json!({"confirm": "my-key"})).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_rotated_by_its_age() {
    let mut builder = TestServer::builder().key("my-key");
    builder.settings.cache = CacheConfig::default().with_any(ANY);
    builder.settings.rotate_after = vec![(kms_core::KeyName::new("my-key").unwrap(), Duration::from_secs(2))];
    let server = builder.start().await;
    let mut client = server.admin(Protocol::Http2);
    let began = std::time::Instant::now();
    let newest = loop {
        let list = client.send("GET", "/v1/key/versions/my-key", "").await.unwrap();
        let list: Value = serde_json::from_str(list.text()).unwrap();
        let versions = list["versions"].as_array().unwrap().len();
        if versions == 3 {
            break versions;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{list}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(newest == 3 && began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_version_is_refused_with_the_way_back() {
    let (server, mut client) = start().await;
    let (_, old) = put(&mut client, "generate", &Value::Null).await;
    let open = json!({"ciphertext": old["ciphertext"]});
    for body in
        [json!({}), json!({"version": "1"}), json!({"version": 1, "other": 2}), json!([1]), Value::Null]
    {
        let (code, refused) = put(&mut client, "retire", &body).await;
        assert_eq!((code, &refused["message"]), (400, &json!("invalid request body")), "{body}");
    }
    let (code, refused) = put(&mut client, "retire", &json!({"version": 1})).await;
    assert!(
        code == 409 && refused["message"].as_str().unwrap().contains("kms key rotate my-key"),
        "{refused}"
    );
    put(&mut client, "rotate", &Value::Null).await;
    tokio::time::sleep(ANY * 2 + Duration::from_millis(20)).await;
    assert_eq!(put(&mut client, "decrypt", &open).await.0, 200);
    assert_eq!(put(&mut client, "retire", &json!({"version": 1})).await.0, 200);
    let (code, refused) = put(&mut client, "decrypt", &open).await;
    let message = "key version is disabled; 'kms key enable my-key --version 1' brings it back";
    assert_eq!((code, &refused["message"]), (409, &json!(message)));
    assert_eq!(put(&mut client, "rewrap", &open).await.0, 409);
    assert_eq!(put(&mut client, "generate", &Value::Null).await.0, 200);
    let mac = json!({"message": "bQ=="});
    assert_eq!(put(&mut client, "hmac", &mac).await.0, 200, "HMACs are those of the first version for ever");
    let list = client.send("GET", "/v1/key/versions/my-key", "").await.unwrap();
    let list: Value = serde_json::from_str(list.text()).unwrap();
    let versions = list["versions"].as_array().unwrap();
    assert_eq!((&versions[0]["disabled"], &versions[1]["disabled"]), (&json!(true), &json!(false)));
    assert_eq!(versions[0]["used"]["opened"], json!(3), "asked, refused or not");
    assert!(versions[0]["used"]["last_opened"].is_string() && versions[1]["used"]["sealed"] == json!(1));
    let metrics = client.send("GET", "/metrics", "").await.unwrap();
    assert!(metrics.text().contains("kms_key_version_opened{key=\"my-key\",version=\"1\"} 3\n"));
    assert_eq!(put(&mut client, "enable", &json!({"version": 1})).await.0, 200);
    assert_eq!(put(&mut client, "decrypt", &open).await, (200, json!({"plaintext": old["plaintext"]})));
    drop(server);
}
