//! A client of the API for the command line: HTTP/1.1 over TLS with a client certificate.

mod error;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kms_core::Identity;
use kms_trust::{AnyServer, ServerVerifier, Trusted, Unusable, describe_io_error};
use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::ServerName;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

pub use self::error::ClientError;
use crate::credentials::certificate::{self, CertifiedKey, Facts};
use crate::credentials::private_key;

/// How long a connection may take, with its handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer may take; the longest route of a server has 15 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The most bytes of an answer.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// How the server's certificate is verified.
#[derive(Clone, Debug)]
pub enum Trust {
    /// By the certificate authorities of the system (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured).
    System,
    /// By the certificates in a PEM file, or in the files of a directory; the server's own may be among them.
    File(PathBuf),
    /// Not at all.
    Nobody,
}

/// A client of one or more servers that share their keys.
pub struct Client {
    servers: Vec<Endpoint>,
    tls: TlsConnector,
    identity: Identity,
}

impl Client {
    /// Makes a client that shows `certificate` to the first of `servers` that can be reached.
    ///
    /// A server is written as `https://HOST[:PORT]` or `HOST[:PORT]`; the port is `default_port` if not told.
    pub fn new(
        servers: &[&str],
        default_port: u16,
        certificate: CertifiedKey,
        trust: &Trust,
    ) -> Result<Self, ClientError> {
        let servers = servers.iter().map(|server| Endpoint::parse(server, default_port));
        let servers = servers.collect::<Result<_, _>>()?;
        let identity =
            Facts::of(&certificate.chain[0]).map_err(|error| ClientError::Setup(error.to_string()))?.identity;
        let setup = |error: rustls::Error| ClientError::Setup(format!("TLS: {error}"));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(setup)?;
        let unusable = |why: Unusable| ClientError::Setup(why.to_string());
        let verifier: Arc<dyn ServerCertVerifier> = match trust {
            Trust::System => ServerVerifier::new(Trusted::of_system().map_err(unusable)?, &provider),
            Trust::File(path) => ServerVerifier::new(Trusted::of(path).map_err(unusable)?, &provider),
            Trust::Nobody => AnyServer::new(&provider),
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let config = builder.with_client_auth_cert(certificate.chain, certificate.key).map_err(|error| {
            ClientError::Setup(match error {
                rustls::Error::InconsistentKeys(_) => {
                    "the client's private key is not that of its certificate".to_owned()
                }
                error => format!("the client's certificate and private key: {error}"),
            })
        })?;
        Ok(Self { servers, tls: TlsConnector::from(Arc::new(config)), identity })
    }

    /// Names the servers, as `HOST:PORT`.
    pub fn servers(&self) -> Vec<String> {
        self.servers.iter().map(ToString::to_string).collect()
    }

    /// Returns who the servers see.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Sends a request and reads the answer as JSON.
    pub async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, ClientError> {
        let answer = self.send(method, path, body).await?;
        parse(&answer)
    }

    /// Sends a request and returns the answer's body; an answer that is not 200 is an error.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        let (server, stream) = self.connect_any().await?;
        self.exchange(server, stream, method, path, body).await
    }

    /// Reads the lines of an endless answer, each as it comes, until the server ends it or `line` fails; `begin` is called
    /// when the server has agreed to send them.
    pub async fn lines<E: From<ClientError>>(
        &self,
        path: &str,
        begin: impl FnOnce() -> Result<(), E>,
        mut line: impl FnMut(&str) -> Result<(), E>,
    ) -> Result<(), E> {
        let (server, stream) = self.connect_any().await?;
        let request = Request::builder().method(Method::GET).uri(path).header(HOST, server.to_string());
        let request = request
            .body(Full::new(Bytes::new()))
            .map_err(|_| ClientError::Setup(format!("'{path}' is no path")))?;
        let broken = |error: hyper::Error| ClientError::broken(server, &error);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let _connection = AbortOnDrop(tokio::spawn(connection));
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        if status == StatusCode::OK {
            begin()?;
        }
        let mut body = answer.into_body();
        let mut pending = Vec::new();
        while let Some(frame) = body.frame().await {
            pending.extend_from_slice(frame.map_err(broken)?.data_ref().map_or(&[][..], |data| data));
            if pending.len() > MAX_ANSWER {
                return Err(ClientError::answer(server, "a line without an end").into());
            }
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n')
                && status == StatusCode::OK
            {
                let rest = pending.split_off(end + 1);
                let text = String::from_utf8_lossy(&pending);
                if !text.trim().is_empty() {
                    line(text.trim())?;
                }
                pending = rest;
            }
        }
        if status == StatusCode::OK {
            return Ok(());
        }
        Err(self.refused(&pending, status, path).into())
    }

