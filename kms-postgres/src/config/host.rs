//! One server of a database.

use std::fmt;

/// The port of PostgreSQL.
pub const DEFAULT_PORT: u16 = 5432;

/// A server: a name or an address and a port, or the directory of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The name, the address, or the directory if it begins with `/`.
    pub name: String,
    /// The port.
    pub port: u16,
}

impl Host {
    /// Creates a host.
    pub fn new(name: impl Into<String>, port: u16) -> Self {
        Self { name: name.into(), port }
    }

    /// Returns whether this is the directory of a socket, over which there is no TLS.
    pub fn is_socket(&self) -> bool {
        self.name.starts_with('/')
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            return write!(f, "[{}]:{}", self.name, self.port);
        }
        write!(f, "{}:{}", self.name, self.port)
    }
}
