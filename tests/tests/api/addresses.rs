//! The address that a server listens on, and the addresses that it records for its clients.
//!
//! Without an address in the config the server listens on IPv4 and IPv6.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use kms_tests::{Client, Protocol, TestServer};
use serde_json::Value;

use super::probes;

/// Returns whether this machine has IPv6. Without it, tests skip what depends on it.
fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

fn loopbacks(port: u16) -> Vec<SocketAddr> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = has_ipv6().then(|| SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
    v6.into_iter().chain([v4]).collect()
}

#[tokio::test]
async fn everywhere_is_ipv4_and_ipv6_and_a_client_has_the_address_that_it_has() {
    for everywhere in ["0.0.0.0:0", "[::]:0"] {
        let mut builder = TestServer::builder();
        builder.settings.address = everywhere.parse().unwrap();
        builder.settings.probes = Some(everywhere.parse().unwrap());
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("audit.log");
        builder.settings.log.audit_file = Some(file.clone());
        let server = builder.start().await;
        let expected =
            SocketAddr::new(everywhere.parse::<SocketAddr>().unwrap().ip(), server.address().port());
        assert_eq!(server.address(), expected, "it tells what was asked for");
        let addresses = loopbacks(server.address().port());
        for address in &addresses {
            let mut client = Client::new(*address, Protocol::Http2, server.admin_identity());
            assert_eq!(client.send("GET", "/v1/status", "").await.unwrap().code(), 200, "{address}");
        }
        for address in loopbacks(server.probes_address().unwrap().port()) {
            assert!(probes::get(address, "/v1/ready").await.starts_with("HTTP/1.1 200"), "{address}");
        }
        server.stop().await;
        let audited: Vec<String> = std::fs::read_to_string(&file)
            .unwrap()
            .lines()
            .map(|line| {
                serde_json::from_str::<Value>(line).unwrap()["request"]["ip"].as_str().unwrap().to_owned()
            })
            .collect();
        let asked: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
        assert_eq!(audited, asked, "{everywhere}");
    }
}

#[tokio::test]
async fn an_address_of_one_family_is_one_family() {
    for address in loopbacks(0) {
        let mut builder = TestServer::builder();
        builder.settings.address = address;
        let server = builder.start().await;
        for other in loopbacks(server.address().port()) {
            let reached = TcpStream::connect(other).is_ok();
            assert_eq!(reached, other == server.address(), "{other} of a server on {}", server.address());
        }
    }
}

#[tokio::test]
async fn a_port_that_is_taken_on_one_family_is_taken() {
    for address in loopbacks(0) {
        let taken = TcpListener::bind(address).unwrap();
        let mut builder = TestServer::builder();
        builder.settings.address =
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, taken.local_addr().unwrap().port()));
        let expected =
            format!("address: cannot listen on {}: address already in use", builder.settings.address);
        let told = builder.try_start().await.map(drop).unwrap_err().to_string();
        assert_eq!(told.to_lowercase(), expected);
    }
}
