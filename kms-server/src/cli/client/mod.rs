//! A client of the API for the command line: HTTP/1.1 over TLS with a client certificate.

mod answer;
mod certificate;
mod endpoint;
mod error;
mod http;
mod path;
mod plain;
mod tls;

pub use self::answer::{Patterns, parse};
pub use self::certificate::certificate_from_files;
pub use self::error::ClientError;
pub use self::http::{Client, Session};
pub use self::path::path_of;
pub use self::plain::Plain;
pub use self::tls::Trust;
