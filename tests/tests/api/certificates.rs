//! Certificates and the handshake decide which identity a client has.

use std::sync::Arc;
use std::time::Duration;

use kms_core::Identity;
use kms_tests::client::tls_connect;
use kms_tests::{Client, Protocol, TestIdentity, TestServer};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{CipherSuite, HandshakeKind, ProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test(flavor = "multi_thread")]
async fn the_identity_is_that_of_the_key_that_was_proven() {
    let vectors: Value = serde_json::from_str(include_str!("../../vectors/apikeys.json")).unwrap();
    let cases = vectors["certificates"].as_array().unwrap();
    let mut known: Vec<_> =
        cases.iter().filter_map(|case| Identity::from_hex(case["identity"].as_str()?)).collect();
    known.sort_unstable();
    known.dedup();
    let server = TestServer::builder().policy("known", &["/v1/status"], &[], &known).start().await;
    for case in cases {
        let key = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            case["private_key_pkcs8_der_b64"].as_str().unwrap(),
        );
        let identity =
            TestIdentity::from_pem_and_der(case["certificate_pem"].as_str().unwrap(), &key.unwrap());
        for protocol in Protocol::ALL {
            let mut client = server.client(protocol, &identity);
            assert_eq!(client.send("GET", "/version", "").await.unwrap().code(), 200, "{}", case["case"]);
            let answer = client.send("GET", "/v1/status", "").await.unwrap();
            if case["identity"].is_string() {
                // The policy has exactly the identities that are expected.
                assert_eq!(answer.code(), 200, "{}: {}", case["case"], answer.text());
                continue;
            }
            let forged = case["kes_0_24"]["identity_taken"].is_string();
            let expected = if forged {
                "{\"message\":\"tls: client certificate is required\"\n}"
            } else {
                case["kes_0_24"]["body"].as_str().unwrap()
            };
            assert_eq!((answer.code(), answer.text()), (400, expected), "{}", case["case"]);
        }
    }
    assert_eq!(cases.len(), 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_of_another_borrows_nothing() {
    let victim = TestIdentity::new();
    let server = TestServer::builder().policy("victim", &["/v1/*"], &[], &[victim.identity()]).start().await;
    let own_ca = authority();
    let (own, own_key) = signed_by(&own_ca, |_| {});
    let (ca_der, ca_key) =
        (own_ca.0.clone(), PrivatePkcs8KeyDer::from(own_ca.1.key().serialize_der()).into());
    let forgeries = [
        ("a CA of its own first", vec![ca_der, victim.chain[0].clone()], ca_key),
        ("the certificate of another second", vec![own, victim.chain[0].clone()], own_key),
    ];
    for (what, chain, key) in forgeries {
        let forger = TestIdentity { chain, key: Some(key) };
        for protocol in Protocol::ALL {
            let answer = server.client(protocol, &forger).send("GET", "/v1/status", "").await.unwrap();
            assert_eq!(answer.code(), 400, "{what}: {}", answer.text());
        }
    }
    let thief = TestIdentity { chain: victim.chain.clone(), key: TestIdentity::new().key };
    let config = std::panic::catch_unwind(|| thief.client_config(&["h2"]));
    assert!(config.is_err(), "a client library lets nobody present a certificate without its key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_sees_ours_and_is_refused() {
    let server = TestServer::start().await;
    let config = Arc::new(TestIdentity::none().client_config(&["http/1.1"]));
    let mut tls = tls_connect(server.address(), config).await.unwrap();
    assert!(tls.get_ref().1.peer_certificates().is_some_and(|chain| chain.len() == 1));
    let _ = tls.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let error = tls.read_to_end(&mut Vec::new()).await.unwrap_err().to_string();
    assert!(error.contains("CertificateRequired"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_use_the_cheapest_strong_suite_and_are_resumed() {
    let server = TestServer::start().await;
    // The client prefers AES-256, as OpenSSL does. The order of the server decides.
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_256_GCM_SHA384);
    let config = Arc::new(server.admin_identity().client_config(&["http/1.1"]));
    for (connection, kind) in [(1, HandshakeKind::Full), (2, HandshakeKind::Resumed)] {
        let mut tls = tls_connect(server.address(), Arc::clone(&config)).await.unwrap();
        tls.write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        tls.read_to_end(&mut answer).await.unwrap();
        assert!(
            answer.starts_with(b"HTTP/1.1 200 OK"),
            "connection {connection}: the identity is that of before"
        );
        let session = tls.get_ref().1;
        assert_eq!(session.handshake_kind(), Some(kind));
        assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        let suite = session.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verified_clients_need_a_chain_to_the_ca_and_the_right_usage() {
    let ca = authority();
    let pem = pem_of(&ca.0);
    let cases: Vec<(&str, TestIdentity, bool)> = vec![
        (
            "signed, for clients",
            signed(&ca, |params| usage(params, &[ExtendedKeyUsagePurpose::ClientAuth])),
            true,
        ),
        ("signed, without extended key usage", signed(&ca, |_| {}), true),
        (
            "signed, for both",
            signed(&ca, |params| {
                usage(params, &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]);
            }),
            true,
        ),
        (
            "signed, for servers only",
            signed(&ca, |params| usage(params, &[ExtendedKeyUsagePurpose::ServerAuth])),
            false,
        ),
        ("signed, expired", signed(&ca, |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1)), false),
        ("signed by another CA", signed(&authority(), |_| {}), false),
        ("self-signed", TestIdentity::new(), false),
    ];
    let known: Vec<_> = cases.iter().map(|(_, identity, _)| identity.identity()).collect();
    let verified = TestServer::builder().verify_clients(&pem).policy("known", &["/v1/status"], &[], &known);
    let verified = verified.start().await;
    let lenient = TestServer::builder().policy("known", &["/v1/status"], &[], &known).start().await;
    for (what, identity, accepted) in &cases {
        for protocol in Protocol::ALL {
            let answer = verified.client(protocol, identity).send("GET", "/v1/status", "").await;
            let code = answer.as_ref().map(kms_tests::Answer::code).ok();
            assert_eq!(code, accepted.then_some(200), "{what}: {answer:?}");
            let answer = lenient.client(protocol, identity).send("GET", "/v1/status", "").await.unwrap();
            assert_eq!(answer.code(), 200, "{what}: only the key counts where nobody is verified");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_2_will_do() {
    let server = TestServer::start().await;
    let admin = server.admin_identity();
    let config = rustls::ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS12])
        .dangerous()
        .with_custom_certificate_verifier(TestIdentity::any_server())
        .with_client_auth_cert(admin.chain.clone(), admin.key.as_ref().unwrap().clone_key())
        .unwrap();
    let mut tls = tls_connect(server.address(), Arc::new(config)).await.unwrap();
    assert_eq!(tls.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    tls.write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_gets_no_answer_and_hurts_nobody() {
    let server = TestServer::start().await;
    let mut tcp = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    tcp.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), tcp.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection is closed");
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    let mut good: Client = server.admin(Protocol::Http2);
    assert_eq!(good.send("GET", "/version", "").await.unwrap().code(), 200);
}

pub type Authority = (CertificateDer<'static>, Issuer<'static, KeyPair>);

pub fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "test CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = params.self_signed(&key).unwrap().der().clone();
    (certificate, Issuer::new(params, key))
}

fn signed_by(
    ca: &Authority,
    change: impl FnOnce(&mut CertificateParams),
) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "client");
    params.is_ca = IsCa::ExplicitNoCa;
    change(&mut params);
    let certificate = params.signed_by(&key, &ca.1).unwrap().der().clone();
    (certificate, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
}

pub fn signed(ca: &Authority, change: impl FnOnce(&mut CertificateParams)) -> TestIdentity {
    let (certificate, key) = signed_by(ca, change);
    TestIdentity { chain: vec![certificate], key: Some(key) }
}

fn usage(params: &mut CertificateParams, usages: &[ExtendedKeyUsagePurpose]) {
    params.extended_key_usages = usages.to_vec();
}

pub fn pem_of(certificate: &CertificateDer<'_>) -> String {
    let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, certificate);
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}
