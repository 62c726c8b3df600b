//! A client that sends exactly what a test says, over HTTP/1.1 or HTTP/2.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::TestIdentity;

/// The version of HTTP that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// Both versions.
    pub const ALL: [Self; 2] = [Self::Http1, Self::Http2];

    fn alpn(self) -> &'static [&'static str] {
        match self {
            Self::Http1 => &["http/1.1"],
            Self::Http2 => &["h2"],
        }
    }
}

/// A client that connects at its first request and keeps its connection.
pub struct Client {
    address: SocketAddr,
    protocol: Protocol,
    config: Arc<ClientConfig>,
    sender: Option<Sender>,
}

/// The body of a request, which may be any stream of frames.
pub type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// What follows the last part of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The body ends.
    End,
    /// Nothing follows, and the body does not end.
    Silence,
    /// The parts follow again, and the body does not end.
    Again,
}

/// Creates a body of unknown length that consists of these parts.
pub fn body_in_parts<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>, then: Then) -> RequestBody {
    let parts: Vec<_> = parts.into_iter().map(|part| Bytes::copy_from_slice(part.as_ref())).collect();
    Parts { chunks: parts, next: 0, then }.boxed_unsync()
}

/// Creates a body of unknown length whose parts the test sends. The body ends when the sender is dropped.
pub fn body_over_channel() -> (UnboundedSender<Bytes>, RequestBody) {
    let (parts, body) = unbounded_channel();
    (parts, Sent(body).boxed_unsync())
}

struct Sent(UnboundedReceiver<Bytes>);

impl Body for Sent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|part| part.map(|part| Ok(Frame::data(part))))
    }
}

struct Parts {
    chunks: Vec<Bytes>,
    next: usize,
    then: Then,
}

impl Body for Parts {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.next == self.chunks.len() {
            match self.then {
                Then::End => return Poll::Ready(None),
                Then::Silence => return Poll::Pending,
                Then::Again => self.next = 0,
            }
        }
        self.next += 1;
        Poll::Ready(Some(Ok(Frame::data(self.chunks[self.next - 1].clone()))))
    }
}

enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

/// An answer of the server.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// Returns the status as a number.
    pub fn code(&self) -> u16 {
        self.status.as_u16()
    }

    /// Returns the body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Returns a string member of a JSON body.
    pub fn member(&self, name: &str) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        body[name].as_str().unwrap_or_else(|| panic!("no '{name}' in {body}")).to_owned()
    }
}

impl Client {
    /// Creates a client of the server at `address`. It connects at its first request.
    pub fn new(address: SocketAddr, protocol: Protocol, identity: &TestIdentity) -> Self {
        Self { address, protocol, config: Arc::new(identity.client_config(protocol.alpn())), sender: None }
    }

