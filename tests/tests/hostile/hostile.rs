//! A server with thousands of idle connections and all kinds of bad clients at once.
//!
//! A good client gets its answers in a second, and the memory of the server stays small.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_tests::client::{Then, body_in_parts, tls_connect};
use kms_tests::process::DevServer;
use kms_tests::{Client, Protocol, TestIdentity};
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const IDLE_CONNECTIONS: usize = 5_000;
/// How many waves of bad clients there are.
const WAVES: usize = 10;
const MAX_RESIDENT_MIB: u64 = 150;
/// How long a bad client pauses between attempts. The bad clients use the same CPUs, and their speed is not the
/// subject.
const PAUSE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_client_is_served_among_thousands_of_bad_ones() {
    let _alone = crate::ALONE.lock().await;
    let files = kms_server::host::process::raise_file_limit();
    assert!(files > IDLE_CONNECTIONS as u64 + 1_000, "{files} open files are too few for this test");
    let server = DevServer::start();
    let mut good: Vec<_> = Protocol::ALL.into_iter().map(|protocol| server.admin(protocol)).collect();
    assert_eq!(good[0].send("PUT", "/v1/key/create/a", "").await.unwrap().code(), 200);

    let _idle = idle_connections(&server).await;
    let mut resident = server.resident_mib();
    println!("{resident} MiB resident with idle connections");
    assert_served(&server, &mut good).await;

    let mut bad = JoinSet::new();
    let (address, admin) = (server.address(), server.admin_identity());
    let http1 = Arc::new(admin.client_config(&["http/1.1"]));
    let http2 = Arc::new(admin.client_config(&["h2"]));
    // The clients do not come all at once. Otherwise the good client would wait for their handshakes on the
    // same CPUs.
    for _ in 0..WAVES {
        for _ in 0..200 / WAVES {
            bad.spawn(half_open_handshake(address));
            bad.spawn(slow_head(address, Arc::clone(&http1), b"GET /version HTTP/1.1\r\nx: ".to_vec()));
            bad.spawn(slow_head(
                address,
                Arc::clone(&http2),
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x01".to_vec(),
            ));
        }
        for _ in 0..50 / WAVES {
            bad.spawn(never_ending_body(Client::new(address, Protocol::Http1, admin)));
            bad.spawn(never_ending_body(Client::new(address, Protocol::Http2, admin)));
            bad.spawn(never_reading(address, Arc::clone(&http1)));
        }
        bad.spawn(resets(address, Arc::clone(&http2)));
        assert_served(&server, &mut good).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        assert_served(&server, &mut good).await;
        resident = resident.max(server.resident_mib());
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    bad.abort_all();
    assert!(resident < MAX_RESIDENT_MIB, "{resident} MiB resident");
    println!("{resident} MiB resident at most");
}

/// Sends requests on existing and on new connections and checks how long they take.
async fn assert_served(server: &DevServer, good: &mut [Client]) {
    for client in good {
        let begun = Instant::now();
        let answer = client.send("POST", "/v1/key/generate/a", "{}").await.unwrap();
        assert_eq!(answer.code(), 200);
        assert!(begun.elapsed() < PATIENCE, "on an old connection: {:?}", begun.elapsed());
    }
    let begun = Instant::now();
    let answer = server.admin(Protocol::Http2).send("POST", "/v1/key/generate/a", "{}").await.unwrap();
    assert_eq!(answer.code(), 200);
    assert!(begun.elapsed() < PATIENCE, "on a new connection: {:?}", begun.elapsed());
}

/// Opens connections that send one request each and then stay open.
async fn idle_connections(server: &DevServer) -> Vec<tokio_rustls::client::TlsStream<TcpStream>> {
    let config = TestIdentity::new().client_config(&["http/1.1"]);
    let (config, address) = (Arc::new(config), server.address());
    let mut opening = JoinSet::new();
    let mut idle = Vec::with_capacity(IDLE_CONNECTIONS);
    for _ in 0..IDLE_CONNECTIONS {
        let config = Arc::clone(&config);
        opening.spawn(async move {
            let mut tls = tls_connect(address, config).await.unwrap();
            tls.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let mut answer = [0; 512];
            assert!(tls.read(&mut answer).await.unwrap() > 0);
            tls
        });
        if opening.len() >= 32 {
            idle.push(opening.join_next().await.unwrap().unwrap());
        }
    }
    while let Some(tls) = opening.join_next().await {
        idle.push(tls.unwrap());
    }
    idle
}

async fn half_open_handshake(address: SocketAddr) {
    loop {
        let Ok(mut tcp) = TcpStream::connect(address).await else { return };
        let _ = tcp.write_all(&[0x16, 3, 1, 2, 0, 1]).await;
        let _ = tcp.read(&mut [0; 64]).await;
    }
}

async fn slow_head(address: SocketAddr, config: Arc<ClientConfig>, start: Vec<u8>) {
    loop {
        let Ok(mut tls) = tls_connect(address, Arc::clone(&config)).await else { return };
        let _ = tls.write_all(&start).await;
        while tls.write_all(b"y").await.and(tls.flush().await).is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

async fn never_ending_body(mut client: Client) {
    loop {
        let body = body_in_parts([vec![b' '; 900_000]], Then::Silence);
        let _ = client.send_body("PUT", "/v1/key/encrypt/a", &[], body).await;
        let body = body_in_parts([vec![b' '; 4_000]], Then::Again);
        let _ = client.send_body("PUT", "/v1/key/encrypt/a", &[], body).await;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn never_reading(address: SocketAddr, config: Arc<ClientConfig>) {
    let body = format!("{{\"plaintext\":\"{}\"}}", "A".repeat(400_000));
    let request =
        format!("PUT /v1/key/encrypt/a HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    loop {
        let Ok(mut tls) = tls_connect(address, Arc::clone(&config)).await else { return };
        while tls.write_all(request.as_bytes()).await.is_ok() {}
        tokio::time::sleep(PAUSE).await;
    }
}

async fn resets(address: SocketAddr, config: Arc<ClientConfig>) {
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for number in 0..5_000u32 {
        let stream = (2 * number + 1).to_be_bytes();
        flood.extend_from_slice(&[0, 0, 3, 1, 5]);
        flood.extend_from_slice(&stream);
        flood.extend_from_slice(&[0x82, 0x87, 0x84, 0, 0, 4, 3, 0]);
        flood.extend_from_slice(&stream);
        flood.extend_from_slice(&[0, 0, 0, 8]);
    }
    loop {
        let Ok(mut tls) = tls_connect(address, Arc::clone(&config)).await else { return };
        let _ = tls.write_all(&flood).await;
        let _ = tls.read(&mut [0; 1024]).await;
        tokio::time::sleep(PAUSE).await;
    }
}
