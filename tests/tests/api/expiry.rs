//! Client certificates expire during sessions, connections, requests and log streams.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use kms_server::settings::ProxySettings;
use kms_tests::client::tls_connect;
use kms_tests::faults::FaultyStore;
use kms_tests::{Client, Protocol, TestIdentity, TestServer};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, HandshakeKind, SignatureScheme, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::certificates::{Authority, authority, pem_of, signed};

/// How long the certificates are valid. A test does its preparations in this time.
const VALID: Duration = Duration::from_secs(5);

/// How long the server may take to notice the end.
const PATIENCE: Duration = Duration::from_secs(8);

fn valid_for(ca: &Authority, validity: Duration) -> TestIdentity {
    signed(ca, |params| params.not_after = (SystemTime::now() + validity).into())
}

/// A resolver that presents the certificate it was given last.
#[derive(Debug)]
struct Renewed(Mutex<Arc<CertifiedKey>>);

impl Renewed {
    fn key(identity: &TestIdentity) -> Arc<CertifiedKey> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = identity.key.as_ref().unwrap().clone_key();
        Arc::new(CertifiedKey::from_der(identity.chain.clone(), key, &provider).unwrap())
    }
}

impl ResolvesClientCert for Renewed {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.lock().unwrap()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Asks for the status on a new connection, and returns the kind of handshake and the status line.
async fn ask(server: &TestServer, config: &Arc<ClientConfig>) -> io::Result<(HandshakeKind, String)> {
    let mut tls = tls_connect(server.address(), Arc::clone(config)).await?;
    tls.write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer).await?;
    let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    Ok((tls.get_ref().1.handshake_kind().unwrap(), line))
}

