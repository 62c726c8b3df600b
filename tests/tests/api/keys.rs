//! Requests about keys beyond the recorded exchanges.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_core::KeyName;
use kms_core::store::EntryName;
use kms_tests::faults::FaultyStore;
use kms_tests::{Client, Protocol, TestIdentity, TestServer};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn a_dek_opens_only_with_its_key_and_context() {
    let server = TestServer::builder().key("a").key("b").start().await;
    for protocol in Protocol::ALL {
        let mut admin = server.admin(protocol);
        let context = STANDARD.encode(br#"{"bucket":"bucket/object"}"#);
        let dek =
            admin.send("POST", "/v1/key/generate/a", format!("{{\"context\":\"{context}\"}}")).await.unwrap();
        let ciphertext = dek.member("ciphertext");
        let opened = decrypt(&mut admin, "a", &ciphertext, &context).await;
        assert_eq!(opened, (200, format!("{{\"plaintext\":\"{}\"}}\n", dek.member("plaintext"))));
        let refused = (400, "{\"message\":\"decryption failed: ciphertext is not authentic\"\n}".to_owned());
        assert_eq!(decrypt(&mut admin, "b", &ciphertext, &context).await, refused);
        assert_eq!(decrypt(&mut admin, "a", &ciphertext, "").await, refused);
        assert_eq!(decrypt(&mut admin, "a", &ciphertext[4..], &context).await, refused);
        let again = admin.send("POST", "/v1/key/generate/a", "{}").await.unwrap();
        assert_ne!(again.member("plaintext"), dek.member("plaintext"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_ciphertexts_of_kes_open_and_changed_ones_do_not() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../../kms-core/tests/vectors/ciphertexts.json")).unwrap();
    let server = TestServer::start().await;
    let mut admin = server.admin(Protocol::Http2);
    let mut imported = HashMap::new();
    let good = vectors["ciphertexts"].as_array().unwrap().iter().filter(|case| case["form"] == 1);
    let bad = vectors["negative"].as_array().unwrap().iter().filter(|case| {
        let what = case["case"].as_str().unwrap();
        what.starts_with("raw ")
    });
    let (mut opened, mut refused) = (0, 0);
    for case in good.chain(bad) {
        let text = |name: &str| case[name].as_str().unwrap_or_default();
        // In some cases one name stands for different keys.
        let next = imported.len();
        let identity = (text("key_hex").to_owned(), text("algorithm").to_owned());
        let key = *imported.entry(identity).or_insert(next);
        if key == next {
            let bytes = STANDARD.encode(hex::decode(text("key_hex")).unwrap());
            let body = format!("{{\"key\":\"{bytes}\",\"cipher\":\"{}\"}}", text("algorithm"));
            let answer = admin.send("PUT", &format!("/v1/key/import/key-{key}"), body).await.unwrap();
            assert_eq!(answer.code(), 200, "{}", answer.text());
        }
        let answer =
            decrypt(&mut admin, &format!("key-{key}"), text("ciphertext_b64"), text("context_b64")).await;
        if case["form"] == 1 {
            assert_eq!(answer, (200, format!("{{\"plaintext\":\"{}\"}}\n", text("plaintext_b64"))), "{case}");
            opened += 1;
        } else {
            let message = format!("{{\"message\":\"{}\"\n}}", text("message"));
            assert_eq!(answer, (400, message), "{case}");
            refused += 1;
        }
    }
    assert_eq!((opened, refused), (101, 60));
}

#[tokio::test(flavor = "multi_thread")]
async fn macs_are_those_of_kes() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../../kms-core/tests/vectors/hmac.json")).unwrap();
    let store = FaultyStore::new();
    let server = TestServer::builder().store(store.clone()).start().await;
    let mut admin = server.admin(Protocol::Http1);
    let cases = vectors["cases"].as_array().unwrap();
    for (number, case) in cases.iter().enumerate() {
        let name = format!("key-{number}");
        let record = case["record"].as_str().unwrap().as_bytes();
        store.put(&EntryName::from(&KeyName::new(name.as_str()).unwrap()), record).await;
        let body = format!("{{\"message\":\"{}\"}}", case["message_b64"].as_str().unwrap());
        let answer = admin.send("PUT", &format!("/v1/key/hmac/{name}"), body).await.unwrap();
        if let Some(mac) = case["hmac_b64"].as_str() {
            assert_eq!(
                (answer.code(), answer.text()),
                (200, format!("{{\"hmac\":\"{mac}\"}}\n").as_str()),
                "{case}"
            );
        } else {
            let expected = format!("{{\"message\":\"{}\"\n}}", case["message"].as_str().unwrap());
            assert_eq!((answer.code(), answer.text()), (409, expected.as_str()));
        }
    }
    assert!(cases.len() > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_of_2020_are_taken() {
    let server = TestServer::start().await;
    let mut admin = server.admin(Protocol::Http1);
    let bytes = STANDARD.encode([7; 32]);
    let answer =
        admin.send("POST", "/v1/key/import/old", format!("{{\"bytes\":\"{bytes}\"}}")).await.unwrap();
    assert_eq!((answer.code(), answer.text()), (200, ""));
    let short = admin.send("POST", "/v1/key/import/short", "{\"bytes\":\"AAAA\"}").await.unwrap();
    assert_eq!(short.code(), 406, "{}", short.text());
    // An import of the same bytes in today's form opens what the old form sealed.
    let cipher = admin.send("GET", "/v1/key/describe/old", "").await.unwrap().member("algorithm");
    let body = format!("{{\"key\":\"{bytes}\",\"cipher\":\"{cipher}\"}}");
    assert_eq!(admin.send("POST", "/v1/key/import/new", body).await.unwrap().code(), 200);
    let dek = admin.send("POST", "/v1/key/generate/old", "").await.unwrap();
    let opened = decrypt(&mut admin, "new", &dek.member("ciphertext"), "").await;
    assert_eq!(opened, (200, format!("{{\"plaintext\":\"{}\"}}\n", dek.member("plaintext"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_are_whole_and_stay_inside_their_policy() {
    let store = FaultyStore::new();
    for number in 0..2500 {
        let name = EntryName::from(&KeyName::new(format!("my-{number:04}")).unwrap());
        store.put(&name, b"never read").await;
    }
    for name in ["a", "my", "mz", "_a"] {
        store.put(&EntryName::from(&KeyName::new(name).unwrap()), b"never read").await;
    }
    let lister = TestIdentity::new();
    let server = TestServer::builder()
        .store(store)
        .policy("lister", &["/v1/key/list/my-*"], &[], &[lister.identity()])
        .start()
        .await;
    let mut client = server.client(Protocol::Http2, &lister);
    for first in ["my-*", "my-"] {
        let mut pattern = first.to_owned();
        let (mut names, mut pages) = (Vec::new(), 0);
        loop {
            let answer = client.send("GET", &format!("/v1/key/list/{pattern}"), "").await.unwrap();
            assert_eq!(answer.code(), 200, "{pattern}: {}", answer.text());
            let page: Value = serde_json::from_slice(&answer.body).unwrap();
            names.extend(
                page["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()),
            );
            pages += 1;
            match page.get("continue_at") {
                None => break,
                Some(next) => next.as_str().unwrap().clone_into(&mut pattern),
            }
        }
        let expected: Vec<_> = (0..2500).map(|number| format!("my-{number:04}")).collect();
        assert_eq!((names, pages), (expected, 3));
    }
    let mut admin = server.admin(Protocol::Http2);
    for (pattern, status, body) in [
        ("_*", 200, "{\"names\":[\"_a\"]}\n"),
        ("m*", 200, ""),
        ("a", 200, "{\"names\":[\"a\"]}\n"),
        ("~my-2499", 200, "{\"names\":[\"mz\"]}\n"),
        ("my-~my-2499", 200, "{\"names\":[]}\n"),
        ("nothing*", 200, "{\"names\":[]}\n"),
        ("~", 400, ""),
        ("my-~", 400, ""),
        ("my-~my-1~my-2", 400, ""),
        ("my-~bad.name", 400, ""),
        ("*my", 400, ""),
        ("my-**", 400, ""),
        ("%F0%9F%98%80", 400, ""),
    ] {
        let answer = admin.send("GET", &format!("/v1/key/list/{pattern}"), "").await.unwrap();
        assert_eq!(answer.code(), status, "{pattern}: {}", answer.text());
        assert!(body.is_empty() || answer.text() == body, "{pattern}: {}", answer.text());
    }
    assert_eq!(client.send("GET", "/v1/key/list/mz~my-0001", "").await.unwrap().code(), 403);
}

async fn decrypt(client: &mut Client, key: &str, ciphertext: &str, context: &str) -> (u16, String) {
    let body = format!("{{\"ciphertext\":\"{ciphertext}\",\"context\":\"{context}\"}}");
    let answer = client.send("POST", &format!("/v1/key/decrypt/{key}"), body).await.unwrap();
    (answer.code(), answer.text().to_owned())
}
