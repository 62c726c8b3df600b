//! Probes over plain HTTP.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kms_core::ErrorKind;
use kms_tests::faults::FaultyStore;
use kms_tests::{STATUS_KEPT, TestServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub async fn get(address: SocketAddr, path: &str) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(5), tcp.read_to_string(&mut answer)).await;
    read.expect("it answers and closes").unwrap();
    answer
}

#[tokio::test]
async fn probes_hear_of_health_and_metrics_and_of_nothing_else() {
    let store = FaultyStore::new();
    let mut builder = TestServer::builder();
    builder.settings.probes = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let server = builder.store(store.clone()).start().await;
    let address = server.probes_address().unwrap();
    assert!(get(address, "/v1/ready").await.starts_with("HTTP/1.1 200"));
    let metrics = get(address, "/metrics").await;
    assert!(
        metrics.contains("content-type: text/plain; version=0.0.4") && metrics.contains("\nkms_cache_hits "),
        "{metrics}"
    );
    let kes = get(address, "/v1/metrics").await;
    assert!(kes.contains("\nkes_system_up_time ") && !kes.contains("kms_"), "{kes}");
    for path in ["/v1/key/list/", "/v1/status", "/v1/log/audit", "/v1/policy/list/", "/version"] {
        assert!(get(address, path).await.starts_with("HTTP/1.1 404"), "{path}");
    }
    store.fail(Some(ErrorKind::Unreachable));
    tokio::time::sleep(STATUS_KEPT).await;
    assert!(get(address, "/v1/ready").await.starts_with("HTTP/1.1 504"));
}

#[tokio::test]
async fn those_that_say_nothing_do_not_keep_probes_out() {
    let mut builder = TestServer::builder();
    builder.settings.probes = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let server = builder.start().await;
    let address = server.probes_address().unwrap();
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let begun = Instant::now();
    assert!(get(address, "/v1/ready").await.starts_with("HTTP/1.1 200"));
    assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());
    // The server closes each connection: to make room for others, or because it is silent.
    for mut tcp in silent {
        let closed = tokio::time::timeout(Duration::from_secs(3), tcp.read_to_end(&mut Vec::new())).await;
        closed.map(drop).expect("it is left open");
    }
}

#[tokio::test]
async fn an_address_in_use_is_told_at_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let holder = std::net::TcpListener::bind(taken).unwrap();
    let mut builder = TestServer::builder();
    builder.settings.probes = Some(taken);
    let error = builder.try_start().await.err().unwrap().to_string();
    assert!(error.contains("probes.address") && error.contains(&taken.to_string()), "{error}");
    drop(holder);
}