async fn resumption_ends(version: &'static SupportedProtocolVersion) {
    let ca = authority();
    let (old, new) = (valid_for(&ca, VALID), signed(&ca, |_| {}));
    let identities = [old.identity(), new.identity()];
    let server =
        TestServer::builder().verify_clients(&pem_of(&ca.0)).policy("app", &["/v1/status"], &[], &identities);
    let server = server.start().await;
    let certificate = Arc::new(Renewed(Mutex::new(Renewed::key(&old))));
    let config = Arc::new(
        ClientConfig::builder_with_protocol_versions(&[version])
            .dangerous()
            .with_custom_certificate_verifier(TestIdentity::any_server())
            .with_client_cert_resolver(Arc::clone(&certificate) as _),
    );
    let ok = "HTTP/1.1 200 OK".to_owned();
    assert_eq!(ask(&server, &config).await.unwrap(), (HandshakeKind::Full, ok.clone()));
    for _ in 0..2 {
        assert_eq!(ask(&server, &config).await.unwrap(), (HandshakeKind::Resumed, ok.clone()));
    }
    tokio::time::sleep(VALID + Duration::from_secs(1)).await;
    for _ in 0..2 {
        let refused = ask(&server, &config).await.unwrap_err().to_string();
        assert!(refused.contains("CertificateExpired"), "{refused}");
    }
    *certificate.0.lock().unwrap() = Renewed::key(&new);
    // Old tickets do not lock out a client with a renewed certificate.
    let (_, line) = ask(&server, &config).await.unwrap();
    assert_eq!(line, ok);
    assert_eq!(ask(&server, &config).await.unwrap(), (HandshakeKind::Resumed, ok));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_is_resumed_with_a_certificate_that_has_expired() {
    tokio::join!(resumption_ends(&rustls::version::TLS13), resumption_ends(&rustls::version::TLS12));
}

/// Waits for the end of a body; `None` if it does not end in time.
async fn end_of(body: &mut Incoming) -> Option<()> {
    let rest = async {
        while let Some(frame) = body.frame().await {
            frame.unwrap();
        }
    };
    tokio::time::timeout(VALID + PATIENCE, rest).await.ok()
}

async fn until_closed(client: &Client) -> bool {
    let closed = async {
        while client.is_connected() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(VALID + PATIENCE, closed).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_log_streams_end_with_the_certificate_and_running_requests_are_answered() {
    let (ca, store) = (authority(), FaultyStore::new());
    let (short, lasting) = (valid_for(&ca, VALID), signed(&ca, |_| {}));
    let began = SystemTime::now();
    let allow = ["/v1/status", "/v1/log/*", "/v1/key/*"];
    let identities = [short.identity(), lasting.identity()];
    let server = TestServer::builder()
        .verify_clients(&pem_of(&ca.0))
        .policy("app", &allow, &[], &identities)
        .store(store.clone());
    let server = server.start().await;
    assert_eq!(
        server.client(Protocol::Http2, &lasting).send("PUT", "/v1/key/create/a", "").await.unwrap().code(),
        200
    );
    let mut of_short = Vec::new();
    for protocol in Protocol::ALL {
        let mut idle = server.client(protocol, &short);
        assert_eq!(idle.send("GET", "/v1/status", "").await.unwrap().code(), 200);
        let mut listener = server.client(protocol, &short);
        let log = listener.open("/v1/log/audit").await.unwrap().into_body();
        of_short.push((idle, listener, log));
    }
    let mut other = server.client(Protocol::Http2, &lasting);
    let mut other_log = other.open("/v1/log/audit").await.unwrap().into_body();
    store.hang();
    let running: Vec<_> = Protocol::ALL
        .map(|protocol| {
            let mut client = server.client(protocol, &short);
            // No cache has this name.
            tokio::spawn(async move { client.send("GET", "/v1/key/describe/b", "").await })
        })
        .into();
    for (idle, listener, log) in &mut of_short {
        assert!(end_of(log).await.is_some(), "a log goes on without a certificate");
        assert!(until_closed(idle).await, "a connection goes on without a certificate");
        assert!(until_closed(listener).await, "a connection goes on without a certificate");
        assert!(idle.send("GET", "/v1/status", "").await.is_err());
    }
    // Times in certificates are whole seconds.
    assert!(began.elapsed().unwrap() + Duration::from_secs(1) > VALID, "not before it ended");
    store.resume();
    for running in running {
        assert_eq!(running.await.unwrap().unwrap().code(), 404, "what had begun is answered");
    }
    assert!(other.is_connected());
    let next = tokio::time::timeout(Duration::from_millis(300), other_log.frame());
    assert!(!matches!(next.await, Ok(None)), "another client's log goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_is_verified_no_certificate_ends() {
    let (ca, validity) = (authority(), Duration::from_secs(2));
    let short = valid_for(&ca, validity);
    let server = TestServer::builder().policy("app", &["/v1/*"], &[], &[short.identity()]).start().await;
    let mut client = server.client(Protocol::Http2, &short);
    let mut log = client.open("/v1/log/error").await.unwrap().into_body();
    tokio::time::sleep(validity + Duration::from_secs(2)).await;
    assert!(client.is_connected());
    assert_eq!(client.send("GET", "/v1/status", "").await.unwrap().code(), 200);
    // Other servers of this process log errors as well.
    let next = tokio::time::timeout(Duration::from_millis(300), log.frame()).await;
    assert!(!matches!(next, Ok(None)), "the log goes on");
    client.disconnect();
    assert_eq!(client.send("GET", "/v1/status", "").await.unwrap().code(), 200);
}

/// Sends `GET /v1/status` on the HTTP/2 stream of this number.
async fn ask_on_stream(tls: &mut TlsStream<TcpStream>, stream: u32) -> io::Result<()> {
    let mut block = vec![0x82, 0x87, 0x04, 10];
    block.extend_from_slice(b"/v1/status");
    block.extend_from_slice(&[0x01, 1, b'x']);
    let mut frame = vec![0, 0, u8::try_from(block.len()).unwrap(), 1, 5];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(&block);
    tls.write_all(&frame).await
}

/// Reads frames up to the head of an answer and returns its first byte: 0x88 is 200, 0x8c is 400.
async fn status_byte(tls: &mut TlsStream<TcpStream>) -> io::Result<u8> {
    loop {
        let mut head = [0; 9];
        tls.read_exact(&mut head).await?;
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        tls.read_exact(&mut payload).await?;
        if head[3] == 1 {
            return Ok(payload[0]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_keeps_its_connection_from_ending_is_refused_and_cut_off() {
    let ca = authority();
    let short = valid_for(&ca, VALID);
    let bounds = kms_server::Bounds { close: Duration::from_secs(2), ..kms_server::Bounds::default() };
    let server = TestServer::builder()
        .verify_clients(&pem_of(&ca.0))
        .policy("app", &["/v1/status"], &[], &[short.identity()])
        .bounds(bounds)
        .route_timeout(Duration::from_secs(2))
        .start()
        .await;
    let config = Arc::new(short.client_config(&["h2"]));
    let mut tls = tls_connect(server.address(), config).await.unwrap();
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    ask_on_stream(&mut tls, 1).await.unwrap();
    assert_eq!(status_byte(&mut tls).await.unwrap(), 0x88);
    tokio::time::sleep(VALID).await;
    // The client ignores GOAWAY, does not answer the server's ping, and goes on with requests.
    let mut refused = 0;
    let cut_off = async {
        for number in 1.. {
            if ask_on_stream(&mut tls, 2 * number + 1).await.is_err() {
                return;
            }
            match status_byte(&mut tls).await {
                // This request may arrive before the server notices the end.
                Ok(0x88) if refused == 0 => {}
                Ok(0x8c) => refused += 1,
                Ok(other) => panic!("{other:x} on a connection whose certificate has ended"),
                Err(_) => return,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, cut_off).await.expect("the connection is cut off");
    assert!(refused > 0, "no request was refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_read_through_a_proxy_ends_with_the_certificate_of_its_reader() {
    const HEADER: &str = "x-tls-client-cert";
    let ca = authority();
    let (proxy, reader) = (signed(&ca, |_| {}), valid_for(&ca, VALID));
    let mut builder = TestServer::builder().verify_clients(&pem_of(&ca.0)).policy(
        "app",
        &["/v1/*"],
        &[],
        &[reader.identity()],
    );
    builder.settings.tls.proxy =
        Some(ProxySettings { identities: vec![proxy.identity()], cert_header: HEADER.to_owned() });
    let server = builder.start().await;
    let certificate = utf8_percent_encode(&reader.certificate_pem(), NON_ALPHANUMERIC).to_string();
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n{HEADER}: {certificate}\r\n\r\n");
    let config = Arc::new(proxy.client_config(&["http/1.1"]));
    let mut tls = tls_connect(server.address(), config).await.unwrap();
    tls.write_all(ask("/v1/log/audit").as_bytes()).await.unwrap();
    let ended = async {
        let mut answer = Vec::new();
        // An answer of unknown length ends with this chunk.
        while !answer.ends_with(b"\r\n0\r\n\r\n") {
            assert_ne!(tls.read_buf(&mut answer).await.unwrap(), 0, "the proxy's connection stays");
        }
        String::from_utf8(answer).unwrap()
    };
    let answer = tokio::time::timeout(VALID + PATIENCE, ended).await.expect("the log ends");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    tls.write_all(ask("/v1/status").as_bytes()).await.unwrap();
    let mut answer = vec![0; 1024];
    let len = tls.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..len]);
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}
