//! A real KES 0.24 on the same Secrets Manager. Each server reads and opens what the other wrote and sealed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kms_core::store::{EntryName, KeyStore};
use kms_core::{ErrorKind, Kms};
use kms_tests::kes::Kes;
use kms_tests::localstack::Aws;
use kms_tests::programs::{program, until};
use reqwest::Method;
use serde_json::{Value, json};

use super::keys::{key, kind, request};
use super::secrets::ring;

#[tokio::test(flavor = "multi_thread")]
async fn kes_and_we_share_a_secrets_manager() {
    let aws = Aws::start().await;
    let settings = json!({"aws": {"secretsmanager": {
        "endpoint": aws.endpoint(), "region": "eu-central-1",
        "credentials": {"accesskey": "x", "secretkey": "x"},
    }}});
    let kes = tokio::task::spawn_blocking(|| program("kes")).await.unwrap();
    let kes = Kes::start(&kes, settings).await;
    let kms = ring(aws.secrets(|config| config.recovery_window = 0).await);

    kms.create(&request(), &key("ours")).await.unwrap();
    kes.ask("key/create/theirs", Value::Null).await;
    let (context, plaintext) = (b"bucket/object".as_slice(), b"32 bytes that are sealed by them".as_slice());
    for name in ["ours", "theirs"] {
        let ours = kms.generate(&request(), &key(name), context).await.unwrap();
        let body =
            json!({"ciphertext": STANDARD.encode(&ours.ciphertext), "context": STANDARD.encode(context)});
        let opened = kes.ask(&format!("key/decrypt/{name}"), body).await;
        assert_eq!(opened["plaintext"], STANDARD.encode(ours.plaintext.expose()), "KES opens, {name}");

        let body = json!({"plaintext": STANDARD.encode(plaintext), "context": STANDARD.encode(context)});
        let theirs = kes.ask(&format!("key/encrypt/{name}"), body).await;
        let theirs = STANDARD.decode(theirs["ciphertext"].as_str().unwrap()).unwrap();
        let opened = kms.decrypt(&request(), &key(name), &theirs, context).await;
        assert!(opened.unwrap().expose() == plaintext, "we open, {name}");

        let described = kes.get(&format!("key/describe/{name}")).await;
        let info = kms.describe(&request(), &key(name)).await.unwrap();
        assert_eq!(described["created_by"], info.created_by, "{name}");
    }
    assert_eq!(kes.get("key/list/*").await["names"], json!(["ours", "theirs"]));
    assert_eq!(kes.status(Method::PUT, "key/create/ours").await, 400, "KES sees that ours is there");
    assert_eq!(kind(kms.create(&request(), &key("theirs")).await), Some(ErrorKind::AlreadyExists));

    // The secret has no value. KES reports no key then, and MinIO creates another one.
    let bare = json!({"Name": "bare", "ClientRequestToken": "1".repeat(32)});
    aws.ask_secrets("CreateSecret", bare).await;
    assert_eq!(kes.status(Method::PUT, "key/generate/bare").await, 404);
    assert_eq!(kind(kms.generate(&request(), &key("bare"), b"").await), Some(ErrorKind::Corrupt));

    // A delete of one server takes effect for the other one.
    assert_eq!(kes.status(Method::DELETE, "key/delete/ours").await, 200);
    let gone = kms.store().get(&EntryName::from(&key("ours"))).await;
    assert_eq!(kind(gone), Some(ErrorKind::NotFound));
    assert_eq!(kes.status(Method::DELETE, "key/delete/ours").await, 200, "KES deletes what is not there");
    kms.delete(&request(), &key("theirs")).await.unwrap();
    until("KES's cache lets go of it", async || kes.status(Method::GET, "key/describe/theirs").await == 404)
        .await;
}
