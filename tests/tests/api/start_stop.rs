//! How a server starts, refuses to start and stops.

use std::time::{Duration, Instant};

use kms_server::Bounds;
use kms_tests::faults::FaultyStore;
use kms_tests::{Protocol, TestIdentity, TestServer, TestServerBuilder};

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_answers_what_it_has_begun() {
    let store = FaultyStore::new();
    let bounds = Bounds { close: Duration::from_millis(300), ..Bounds::default() };
    let mut server = TestServer::builder().store(store.clone()).bounds(bounds).start().await;
    let mut idle = Vec::new();
    let mut running = Vec::new();
    for protocol in Protocol::ALL {
        let mut client = server.admin(protocol);
        assert_eq!(client.send("GET", "/version", "").await.unwrap().code(), 200);
        idle.push(client);
        let mut client = server.admin(protocol);
        client.connect().await.unwrap();
        running.push((client, format!("/v1/key/create/{protocol:?}")));
    }
    store.hang();
    let running: Vec<_> = running
        .into_iter()
        .map(|(mut client, path)| tokio::spawn(async move { client.send("PUT", &path, "").await }))
        .collect();
    store.wait_for_waiting(2).await;
    let begun = Instant::now();
    server.begin_stop();
    for client in idle {
        while client.is_connected() {
            assert!(begun.elapsed() < Duration::from_secs(3), "an idle connection is kept");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let late = server.admin(Protocol::Http1).send("GET", "/version", "").await;
    assert!(late.is_err(), "{late:?}");
    // Longer than a connection without a request has to end.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!(running.iter().all(|request| !request.is_finished()));
    store.resume();
    for request in running {
        assert_eq!(request.await.unwrap().unwrap().code(), 200);
    }
    server.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_does_not_wait_for_ever() {
    let store = FaultyStore::new();
    let server =
        TestServer::builder().store(store.clone()).route_timeout(Duration::from_secs(60)).start().await;
    let mut client = server.admin(Protocol::Http1);
    client.connect().await.unwrap();
    store.hang();
    let request = tokio::spawn(async move { client.send("PUT", "/v1/key/create/a", "").await });
    store.wait_for_waiting(1).await;
    let begun = Instant::now();
    server.stop().await;
    assert!((9..13).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert!(request.await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_config_are_there() {
    let store = FaultyStore::new();
    for _ in 0..2 {
        // The second start finds the keys of the first.
        let server = TestServer::builder().store(store.clone()).key("one").key("two").start().await;
        let listed = server.admin(Protocol::Http1).send("GET", "/v1/key/list/*", "").await.unwrap();
        assert_eq!(listed.text(), "{\"names\":[\"one\",\"two\"]}\n");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_cannot_be_says_why_in_one_line() {
    let other_key = TestIdentity::new().key.unwrap();
    let cases: Vec<(&str, Box<dyn Fn(&mut TestServerBuilder)>, Vec<&str>)> = vec![
        (
            "no certificate file",
            Box::new(|builder| builder.settings.tls.cert = "/nowhere/server.crt".into()),
            vec!["/nowhere/server.crt", "no such file"],
        ),
        (
            "no key file",
            Box::new(|builder| builder.settings.tls.key = "/nowhere/server.key".into()),
            vec!["/nowhere/server.key", "no such file"],
        ),
        (
            "a certificate that is none",
            Box::new(|builder| std::fs::write(&builder.settings.tls.cert, "nothing").unwrap()),
            vec!["server.crt", "certificate", "PEM"],
        ),
        (
            "a key that is none",
            Box::new(|builder| std::fs::write(&builder.settings.tls.key, "nothing").unwrap()),
            vec!["server.key", "private key", "PEM"],
        ),
        (
            "the key of another certificate",
            Box::new(move |builder| {
                let der = other_key.secret_der();
                let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
                let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
                std::fs::write(&builder.settings.tls.key, pem).unwrap();
            }),
            vec!["server.key", "does not belong", "server.crt"],
        ),
        (
            "no CA file",
            Box::new(|builder| {
                builder.settings.tls.verify_clients = true;
                builder.settings.tls.ca = Some("/nowhere/ca.crt".into());
            }),
            vec!["/nowhere/ca.crt", "no such file"],
        ),
        (
            "an empty CA file",
            Box::new(|builder| {
                let ca = builder.path("ca.crt");
                std::fs::write(&ca, "").unwrap();
                builder.settings.tls.verify_clients = true;
                builder.settings.tls.ca = Some(ca);
            }),
            vec!["tls.ca", "ca.crt", "it holds no certificate", "PEM"],
        ),
        (
            "an identity in two places",
            Box::new(|builder| {
                let policy = kms_server::settings::PolicySettings {
                    identities: vec![builder.settings.admin.unwrap()],
                    ..Default::default()
                };
                builder.settings.policies.insert("minio".to_owned(), policy);
            }),
            vec!["the admin", "policy 'minio'"],
        ),
    ];
    for (what, spoil, expected) in cases {
        let mut builder = TestServer::builder();
        spoil(&mut builder);
        let error =
            builder.try_start().await.err().unwrap_or_else(|| panic!("{what}: it started")).to_string();
        assert!(!error.contains('\n'), "{what}: {error}");
        for part in expected {
            assert!(error.contains(part), "{what}: {error}");
        }
    }
    let taken = TestServer::start().await;
    let mut second = TestServer::builder();
    second.settings.address = taken.address();
    let error = second.try_start().await.err().unwrap().to_string();
    assert!(error.contains(&taken.address().to_string()) && error.contains("in use"), "{error}");
}
