//! The address of a server, as users write it.

use std::borrow::Cow;
use std::fmt;

use super::error::ClientError;

/// The host and port of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    /// Parses `https://HOST[:PORT]` or `HOST[:PORT]`.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, ClientError> {
        let trimmed = text.trim();
        let authority = match trimmed.split_once("://") {
            // As with KES, `http` means `https`: no server is without TLS.
            Some(("https" | "http", rest)) => Some(rest),
            Some(_) => None,
            None => Some(trimmed),
        };
        authority.and_then(|authority| Self::of_authority(authority, default_port)).ok_or_else(|| {
            let server = without_user(text);
            ClientError::Setup(format!(
                "invalid server '{}', expected https://HOST[:PORT]",
                server.escape_debug()
            ))
        })
    }

    /// Parses what is behind the `://` of a URL, up to its path.
    pub fn of_authority(text: &str, default_port: u16) -> Option<Self> {
        // As with KES, a user and a password are accepted and ignored.
        let authority = text.rsplit_once('@').map_or(text, |(_, authority)| authority);
        let authority = authority.trim_end_matches('/');
        // In Go, a missing host is this machine.
        let authority =
            if authority.starts_with(':') { format!("localhost{authority}") } else { authority.to_owned() };
        let authority: http::uri::Authority = authority.parse().ok()?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return None;
        }
        let port = match authority.port() {
            None if authority.as_str() == authority.host() => default_port,
            None => return None,
            Some(port) => port.as_str().parse().ok()?,
        };
        Some(Self { host, port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Hides the user and the password of a URL.
pub fn without_user(url: &str) -> Cow<'_, str> {
    let Some((before, rest)) = url.rsplit_once('@') else { return Cow::Borrowed(url) };
    let scheme = before.split_once("://").map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
    Cow::Owned(format!("{scheme}***@{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_written_with_or_without_scheme_and_port() {
        for (text, host, port) in [
            ("https://127.0.0.1:7373", "127.0.0.1", 7373),
            ("kes.example.org", "kes.example.org", 7373),
            ("https://[::1]:1234/", "::1", 1234),
            (" localhost:1 ", "localhost", 1),
            ("http://127.0.0.1:7374", "127.0.0.1", 7374),
            ("https://user:s3cr3t@127.0.0.1:7374", "127.0.0.1", 7374),
            (":17373", "localhost", 17373),
            ("https://:17373", "localhost", 17373),
        ] {
            let endpoint = Endpoint::parse(text, 7373).map_err(|error| error.to_string()).unwrap();
            assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port), "{text}");
        }
        for text in [
            "",
            "https://",
            "a b",
            "host:99999",
            "ftp://x",
            ":",
            ":99999",
            "::1",
            "https://user:s3cr3t@a b",
            "user:s3cr3t@",
        ] {
            let told = Endpoint::parse(text, 7373).err().map(|error| error.to_string());
            assert!(told.is_some_and(|told| !told.contains("s3cr3t")), "{text}");
        }
    }
}
