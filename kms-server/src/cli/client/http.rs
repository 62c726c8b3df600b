//! Requests to a server and their answers, over HTTP/1.1.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HOST, TE};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kms_core::Identity;
use rustls_pki_types::ServerName;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use super::answer::{message, parse};
use super::endpoint::Endpoint;
use super::error::ClientError;
use super::tls::{self, Trust};
use crate::credentials::certificate::{CertifiedKey, Facts};

/// The time limit of a connection and its handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The time limit of an answer. The longest limit of a server's routes is 15 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The time limit of each piece of a long answer. A server may have to read a key of a thousand versions for it.
const PIECE_TIMEOUT: Duration = Duration::from_secs(120);

/// The most bytes of an answer, or of a line in an endless one.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// A client of one or more servers that share their keys.
pub struct Client {
    servers: Vec<Endpoint>,
    tls: TlsConnector,
    identity: Identity,
}

impl Client {
    /// Creates a client that sends its requests to the first of `servers` that can be reached.
    ///
    /// A server is written as `https://HOST[:PORT]` or `HOST[:PORT]`. The default port is `default_port`.
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
        let tls = tls::connector(certificate, trust)?;
        Ok(Self { servers, tls, identity })
    }

    /// Returns a client for each of the servers alone, with the server's name.
    pub fn each(&self) -> Vec<(String, Self)> {
        let alone =
            |server: &Endpoint| Self { servers: vec![server.clone()], tls: self.tls.clone(), ..*self };
        self.servers.iter().map(|server| (server.to_string(), alone(server))).collect()
    }

    /// Returns the servers, each as `HOST:PORT`.
    pub fn servers(&self) -> Vec<String> {
        self.servers.iter().map(ToString::to_string).collect()
    }

    /// Sends a request and parses the answer as JSON.
    pub async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, ClientError> {
        self.session().await?.json(method, path, body).await
    }

    /// Sends a request and returns the body of the answer. A status other than 200 is an error.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        self.session().await?.send(method, path, body).await
    }

    /// Connects to the first server that can be reached, for many requests.
    pub async fn session(&self) -> Result<Session<'_>, ClientError> {
        let (server, stream) = self.connect_any().await?;
        let opened = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = opened.map_err(|error| ClientError::broken(server, &error))?;
        Ok(Session { client: self, server, sender, _connection: AbortOnDrop(tokio::spawn(connection)) })
    }

    /// Calls `line` for each line of an endless answer as it comes, until the server ends it or `line` fails.
    ///
    /// Before that, `begin` is called once the server has answered with 200.
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

    /// Sends a request with a body of JSON, or an empty one, and calls `piece` for each piece of a long answer as it comes. Returns the trailers of the answer.
    ///
    /// An answer that breaks off is an error.
    pub async fn download<E: From<ClientError>>(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
        mut piece: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Option<HeaderMap>, E> {
        let (server, stream) = self.connect_any().await?;
        let request = Request::builder().method(method).uri(path).header(HOST, server.to_string());
        let request = request
            .header(TE, "trailers")
            .body(Full::new(body.into()))
            .map_err(|_| ClientError::Setup(format!("'{path}' is no path")))?;
        let broken = |error: hyper::Error| ClientError::broken(server, &error);
        let late = |_| ClientError::answer(server, format!("nothing for {} s", PIECE_TIMEOUT.as_secs()));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let _connection = AbortOnDrop(tokio::spawn(connection));
        let answer =
            timeout(PIECE_TIMEOUT, sender.send_request(request)).await.map_err(late)?.map_err(broken)?;
        let status = answer.status();
        let mut body = answer.into_body();
        if status != StatusCode::OK {
            let refusal = timeout(PIECE_TIMEOUT, Limited::new(body, MAX_ANSWER).collect()).await;
            let refusal = refusal.map_err(late)?;
            let refusal = refusal.map_err(|error| ClientError::answer(server, error))?.to_bytes();
            return Err(self.refused(&refusal, status, path).into());
        }
        let mut trailers = None;
        while let Some(frame) = timeout(PIECE_TIMEOUT, body.frame()).await.map_err(late)? {
            let frame = frame.map_err(broken)?;
            match frame.into_data() {
                Ok(data) => piece(&data)?,
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        Ok(trailers)
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
}

/// A connection that is kept for many requests, one after the other.
pub struct Session<'a> {
    client: &'a Client,
    server: &'a Endpoint,
    sender: http1::SendRequest<Full<Bytes>>,
    _connection: AbortOnDrop<hyper::Result<()>>,
}

impl Session<'_> {
    /// Sends a request and parses the answer as JSON.
    pub async fn json<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, ClientError> {
        let answer = self.send(method, path, body).await?;
        parse(&answer)
    }

    /// Sends a request and returns the body of the answer. A status other than 200 is an error.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        let server = self.server;
        let invalid = |_| ClientError::Setup(format!("'{path}' is no path"));
        let mut request = Request::builder().method(method).uri(path).header(HOST, server.to_string());
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body))).map_err(invalid)?;
        let exchange = async {
            self.sender.ready().await?;
            let answer = self.sender.send_request(request).await?;
            let status = answer.status();
            Ok((status, Limited::new(answer.into_body(), MAX_ANSWER).collect().await))
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
        Err(self.client.refused(&body, status, path))
    }
}

/// Aborts a task when dropped.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
