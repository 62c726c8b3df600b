//! Keys that are deleted and kept: `/v1/key/delete`, `deleted`, `restore` and `purge`.

use std::time::Duration;

use kms_core::CacheConfig;
use kms_tests::{Client, Protocol, TestServer};
use serde_json::{Value, json};

/// Other servers use a deleted key for this time.
const ANY: Duration = Duration::from_millis(300);
const DELETED: &str = "key is deleted; 'kms key restore my-key' brings it back";

async fn start() -> (TestServer, Client) {
    let mut builder = TestServer::builder().key("my-key");
    builder.settings.cache = CacheConfig::default().with_any(ANY);
    builder.settings.grace = Duration::from_secs(3600);
    let server = builder.start().await;
    let client = server.admin(Protocol::Http2);
    (server, client)
}

async fn ask(client: &mut Client, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = client.send(method, path, body).await.unwrap();
    (answer.code(), serde_json::from_str(answer.text()).unwrap_or_default())
}

async fn put(client: &mut Client, operation: &str, body: &Value) -> (u16, Value) {
    ask(client, "PUT", &format!("/v1/key/{operation}/my-key"), body).await
}

async fn delete(client: &mut Client) -> (u16, Value) {
    ask(client, "DELETE", "/v1/key/delete/my-key", &Value::Null).await
}

async fn names(client: &mut Client) -> Value {
    ask(client, "GET", "/v1/key/list/*", &Value::Null).await.1["names"].clone()
}

async fn deleted(client: &mut Client) -> Vec<Value> {
    let (code, list) = ask(client, "GET", "/v1/key/deleted/my-*", &Value::Null).await;
    assert_eq!(code, 200, "{list}");
    list["keys"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_route_says_how_a_deleted_key_comes_back() {
    let (server, mut client) = start().await;
    let (_, dek) = put(&mut client, "generate", &Value::Null).await;
    let open = json!({"ciphertext": dek["ciphertext"]});
    let (code, kept) = delete(&mut client).await;
    assert_eq!((code, &kept["restorable"]), (200, &json!(true)));
    assert!(kept["until"].as_str().unwrap().ends_with('Z'), "{kept}");
    let mac = json!({"message": "bQ=="});
    let version = json!({"version": 1});
    let plain = json!({"plaintext": "bQ=="});
    for (method, operation, body) in [
        ("GET", "describe", &Value::Null),
        ("GET", "versions", &Value::Null),
        ("PUT", "generate", &Value::Null),
        ("PUT", "encrypt", &plain),
        ("PUT", "decrypt", &open),
        ("PUT", "bulk/decrypt", &json!([open])),
        ("PUT", "hmac", &mac),
        ("PUT", "rotate", &Value::Null),
        ("PUT", "rewrap", &open),
        ("PUT", "retire", &version),
        ("PUT", "enable", &version),
        ("DELETE", "delete", &Value::Null),
    ] {
        let (code, said) = ask(&mut client, method, &format!("/v1/key/{operation}/my-key"), body).await;
        assert_eq!((code, &said["message"]), (409, &json!(DELETED)), "{operation}");
    }
    let import = json!({"key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "cipher": "AES256"});
    for (operation, body) in [("create", &Value::Null), ("import", &import)] {
        let (code, said) = put(&mut client, operation, body).await;
        assert_eq!((code, &said["message"]), (400, &json!("key already exists")), "{operation}");
    }
    assert_eq!(names(&mut client).await, json!([]));
    let listed = deleted(&mut client).await;
    assert_eq!(
        (listed.len(), &listed[0]["name"], &listed[0]["restorable"]),
        (1, &json!("my-key"), &json!(true))
    );
    assert_eq!(listed[0]["kept_until"], kept["until"]);
    assert_eq!(listed[0]["deleted_by"].as_str().unwrap().len(), 64, "the identity of the admin");
    let (code, ready) = ask(&mut client, "GET", "/v1/ready", &Value::Null).await;
    assert_eq!((code, ready), (200, Value::Null), "a deletion is no fault");

    assert_eq!(put(&mut client, "restore", &Value::Null).await, (200, Value::Null));
    assert_eq!(put(&mut client, "decrypt", &open).await, (200, json!({"plaintext": dek["plaintext"]})));
    assert_eq!(names(&mut client).await, json!(["my-key"]));
    assert_eq!(deleted(&mut client).await, [] as [Value; 0]);
    let (code, said) = put(&mut client, "restore", &json!({"resume": true})).await;
    assert_eq!((code, &said["message"]), (409, &json!("key is not deleted")));
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_is_confirmed_and_waits_for_the_other_servers() {
    let (server, mut client) = start().await;
    let refused = async |client: &mut Client, body: &Value| {
        let (code, said) = put(client, "purge", body).await;
        assert_eq!(code, 409, "{body}: {said}");
        said["message"].as_str().unwrap().to_owned()
    };
    let now = json!({"now": true, "confirm": "my-key"});
    assert!(refused(&mut client, &now).await.contains("key is not deleted"));
    delete(&mut client).await;
    assert!(refused(&mut client, &json!({"now": true})).await.contains("confirm its name"));
    assert!(
        refused(&mut client, &json!({"now": true, "confirm": "other"})).await.contains("confirm its name")
    );
    assert!(refused(&mut client, &now).await.contains("other servers may still use the key"));
    tokio::time::sleep(ANY).await;
    assert!(refused(&mut client, &Value::Null).await.contains("is kept until"));
    for body in [json!({"fingerprint": "12"}), json!({"now": 1}), json!({"force": true}), json!([])] {
        assert_eq!(put(&mut client, "purge", &body).await.0, 400, "{body}");
    }
    let fingerprint = deleted(&mut client).await[0]["fingerprint"].clone();
    let other = json!({"now": true, "confirm": "my-key", "fingerprint": "00".repeat(16)});
    assert_eq!(put(&mut client, "purge", &other).await.0, 404, "nothing is left of another key");
    let gone = json!({"fingerprint": fingerprint, "versions": 1});
    assert_eq!(put(&mut client, "purge", &now).await, (200, gone));
    assert_eq!(put(&mut client, "generate", &Value::Null).await.0, 404);
    assert_eq!(put(&mut client, "restore", &Value::Null).await.0, 404);
    assert_eq!(put(&mut client, "create", &Value::Null).await.0, 200, "the name is free");
    let api = client.send("GET", "/v1/api", "").await.unwrap();
    for path in ["deleted", "restore", "purge"] {
        assert!(!api.text().contains(path), "KES's clients read this list");
    }
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_grace_a_delete_is_that_of_kes() {
    let server = TestServer::builder().key("my-key").start().await;
    let mut client = server.admin(Protocol::Http1);
    let answer = client.send("DELETE", "/v1/key/delete/my-key", "").await.unwrap();
    assert_eq!((answer.code(), answer.text()), (200, ""));
    assert_eq!(put(&mut client, "generate", &Value::Null).await.0, 404);
    assert_eq!(put(&mut client, "restore", &Value::Null).await.0, 404);
    assert_eq!(put(&mut client, "create", &Value::Null).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_use_of_a_key_is_told_and_a_look_at_it_is_none() {
    let (server, mut client) = start().await;
    let last = async |client: &mut Client| {
        ask(client, "GET", "/v1/key/versions/my-key", &Value::Null).await.1["last_used"].clone()
    };
    ask(&mut client, "GET", "/v1/key/describe/my-key", &Value::Null).await;
    assert_eq!(last(&mut client).await, Value::Null);
    put(&mut client, "generate", &Value::Null).await;
    assert!(last(&mut client).await.is_string());
    drop(server);
}