    async fn connect_any(&self) -> Result<(&Endpoint, TlsStream<TcpStream>), ClientError> {
        let mut unreachable = None;
        for server in &self.servers {
            match timeout(CONNECT_TIMEOUT, self.connect(server)).await {
                Ok(Ok(stream)) => return Ok((server, stream)),
                Ok(Err(error)) if error.tries_next_server() => unreachable = Some(error),
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    let reason = format!("no connection within {} s", CONNECT_TIMEOUT.as_secs());
                    unreachable = Some(ClientError::Connect { server: server.to_string(), reason });
                }
            }
        }
        Err(unreachable.unwrap_or_else(|| ClientError::Setup("no server is given".to_owned())))
    }

    fn refused(&self, body: &[u8], status: StatusCode, path: &str) -> ClientError {
        ClientError::Refused {
            status: status.as_u16(),
            message: message(body, status),
            identity: self.identity,
            path: path.to_owned(),
        }
    }

    async fn connect(&self, server: &Endpoint) -> Result<TlsStream<TcpStream>, ClientError> {
        let stream = TcpStream::connect((server.host.as_str(), server.port))
            .await
            .map_err(|error| ClientError::connect(server, &error))?;
        let _ = stream.set_nodelay(true);
        let name = ServerName::try_from(server.host.clone())
            .map_err(|_| ClientError::Setup(format!("'{}' is no name of a host", server.host)))?;
        self.tls.connect(name, stream).await.map_err(|error| ClientError::handshake(server, &error))
    }

    async fn exchange(
        &self,
        server: &Endpoint,
        stream: TlsStream<TcpStream>,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        let invalid = |_| ClientError::Setup(format!("'{path}' is no path"));
        let mut request = Request::builder().method(method).uri(path).header(HOST, server.to_string());
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body))).map_err(invalid)?;
        let exchange = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let connection = tokio::spawn(connection);
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            connection.abort();
            Ok((status, body))
        };
        let (status, body) = timeout(ANSWER_TIMEOUT, exchange)
            .await
            .map_err(|_| ClientError::answer(server, format!("none within {} s", ANSWER_TIMEOUT.as_secs())))?
            .map_err(|error: hyper::Error| ClientError::broken(server, &error))?;
        let body = body.map_err(|error| ClientError::answer(server, error.to_string()))?.to_bytes();
        let body = Zeroizing::new(Vec::from(body));
        if status == StatusCode::OK {
            return Ok(body);
        }
        Err(self.refused(&body, status, path))
    }
}

/// Ends a task with what it is for.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Hides the user and the password of a URL.
fn without_user(url: &str) -> Cow<'_, str> {
    let Some((before, rest)) = url.rsplit_once('@') else { return Cow::Borrowed(url) };
    let scheme = before.split_once("://").map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
    Cow::Owned(format!("{scheme}***@{rest}"))
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    fn parse(text: &str, default_port: u16) -> Result<Self, ClientError> {
        let invalid = || {
            ClientError::Setup(format!(
                "invalid server '{}', expected https://HOST[:PORT]",
                without_user(text).escape_debug()
            ))
        };
        let trimmed = text.trim();
        let authority = match trimmed.split_once("://") {
            // There is no server without TLS; KES takes the one for the other.
            Some(("https" | "http", rest)) => rest,
            Some(_) => return Err(invalid()),
            None => trimmed,
        };
        // A user and a password are taken and not used, as by KES.
        let authority = authority.rsplit_once('@').map_or(authority, |(_, authority)| authority);
        let authority = authority.trim_end_matches('/');
        // Go takes no host for this machine.
        let authority =
            if authority.starts_with(':') { format!("localhost{authority}") } else { authority.to_owned() };
        let authority: http::uri::Authority = authority.parse().map_err(|_| invalid())?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(invalid());
        }
        let port = match authority.port() {
            None if authority.as_str() == authority.host() => default_port,
            None => return Err(invalid()),
            Some(port) => port.as_str().parse().map_err(|_| invalid())?,
        };
        Ok(Self { host, port })
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Reads an answer's body as JSON.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    let unexpected =
        |_| ClientError::Answer("the server's answer is not the JSON that was expected".to_owned());
    serde_json::from_slice(body).map_err(unexpected)
}

/// Takes the message out of an error's body.
fn message(body: &[u8], status: StatusCode) -> String {
    #[derive(Deserialize)]
    struct Body {
        message: String,
    }
    match serde_json::from_slice::<Body>(body) {
        Ok(body) if !body.message.is_empty() => body.message,
        _ => status.to_string().to_lowercase(),
    }
}

/// Reads a file of certificates and one of a private key, to be shown to servers; `ask` for a password if that is encrypted.
pub fn certificate_from_files<E: From<ClientError>>(
    cert: &Path,
    key: &Path,
    ask: impl FnOnce(&Path) -> Result<Zeroizing<String>, E>,
) -> Result<CertifiedKey, E> {
    let chain = certificate::read_chain(cert).map_err(ClientError::Setup)?;
    let unusable = |why: String| ClientError::Setup(format!("{}: {why}", key.display()));
    let content = kms_trust::read_file(key).map_err(|error| unusable(describe_io_error(&error)))?;
    let password = if private_key::is_encrypted(&content) { Some(ask(key)?) } else { None };
    let key = private_key::read(&content, password.as_deref().map(String::as_str))
        .map_err(|why| unusable(why.with_password_asked()))?;
    Ok(CertifiedKey { chain, key })
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
