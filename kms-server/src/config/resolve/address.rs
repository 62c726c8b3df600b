//! Addresses to listen on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};

/// Reads an address to listen on: `127.0.0.1:7373`, `[::1]:7373`, `:7373` (everywhere) or `localhost:7373`.
///
/// As in Go, a name stands for its first IPv4 address if it has one, and the system chooses a port if there is none.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let invalid = || {
        format!(
            "invalid address '{}', expected an address and port, such as '0.0.0.0:7373'",
            text.escape_debug()
        )
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
    let port = match port {
        "" => 0,
        "http" => 80,
        "https" => 443,
        port => port.parse().map_err(|_| invalid())?,
    };
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let ip = match (host, in_brackets) {
        ("" | "[]", _) => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        (_, Some(host)) => Some(host.parse().map_err(|_| invalid())?),
        (host, None) => host.parse().ok().map(IpAddr::V4),
    };
    if let Some(ip) = ip {
        return Ok(SocketAddr::new(ip.to_canonical(), port));
    }
    // The system would resolve numbers, such as 0 and 127.1, to addresses that nobody means.
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    if host.contains(':') || last.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(invalid());
    }
    let found: Vec<_> = (host, port).to_socket_addrs().map_err(|_| invalid())?.collect();
    found.iter().find(|address| address.is_ipv4()).or(found.first()).copied().ok_or_else(invalid)
}
