//! A proxy between a store and its Vault that counts requests and fails in every way that a network can.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use kms_tests::programs::http;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// What happens to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Nothing; it passes.
    None,
    /// It passes after a while.
    Delay(Duration),
    /// It is never answered.
    Drop,
    /// The connection is reset before the request reaches Vault.
    Reset,
    /// The request reaches Vault, and the connection is reset before the answer.
    ResetAfter,
    /// The answer has this status and a body like Vault's.
    Status(u16),
    /// The answer has status 200 and this body.
    Garbage(&'static [u8]),
    /// The answer has this status and never ends. It is a JSON text in chunks, so its length is not known
    /// before.
    Endless(u16),
    /// The answer announces this length and goes on as long as somebody reads it.
    Announced(u64),
    /// The answer is a redirect to this URL.
    Redirect(String),
}

/// A running proxy.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    task: AbortHandle,
}

/// Chooses the fault of a request by its method and path.
type Choice = Box<dyn Fn(&str, &str) -> Fault + Send>;

struct State {
    upstream: String,
    http: reqwest::Client,
    fault: Mutex<Choice>,
    seen: Mutex<Vec<(String, String)>>,
    tokens: Mutex<BTreeSet<String>>,
    connections: Arc<Count>,
    sent: Arc<AtomicUsize>,
}

/// The current number and the highest number so far.
#[derive(Default)]
struct Count {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Count {
    fn begin(self: Arc<Self>) -> Counted {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        Counted(self)
    }
}

struct Counted(Arc<Count>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Proxy {
    /// Starts a proxy in front of the HTTP server at `upstream`.
    pub async fn start(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            upstream,
            http: http(),
            fault: Mutex::new(Box::new(|_, _| Fault::None)),
            seen: Mutex::default(),
            tokens: Mutex::default(),
            connections: Arc::default(),
            sent: Arc::default(),
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&state))).abort_handle();
        Self { address, state, task }
    }

    /// Returns the URL of the proxy.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Injects this fault into every request from now on.
    pub fn fail(&self, fault: Fault) {
        self.fail_if(move |_, _| fault.clone());
    }

    /// Chooses the fault of each request by its method and path.
    pub fn fail_if(&self, fault: impl Fn(&str, &str) -> Fault + Send + 'static) {
        *self.state.fault.lock().unwrap() = Box::new(fault);
    }

    /// Returns the method and the path of all requests since the last call of this method.
    pub fn take_seen(&self) -> Vec<(String, String)> {
        std::mem::take(&mut *self.state.seen.lock().unwrap())
    }

    /// Returns the highest number of connections at once.
    pub fn most_connections(&self) -> usize {
        self.state.connections.most.load(Ordering::Relaxed)
    }

    /// Returns how many bytes of endless answers were read since the last call of this method.
    pub fn take_sent(&self) -> usize {
        self.state.sent.swap(0, Ordering::Relaxed)
    }

    /// Returns all tokens that the proxy has seen.
    pub fn tokens(&self) -> BTreeSet<String> {
        self.state.tokens.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    // The end of this task drops the set and all connections in it.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(connection(stream, Arc::clone(&state)));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, state: Arc<State>) {
    let _counted = Arc::clone(&state.connections).begin();
    // With this option a failed request ends in a reset instead of an orderly close.
    let _ = stream.set_zero_linger();
    let service = service_fn(move |request| answer(request, Arc::clone(&state)));
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// A JSON text that does not end.
struct Endless {
    sent: Arc<AtomicUsize>,
    began: bool,
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static FILL: [u8; 1 << 16] = [b'x'; 1 << 16];
        let part: &'static [u8] = if self.began { &FILL } else { br#"{"errors":[""# };
        self.began = true;
        self.sent.fetch_add(part.len(), Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(part)))))
    }
}

type AnswerBody = Either<Full<Bytes>, Endless>;

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<AnswerBody>, Broken> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().unwrap().as_str().to_owned();
    let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
    state.seen.lock().unwrap().push((parts.method.to_string(), path.clone()));
    if let Some(token) = parts.headers.get("x-vault-token") {
        state.tokens.lock().unwrap().insert(token.to_str().unwrap().to_owned());
    }
    let fault = (state.fault.lock().unwrap())(parts.method.as_str(), &path);
    let respond = |status: u16, body: &[u8]| {
        let body = Either::Left(Full::new(Bytes::copy_from_slice(body)));
        Response::builder().status(status).body(body).map_err(|_| Broken)
    };
    let endless = || Either::Right(Endless { sent: Arc::clone(&state.sent), began: false });
    let mut delay = Duration::ZERO;
    match fault {
        Fault::Delay(by) => delay = by,
        Fault::Drop => std::future::pending::<()>().await,
        Fault::Reset => return Err(Broken),
        Fault::Status(status) => return respond(status, br#"{"errors":["told to fail"]}"#),
        Fault::Garbage(garbage) => return respond(200, garbage),
        Fault::Endless(status) => {
            return Response::builder().status(status).body(endless()).map_err(|_| Broken);
        }
        Fault::Announced(length) => {
            return Response::builder().header("Content-Length", length).body(endless()).map_err(|_| Broken);
        }
        Fault::Redirect(place) => {
            let location = format!("{place}{path}");
            return Response::builder()
                .status(307)
                .header("Location", location)
                .body(Either::Left(Full::default()))
                .map_err(|_| Broken);
        }
        Fault::None | Fault::ResetAfter => {}
    }
    // A task of its own forwards the request, so that it arrives even if its sender gives up.
    let forward = tokio::spawn(forward(parts, path, body, Arc::clone(&state), delay));
    let (status, body) = forward.await.map_err(|_| Broken)?.map_err(|_| Broken)?;
    if fault == Fault::ResetAfter {
        return Err(Broken);
    }
    respond(status, &body)
}

async fn forward(
    parts: hyper::http::request::Parts,
    path: String,
    body: Bytes,
    state: Arc<State>,
    delay: Duration,
) -> reqwest::Result<(u16, Bytes)> {
    tokio::time::sleep(delay).await;
    let mut forward = state.http.request(parts.method, format!("{}{path}", state.upstream)).body(body);
    for (name, value) in &parts.headers {
        if name.as_str().starts_with("x-vault") || name == "content-type" {
            forward = forward.header(name, value);
        }
    }
    let answer = forward.send().await?;
    Ok((answer.status().as_u16(), answer.bytes().await?))
}

/// An error that makes hyper close the connection.
#[derive(Debug)]
struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is reset, as told")
    }
}

impl std::error::Error for Broken {}