    /// Connects to the server.
    pub async fn connect(&mut self) -> io::Result<()> {
        let tls = tls_connect(self.address, Arc::clone(&self.config)).await?;
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(self.protocol.alpn()[0].as_bytes()));
        let io = TokioIo::new(tls);
        self.sender = Some(match self.protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
                tokio::spawn(connection);
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) =
                    http2::handshake(TokioExecutor::new(), io).await.map_err(io::Error::other)?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        });
        Ok(())
    }

    /// Drops the connection. The next request opens another one.
    pub fn disconnect(&mut self) {
        self.sender = None;
    }

    /// Returns whether the connection is open and can take another request.
    pub fn is_connected(&self) -> bool {
        match &self.sender {
            None => false,
            Some(Sender::Http1(sender)) => !sender.is_closed(),
            Some(Sender::Http2(sender)) => !sender.is_closed(),
        }
    }

    /// Sends a request and returns the whole answer. An empty body is no body.
    pub async fn send(&mut self, method: &str, path: &str, body: impl Into<Bytes>) -> io::Result<Answer> {
        self.send_with(method, path, &[], body).await
    }

    /// Sends a request with additional headers.
    pub async fn send_with(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> io::Result<Answer> {
        self.send_body(
            method,
            path,
            headers,
            Full::new(body.into()).map_err(|never| match never {}).boxed_unsync(),
        )
        .await
    }

    /// Sends a request whose body is a stream of frames.
    pub async fn send_body(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: RequestBody,
    ) -> io::Result<Answer> {
        let (head, body) = self.begin(method, path, headers, body).await?.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        if head.headers.get("connection").is_some_and(|value| value == "close") {
            self.sender = None;
        }
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    /// Sends a request without a body and returns the answer as soon as its headers have arrived.
    pub async fn open_with(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<Response<Incoming>> {
        let nothing = Full::default().map_err(|never| match never {}).boxed_unsync();
        self.begin(method, path, headers, nothing).await
    }

    /// Sends a GET and returns the answer as soon as its headers have arrived.
    pub async fn open(&mut self, path: &str) -> io::Result<Response<Incoming>> {
        self.open_with("GET", path, &[]).await
    }

    async fn begin(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: RequestBody,
    ) -> io::Result<Response<Incoming>> {
        if !self.is_connected() {
            self.connect().await?;
        }
        let mut request = Request::new(body);
        *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
        let host = self.address.to_string();
        *request.uri_mut() = match self.protocol {
            Protocol::Http1 => path.parse().unwrap(),
            Protocol::Http2 => format!("https://{host}{path}").parse().unwrap(),
        };
        for (name, value) in headers {
            request
                .headers_mut()
                .append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        if self.protocol == Protocol::Http1 {
            request.headers_mut().entry("host").or_insert_with(|| host.parse().unwrap());
        }
        let response = match self.sender.as_mut().unwrap() {
            Sender::Http1(sender) => {
                sender.ready().await.map_err(io::Error::other)?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await.map_err(io::Error::other)?;
                sender.send_request(request).await
            }
        };
        response.map_err(io::Error::other)
    }
}

/// Sends `requests` GET requests for `path` at once over one HTTP/2 connection and returns the statuses.
pub async fn ask_at_once(
    address: SocketAddr,
    identity: &TestIdentity,
    path: &str,
    requests: usize,
) -> Vec<u16> {
    let tls = tls_connect(address, Arc::new(identity.client_config(&["h2"]))).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..requests {
        let mut sender = sender.clone();
        let request = Request::get(format!("https://{address}{path}")).body(RequestBody::default()).unwrap();
        running.spawn(async move { sender.send_request(request).await.unwrap().status().as_u16() });
    }
    running.join_all().await
}

/// Sends `request` as it is over HTTP/1.1 and returns all bytes until the server closes the connection.
///
/// Fails with `TimedOut` if the server neither sends nor closes for `patience`.
pub async fn exchange_raw(
    address: SocketAddr,
    identity: &TestIdentity,
    request: &[u8],
    patience: Duration,
) -> io::Result<String> {
    let config = Arc::new(identity.client_config(&["http/1.1"]));
    let mut tls = tls_connect(address, config).await?;
    tls.write_all(request).await?;
    let mut answer = Vec::new();
    loop {
        match tokio::time::timeout(patience, tls.read_buf(&mut answer)).await {
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, String::from_utf8_lossy(&answer))),
            Ok(Ok(0)) => break,
            Ok(Ok(_)) => {}
            // The server may reset the connection of a client that violates the protocol.
            Ok(Err(_)) if !answer.is_empty() => break,
            Ok(Err(error)) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Opens a TLS connection for a test that writes its own bytes.
pub async fn tls_connect(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), tcp).await
}

/// Reads one HTTP/2 frame and returns its type, its flags and its payload.
pub async fn read_frame(tls: &mut TlsStream<TcpStream>) -> io::Result<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    tls.read_exact(&mut head).await?;
    let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    tls.read_exact(&mut payload).await?;
    Ok((head[3], head[4], payload))
}
