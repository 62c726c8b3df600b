//! An AWS that is not available, slow, throttling or answers nonsense, as clients see it.

use std::time::{Duration, Instant};

use kms_tests::{Client, Protocol, TestServer};

use kms_tests::localstack::{Aws, Fault, LocalStack};
use kms_tests::programs::until;

const TIMEOUT: Duration = Duration::from_secs(6);

async fn ask(client: &mut Client, method: &str, path: &str, body: String) -> (u16, String) {
    let answer = client.send(method, path, body).await.unwrap();
    (answer.code(), answer.text().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_get_an_answer_whatever_aws_does() {
    let aws = Aws::start().await;
    let server = TestServer::builder().kms(aws.open().await).route_timeout(TIMEOUT).start().await;
    let mut client = server.admin(Protocol::Http2);
    for name in ["cached", "uncached"] {
        assert_eq!(ask(&mut client, "PUT", &format!("/v1/key/create/{name}"), String::new()).await.0, 200);
    }
    let generated = client.send("PUT", "/v1/key/generate/cached", "").await.unwrap();
    let body = format!(r#"{{"ciphertext":"{}"}}"#, generated.member("ciphertext"));
    for fault in [
        Fault::Reset,
        Fault::Drop,
        Fault::Error(400, "ThrottlingException"),
        Fault::Error(500, "KMSInternalException"),
        Fault::Garbage(b"<html>"),
        Fault::Garbage(b"{}"),
    ] {
        aws.fail(fault.clone());
        for path in ["/v1/key/generate/cached", "/v1/key/decrypt/cached"] {
            let body = if path.contains("decrypt") { body.clone() } else { String::new() };
            let began = Instant::now();
            let (code, text) = ask(&mut client, "PUT", path, body).await;
            assert_eq!(code, 200, "{fault:?}, {path}: {text}");
            assert!(began.elapsed() < Duration::from_secs(1), "{fault:?}, {path}: {:?}", began.elapsed());
        }
        for (method, path) in [
            ("PUT", "/v1/key/generate/uncached"),
            ("PUT", "/v1/key/generate/unknown"),
            ("PUT", "/v1/key/create/unknown"),
            ("PUT", "/v1/key/hmac/cached"),
        ] {
            let body = if path.contains("hmac") { r#"{"message":"bQ=="}"# } else { "" };
            let began = Instant::now();
            let (code, text) = ask(&mut client, method, path, body.to_owned()).await;
            assert!((502..=504).contains(&code), "{fault:?}, {path}: {code} {text}");
            assert!(began.elapsed() <= TIMEOUT, "{fault:?}, {path}: {:?}", began.elapsed());
            assert!(!text.contains("told to fail"), "AWS's words are for the log: {text}");
        }
        aws.fail(Fault::None);
        let generate = async || {
            let mut client = server.admin(Protocol::Http1);
            ask(&mut client, "PUT", "/v1/key/generate/cached", String::new()).await.0 == 200
                && ask(&mut client, "GET", "/v1/key/describe/unknown", String::new()).await.0 == 404
        };
        until("AWS is back", generate).await;
    }
    assert_eq!(ask(&mut client, "PUT", "/v1/key/generate/uncached", String::new()).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_does_not_pile_up_requests() {
    let localstack = tokio::task::spawn_blocking(LocalStack::start).await.unwrap();
    let aws = Aws::before(localstack.endpoint()).await;
    let server = TestServer::builder().kms(aws.open().await).route_timeout(TIMEOUT).start().await;
    let mut client = server.admin(Protocol::Http2);
    assert_eq!(ask(&mut client, "PUT", "/v1/key/create/cached", String::new()).await.0, 200);
    assert_eq!(ask(&mut client, "PUT", "/v1/key/generate/cached", String::new()).await.0, 200);
    drop(localstack);
    let (code, text) = ask(&mut client, "PUT", "/v1/key/generate/first", String::new()).await;
    assert!(matches!(code, 502 | 504), "{code} {text}");
    aws.take_seen();
    aws.fail(Fault::Drop);
    let began = Instant::now();
    let clients: Vec<_> = (0..50)
        .map(|number| {
            let mut client = server.admin(Protocol::Http1);
            tokio::spawn(async move {
                ask(&mut client, "PUT", &format!("/v1/key/generate/other-{number}"), String::new()).await.0
            })
        })
        .collect();
    assert_eq!(ask(&mut client, "PUT", "/v1/key/generate/cached", String::new()).await.0, 200);
    for client in clients {
        let code = client.await.unwrap();
        assert!(matches!(code, 502 | 504), "{code}");
    }
    assert!(began.elapsed() < TIMEOUT, "{:?}", began.elapsed());
    assert!(aws.take_seen().len() <= 6, "one probe at a time");
}
