//! Many clients that may do nothing: what they cost, and that the server gives it back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kms_tests::client::tls_connect;
use kms_tests::process::DevServer;
use kms_tests::{Client, Protocol, TestIdentity};
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const CONNECTIONS: usize = 400;
const STREAMS: u32 = 256;
/// The length of a field value. With its name and HTTP/2's count for each field, the head is just below 16
/// kB.
const HEAD: usize = 15_900;
const MAX_RESIDENT_MIB: u64 = 300;
const MAX_LEFT_MIB: u64 = 100;
/// The bound of the good client's 99th percentile. It waits for the handshakes of bad clients on the same two
/// CPUs.
const MAX_P99: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_with_large_heads_and_unended_bodies_cost_little() {
    let _alone = crate::ALONE.lock().await;
    let server = DevServer::start();
    let mut admin = server.admin(Protocol::Http2);
    assert_eq!(admin.send("PUT", "/v1/key/create/a", "").await.unwrap().code(), 200);
    let before = server.resident_mib();
    let ends = Arc::new(AtomicBool::new(false));
    let good = good_client(&server, Arc::clone(&ends));

    let config = Arc::new(TestIdentity::new().client_config(&["h2"]));
    let flood: Arc<[u8]> = flood().into();
    let mut bad = JoinSet::new();
    for number in 0..CONNECTIONS {
        bad.spawn(unended(server.address(), Arc::clone(&config), Arc::clone(&flood), number % 2 == 0));
        // The clients do not come all at once. Otherwise the good client would wait for their handshakes on
        // the same CPUs.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let most = server.most_resident_mib();
    ends.store(true, Ordering::Relaxed);
    let mut times = good.join().unwrap();
    bad.abort_all();
    while bad.join_next().await.is_some() {}
    times.sort_unstable();
    let p99 = times[times.len() * 99 / 100];
    println!("{before} MiB before, {most} at most; {} requests, p99 {p99:?}", times.len());
    assert!(most < MAX_RESIDENT_MIB, "{most} MiB resident");
    assert!(times.len() > 100 && p99 < MAX_P99, "{} requests, p99 {p99:?}", times.len());
    let begun = Instant::now();
    loop {
        let left = server.resident_mib();
        if left < MAX_LEFT_MIB.min(before + 30) {
            println!("{left} MiB left after {:?}", begun.elapsed());
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{left} MiB are not given back");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(admin.send("POST", "/v1/key/generate/a", "{}").await.unwrap().code(), 200);
}

/// Sends requests for keys on a connection and a thread of its own, and returns how long each took.
fn good_client(server: &DevServer, ends: Arc<AtomicBool>) -> std::thread::JoinHandle<Vec<Duration>> {
    let mut client = Client::new(server.address(), Protocol::Http2, server.admin_identity());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut times = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let answer = client.send("POST", "/v1/key/generate/a", "{}").await.unwrap();
                assert_eq!(answer.code(), 200);
                times.push(begun.elapsed());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            times
        })
    })
}

/// Opens all streams at once, even beyond the limit of the server, and stays connected.
async fn unended(address: SocketAddr, config: Arc<ClientConfig>, flood: Arc<[u8]>, reads: bool) {
    let Ok(tls) = tls_connect(address, config).await else { return };
    let (mut read, mut write) = tokio::io::split(tls);
    let reading = async {
        let mut answers = vec![0; 16 * 1024];
        while reads && read.read(&mut answers).await.is_ok_and(|len| len > 0) {}
        std::future::pending::<()>().await;
    };
    let writing = async {
        let _ = write.write_all(&flood).await;
        let _ = write.flush().await;
        std::future::pending::<()>().await;
    };
    tokio::join!(reading, writing);
}

/// Returns the preface, the settings and all requests. Each has a head of 16 kB and a body that never ends.
fn flood() -> Vec<u8> {
    let mut block = vec![0x83, 0x87, 0x04, 19];
    block.extend_from_slice(b"/v1/key/generate/aa");
    // HPACK: a field that is not indexed, with its name and the length of its value. The length is an integer
    // with a prefix of 7 bits.
    block.extend_from_slice(&[0, 1, b'x', 127]);
    let rest = HEAD - 127;
    block.extend_from_slice(&[rest % 128 + 128, rest / 128].map(|byte| u8::try_from(byte).unwrap()));
    block.extend(std::iter::repeat_n(b'y', HEAD));
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for number in 0..STREAMS {
        let stream = (2 * number + 1).to_be_bytes();
        let len = u32::try_from(block.len()).unwrap().to_be_bytes();
        flood.extend_from_slice(&[len[1], len[2], len[3], 1, 4]);
        flood.extend_from_slice(&stream);
        flood.extend_from_slice(&block);
        flood.extend_from_slice(&[0, 0, 1, 0, 0]);
        flood.extend_from_slice(&stream);
        flood.push(b'{');
    }
    flood
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_of_idle_connections_is_given_back() {
    let _alone = crate::ALONE.lock().await;
    kms_server::host::process::raise_file_limit();
    let server = DevServer::start();
    let mut admin = server.admin(Protocol::Http2);
    assert_eq!(admin.send("PUT", "/v1/key/create/a", "").await.unwrap().code(), 200);
    let before = server.resident_kib();
    let config = Arc::new(TestIdentity::new().client_config(&["http/1.1"]));
    let mut opening = JoinSet::new();
    let mut idle = Vec::new();
    for _ in 0..3_000 {
        opening.spawn(open_idle(server.address(), Arc::clone(&config)));
        if opening.len() >= 32 {
            idle.push(opening.join_next().await.unwrap().unwrap());
        }
    }
    while let Some(tls) = opening.join_next().await {
        idle.push(tls.unwrap());
    }
    let during = server.resident_kib();
    drop(idle);
    let begun = Instant::now();
    let grown = during - before;
    loop {
        let kept = server.resident_kib().saturating_sub(before);
        if kept <= grown / 5 {
            println!(
                "{before} KiB, {during} with 3,000 connections; {kept} kept after {:?}",
                begun.elapsed()
            );
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{kept} of {grown} KiB are kept");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(admin.send("POST", "/v1/key/generate/a", "{}").await.unwrap().code(), 200);
}

async fn open_idle(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut tls = tls_connect(address, config).await.unwrap();
    tls.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(tls.read(&mut [0; 512]).await.unwrap() > 0);
    tls
}
