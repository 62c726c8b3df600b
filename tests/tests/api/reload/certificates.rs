//! Certificate files and CAs that change under a running server.

use std::fs;
use std::sync::Arc;

use kms_core::KeyRing;
use kms_core::store::MemoryStore;
use kms_server::Server;
use kms_tests::{Protocol, TestServer};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::super::certificates::{authority, pem_of, signed};
use super::server::{
    FILES_LOADED, GENERATE, LOADED, Reloaded, ends, server_certificate, until_closed, write_certificate,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_replaced_is_loaded_without_a_signal() {
    let server = tokio::task::block_in_place(Reloaded::start);
    let mut old = server.client(Protocol::Http2, &server.app);
    assert_eq!(old.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
    let before = server_certificate(&server).await;
    write_certificate(server.directory.path());
    server.until_told(FILES_LOADED, 1);
    let now = server_certificate(&server).await;
    assert_ne!(before, now);
    assert!(old.is_connected());
    assert_eq!(old.send("POST", GENERATE, "{}").await.unwrap().code(), 200);

    fs::write(server.file("server.crt"), "nonsense").unwrap();
    server.until_told("cannot be used, the old ones stay in force", 1);
    assert_eq!(server_certificate(&server).await, now);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_streams_end_when_other_cas_sign_clients() {
    let (old, new) = (authority(), authority());
    let ca = pem_of(&old.0);
    let server = tokio::task::block_in_place(|| {
        Reloaded::start_with(signed(&old, |_| {}), signed(&old, |_| {}), &[("ca.crt", &ca)], |server| {
            server.config("on", Some(&server.app)).replace("ca = \"server.crt\"", "ca = \"ca.crt\"")
        })
    });
    let both = format!("{ca}{}", pem_of(&new.0));
    // The server accepts the clients after the first two changes and refuses them after the last. One change
    // comes with a signal.
    for (ca, accepted, by_signal) in
        [(&both, true, false), (&ca, true, true), (&pem_of(&new.0), false, false)]
    {
        let mut streams = Vec::new();
        for protocol in Protocol::ALL {
            for path in ["/v1/log/audit", "/v1/log/error/trace"] {
                let mut client = server.client(protocol, &server.app);
                let body = client.open(path).await.unwrap().into_body();
                streams.push((client, body));
            }
        }
        let told = if by_signal { LOADED } else { FILES_LOADED };
        let before = server.log().matches(told).count();
        fs::write(server.file("ca.crt"), ca).unwrap();
        if by_signal {
            server.hang_up();
        }
        server.until_told(told, before + 1);
        for (client, body) in &mut streams {
            assert!(ends(body).await, "a log goes on under the old CAs");
            until_closed(client).await;
            let answer = client.send("POST", GENERATE, "{}").await;
            assert_eq!(
                answer.as_ref().map(kms_tests::Answer::code).ok(),
                accepted.then_some(200),
                "{answer:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_a_proxy_are_verified_by_the_cas_that_have_changed() {
    let (old, new) = (authority(), authority());
    let both = format!("{}{}", pem_of(&old.0), pem_of(&new.0));
    let proxy = signed(&new, |_| {});
    let server = tokio::task::block_in_place(|| {
        Reloaded::start_with(signed(&old, |_| {}), signed(&old, |_| {}), &[("ca.crt", &both)], |server| {
            let section = format!(
                "[tls.proxy]\nidentities = [\"{}\"]\nheader.cert = \"x-cert\"\n[policy.app]",
                proxy.identity()
            );
            let config = server.config("on", Some(&server.app)).replace("[policy.app]", &section);
            config.replace("ca = \"server.crt\"", "ca = \"ca.crt\"")
        })
    });
    let certificate = utf8_percent_encode(&server.app.certificate_pem(), NON_ALPHANUMERIC).to_string();
    let headers = [("x-cert", certificate.as_str())];
    let mut through = server.client(Protocol::Http2, &proxy);
    assert_eq!(through.send_with("POST", GENERATE, &headers, "{}").await.unwrap().code(), 200);
    fs::write(server.file("ca.crt"), pem_of(&new.0)).unwrap();
    server.until_told(FILES_LOADED, 1);
    until_closed(&through).await;
    let answer = through.send_with("POST", GENERATE, &headers, "{}").await.unwrap();
    assert_eq!(answer.code(), 400, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_roots_of_the_system_are_seen() {
    let (old, new) = (authority(), authority());
    let server = tokio::task::block_in_place(|| {
        let roots = pem_of(&old.0);
        Reloaded::start_with(signed(&old, |_| {}), signed(&new, |_| {}), &[("roots.pem", &roots)], |server| {
            server.config("on", Some(&server.app)).replace("ca = \"server.crt\"\n", "")
        })
    });
    let mut of_old = server.client(Protocol::Http2, &server.admin);
    let mut of_new = server.client(Protocol::Http2, &server.app);
    assert_eq!(of_old.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
    assert!(of_new.send("POST", GENERATE, "{}").await.is_err());
    fs::write(server.file("roots.pem"), pem_of(&new.0)).unwrap();
    server.until_told(FILES_LOADED, 1);
    until_closed(&of_old).await;
    assert!(of_old.send("POST", GENERATE, "{}").await.is_err(), "its CA is no root any more");
    assert_eq!(of_new.send("POST", GENERATE, "{}").await.unwrap().code(), 200);

    // A signal makes the server read the files before its next look at them.
    fs::write(server.file("roots.pem"), format!("{}{}", pem_of(&old.0), pem_of(&new.0))).unwrap();
    server.hang_up();
    server.until_told(LOADED, 1);
    assert_eq!(of_old.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn cas_that_are_replaced_while_the_server_starts_are_seen() {
    let builder = TestServer::builder().verify_clients(&pem_of(&authority().0));
    let ca = builder.settings.tls.ca.clone().unwrap();
    let kms = Arc::new(KeyRing::new(MemoryStore::new(), builder.settings.cache));
    let server = Server::with_kms(builder.settings, kms).await.unwrap();
    fs::write(ca, pem_of(&authority().0)).unwrap();
    let reloader = server.listen().await.unwrap().reloader();
    assert!(matches!(reloader.reload_certificates().await, Some(Ok(()))));
    assert!(reloader.reload_certificates().await.is_none(), "they are seen once");
}
