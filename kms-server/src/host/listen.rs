//! The listening socket: on every interface of IPv4 and IPv6 unless the address names one.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// The most connections that wait to be accepted. The system may have a lower limit.
const BACKLOG: i32 = 4096;

/// Listens on `address`, without blocking. Returns the address with the port that the system chose if none was asked for.
///
/// An unspecified address of either family means both families on one socket, as in every server written in Go. On a
/// machine without IPv6 it means IPv4.
pub fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let port = address.port();
    let (socket, ip) = if address.ip().is_unspecified() {
        match bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))) {
            Ok(socket) => (socket, address.ip()),
            Err(error) if is_without_ipv6(&error) => {
                let any = Ipv4Addr::UNSPECIFIED;
                (bind(SocketAddr::from((any, port)))?, any.into())
            }
            Err(error) => return Err(error),
        }
    } else {
        (bind(address)?, address.ip())
    };
    let listener = TcpListener::from(socket);
    let port = listener.local_addr()?.port();
    Ok((listener, SocketAddr::new(ip, port)))
}

/// Returns the address of a client. An IPv4 address in IPv6 form becomes IPv4, so that nobody has two addresses.
pub fn client(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip.is_ipv4() => SocketAddr::new(ip, address.port()),
        _ => address,
    }
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // The system's default may be the other one (net.ipv6.bindv6only).
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Returns whether IPv6 is the cause. A port that is in use or not allowed would fail for IPv4 too.
fn is_without_ipv6(error: &io::Error) -> bool {
    !matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_ipv4_has_an_address_of_ipv4() {
        for (address, expected) in [
            ("[::ffff:192.0.2.1]:5", "192.0.2.1:5"),
            ("192.0.2.1:5", "192.0.2.1:5"),
            ("[::1]:5", "[::1]:5"),
            ("[fe80::1%3]:5", "[fe80::1%3]:5"),
        ] {
            assert_eq!(client(address.parse().unwrap()).to_string(), expected);
        }
    }
}
