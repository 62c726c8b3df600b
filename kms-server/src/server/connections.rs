//! The life of connections: accepted, handshake, served within limits, ended.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::drive::{End, drive, rest};
use super::slots::Slots;
use crate::access::expiry::{self, Expiry};
use crate::access::forwarded;
use crate::access::identify::{self, Peer};
use crate::api::{self, AnswerBody, Api, Client};
use crate::conn::guard::{Bounds, Guard};
use crate::conn::heads::{HeadRoom, Heads};
use crate::conn::here::Movable;
use crate::conn::http2_executor::Http2Executor;
use crate::conn::io::WatchedIo;
use crate::conn::memory::Reclaim;
use crate::conn::requests::MAX_HEAD;
use crate::conn::watch::{AccessEnd, Stop, Watch};
use crate::host::listen;
use crate::telemetry::log_limit::LogLimit;
use crate::tls::handshake;

/// The most requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;

/// The most requests at once on one HTTP/2 connection of a stranger.
const MAX_STRANGER_STREAMS: u32 = 8;

/// The most body data that one HTTP/2 connection may send before it is read.
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// The same for strangers, whose bodies nobody reads: the least that HTTP/2 allows.
const STRANGER_WINDOW: u32 = 65_535;

/// The most data of an HTTP/1.1 client that is read at once. hyper's default is 400 KiB.
const HTTP1_BUFFER: usize = 32 * 1024;

/// The pause after the system had no descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The shortest time between two log lines about connections that were closed to make room.
const TELL_PAUSE: Duration = Duration::from_secs(5);

/// The most log lines about failed handshakes, and the interval for them.
const FAILED_HANDSHAKES: (Duration, u32) = (Duration::from_secs(10), 20);

/// A connection after its handshake, as a future that runs it to its end.
type Driven = Pin<Box<dyn Future<Output = ()> + Send>>;

/// All connections of a server.
pub struct Connections {
    api: Arc<Api>,
    tls: ArcSwap<rustls::ServerConfig>,
    bounds: Bounds,
    slots: Slots,
    heads: Arc<HeadRoom>,
    /// The runtime on which requests wait.
    elsewhere: Handle,
    stop: AtomicU8,
    /// Limits the log lines about failed handshakes.
    failed_handshakes: LogLimit,
}

impl Connections {
    /// Creates the connections of `api`, at most `limit` at once.
    ///
    /// They are served by the runtime that accepts them. What requests wait for runs `elsewhere`.
    pub fn new(
        api: Arc<Api>,
        tls: rustls::ServerConfig,
        limit: usize,
        bounds: Bounds,
        elsewhere: Handle,
    ) -> Arc<Self> {
        Arc::new(Self {
            api,
            tls: ArcSwap::from_pointee(tls),
            bounds,
            slots: Slots::new(limit),
            heads: Arc::default(),
            elsewhere,
            stop: AtomicU8::new(0),
            failed_handshakes: LogLimit::new(FAILED_HANDSHAKES.0, FAILED_HANDSHAKES.1),
        })
    }

    /// Gives freed memory back to the system, until it is dropped.
    pub async fn reclaim_memory(&self) {
        Reclaim::run(|| self.slots.len_and_most()).await;
    }

    /// Accepts connections until it is dropped. Handshakes never delay it.
    pub async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut evictions = Evictions::default();
        loop {
            self.slots.room().await;
            let (tcp, remote) = match listener.accept().await {
                Ok((tcp, remote)) => (tcp, listen::client(remote)),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let watch = Arc::new(Watch::new());
            let number = loop {
                match self.slots.take(remote.ip(), &watch) {
                    Some((number, evicts)) => {
                        if evicts {
                            self.api.metrics().evicted();
                            evictions.add();
                        }
                        break number;
                    }
                    None => self.slots.room().await,
                }
            };
            let entry = Entry { connections: Arc::clone(&self), number };
            tokio::spawn(Arc::clone(&self).connect(tcp, remote, watch, entry));
        }
    }

    /// Ends all connections: idle ones now, others after their requests, and the rest after `patience`.
    ///
    /// Returns how many had to be cut off.
    pub async fn end(&self, patience: Duration) -> usize {
        self.tell(Stop::WhenIdle);
        if tokio::time::timeout(patience, self.slots.all_ended()).await.is_ok() {
            return 0;
        }
        let cut_off = self.slots.len();
        self.tell(Stop::Now);
        self.slots.all_ended().await;
        cut_off
    }

    /// Uses another TLS configuration for handshakes from now on.
    ///
    /// If `rule_changed`, connections that the old rule accepted end after their current requests.
    pub fn set_tls(&self, tls: rustls::ServerConfig, rule_changed: bool) {
        self.tls.store(Arc::new(tls));
        if !rule_changed {
            return;
        }
        let old = self.slots.watches();
        for watch in &old {
            watch.end_access(AccessEnd::RuleChanged);
        }
        let patience = self.last_answer();
        tokio::spawn(async move {
            tokio::time::sleep(patience).await;
            for watch in old {
                watch.tell(Stop::Now);
            }
        });
    }

    /// Returns how long a connection may take to end: the time of its last request, and the time to close.
    fn last_answer(&self) -> Duration {
        self.api.routes().longest_timeout() + self.bounds.close
    }

    /// Logs how many lines about strangers were left out last.
    pub fn tell_left_out(&self, at_the_end: bool) {
        if let Some(count) = self.failed_handshakes.ended(at_the_end) {
            tracing::warn!("TLS handshake failed: {count} more times");
        }
        self.api.tell_left_out(at_the_end);
        identify::tell_left_out(at_the_end);
        forwarded::tell_left_out(at_the_end);
    }

    /// Finds out again who is a stranger, after the access rules have changed.
    pub fn look_again(&self) {
        self.slots.look_again(&self.api.access());
    }

    fn tell(&self, stop: Stop) {
        self.stop.fetch_max(stop as u8, Ordering::SeqCst);
        self.slots.tell(stop);
    }

    /// Runs one connection from its handshake to its end.
    async fn connect(self: Arc<Self>, tcp: TcpStream, remote: SocketAddr, watch: Arc<Watch>, entry: Entry) {
        if self.stop.load(Ordering::SeqCst) != 0 {
            return;
        }
        // An answer is one write. Waiting for more data would only delay it.
        let _ = tcp.set_nodelay(true);
        let Some((mut served, expiry)) = self.shake_hands(tcp, remote, &watch, entry.number).await else {
            return;
        };
        if let Some(expiry) = expiry {
            let passed = {
                let _elsewhere = self.elsewhere.enter();
                expiry.passed()
            };
            tokio::select! {
                biased;
                () = &mut served => return,
                () = passed => watch.end_access(AccessEnd::Expired),
            }
            // An HTTP/2 peer could delay the end of its connection forever.
            let _ = tokio::time::timeout(self.last_answer(), served).await;
        } else {
            served.await;
        }
    }

    async fn shake_hands(
        self: &Arc<Self>,
        tcp: TcpStream,
        remote: SocketAddr,
        watch: &Arc<Watch>,
        number: u64,
    ) -> Option<(Driven, Option<Expiry>)> {
        let acceptor = TlsAcceptor::from(self.tls.load_full());
        // Boxed like the connection below, so that an idle connection does not hold the memory of its handshake.
        let handshake = expiry::of_client(acceptor.accept(tcp));
        let mut handshake = Box::pin(tokio::time::timeout(self.bounds.head, handshake));
        let outcome = poll_fn(|cx| match watch.told(cx.waker()) {
            Some(_) => Poll::Ready(None),
            None => handshake.as_mut().poll(cx).map(Some),
        });
        match outcome.await? {
            Ok((Ok(tls), expiry)) => {
                return Some((self.serve(tls, expiry, remote, Arc::clone(watch), number), expiry));
            }
            Ok((Err(error), _)) => {
                if let Some(why) = handshake::describe_failure(&error) {
                    // Anybody can cause failures, so their lines are limited.
                    if let Some(left_out) = self.failed_handshakes.allow() {
                        let left_out = Some(left_out).filter(|&count| count != 0);
                        tracing::warn!(%remote, left_out, "TLS handshake failed: {why}");
                    }
                } else {
                    tracing::debug!(%remote, %error, "TLS handshake failed");
                }
            }
            Err(_) => tracing::debug!(%remote, "TLS handshake took too long"),
        }
        None
    }

    /// Creates the future that runs the connection, for the negotiated version of HTTP.
    fn serve(
        self: &Arc<Self>,
        tls: TlsStream<TcpStream>,
        expiry: Option<Expiry>,
        remote: SocketAddr,
        watch: Arc<Watch>,
        number: u64,
    ) -> Driven {
        let session = tls.get_ref().1;
        let is_http2 = session.alpn_protocol() == Some(b"h2");
        let identity = identify::identify(session.peer_certificates().unwrap_or_default());
        let is_known =
            self.slots.identify(number, identity.as_ref().ok().copied(), is_http2, &self.api.access());
        let peer = Peer { identity, expiry };
        let client = Client::new(Arc::clone(&self.api), peer, remote, is_http2, Arc::clone(&watch));
        let heads = Heads::new(Arc::clone(&self.heads), is_known);
        if is_http2 {
            let io = Box::new(WatchedIo::http2(tls, Arc::clone(&watch), heads));
            Box::pin(Arc::clone(self).serve_http2(io, client, watch, is_known))
        } else {
            let io = Box::new(WatchedIo::http1(tls, Arc::clone(&watch), heads));
            Box::pin(Arc::clone(self).serve_http1(io, client, watch))
        }
    }

    /// Creates the guard of a connection.
    ///
    /// Its timer belongs to the runtime elsewhere. So the threads that serve never sleep for a limited time, which would
    /// make the system set and unset a timer of its own at each request.
    fn guard(&self, watch: &Watch) -> Guard {
        let _elsewhere = self.elsewhere.enter();
        Guard::new(watch, self.bounds, self.api.routes().shortest_timeout())
    }

    async fn serve_http2(
        self: Arc<Self>,
        io: Box<WatchedIo>,
        client: Client,
        watch: Arc<Watch>,
        is_known: bool,
    ) {
        let (max_streams, window) =
            if is_known { (MAX_STREAMS, CONNECTION_WINDOW) } else { (MAX_STRANGER_STREAMS, STRANGER_WINDOW) };
        let executor = Http2Executor::new(Arc::clone(&watch), self.elsewhere.clone());
        let remote = client.remote();
        let mut connection = Box::pin(
            http2::Builder::new(executor.clone())
                .max_concurrent_streams(max_streams)
                .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
                .initial_connection_window_size(window)
                .initial_stream_window_size(None)
                .serve_connection(TokioIo::new(io), service_http2(client)),
        );
        let mut guard = self.guard(&watch);
        let shutdown = http2::Connection::graceful_shutdown;
        while let End::Rested =
            drive(&self.api, connection.as_mut(), shutdown, Some(&executor), &mut guard, remote, &watch).await
        {
        }
    }

    /// Serves HTTP/1.1. Without a request, hyper's buffers are freed. They are most of an idle connection's memory.
    async fn serve_http1(self: Arc<Self>, mut io: Box<WatchedIo>, client: Client, watch: Arc<Watch>) {
        let remote = client.remote();
        let mut service = service_http1(client, self.elsewhere.clone());
        let mut guard = self.guard(&watch);
        loop {
            if !rest(&mut io, &mut guard, &watch).await {
                // Close the TLS session properly, unless another client waits for the place.
                let makes_room = watch.is_told_now();
                let patience = if makes_room { Duration::ZERO } else { self.bounds.close };
                let _ = tokio::time::timeout(patience, io.shutdown()).await;
                return;
            }
            let mut connection = Box::pin(
                http1::Builder::new()
                    .header_read_timeout(None)
                    .max_header_size(MAX_HEAD)
                    .max_buf_size(HTTP1_BUFFER)
                    // Answers are sent from the buffer that is wiped, and not from a copy.
                    .writev(true)
                    .serve_connection(TokioIo::new(io), service),
            );
            let shutdown = http1::Connection::graceful_shutdown;
            match drive(&self.api, connection.as_mut(), shutdown, None, &mut guard, remote, &watch).await {
                End::Ended => return,
                End::Rested => {
                    let parts = Pin::into_inner(connection).into_parts();
                    (io, service) = (parts.io.into_inner(), parts.service);
                    if !parts.read_buf.is_empty() {
                        // It is the beginning of a pipelined head.
                        io.unread(parts.read_buf);
                    }
                }
            }
        }
    }
}

/// Creates the service that answers the requests of one HTTP/1.1 client.
fn service_http1(
    client: Client,
    elsewhere: Handle,
) -> impl Service<
    Request<Incoming>,
    Response = Response<AnswerBody>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<AnswerBody>, Infallible>> + Send,
> {
    let client = Arc::new(client);
    service_fn(move |request| {
        let watch = Arc::clone(client.watch());
        let answering = Movable::new(api::serve(Arc::clone(&client), request), elsewhere.clone());
        async move {
            let answer = answering.await;
            watch.http1_arrived();
            answer
        }
    })
}

/// Creates the service that answers the requests of one HTTP/2 client. Their executor decides where they run.
fn service_http2(
    client: Client,
) -> impl Service<
    Request<Incoming>,
    Response = Response<AnswerBody>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<AnswerBody>, Infallible>> + Send,
> {
    let client = Arc::new(client);
    service_fn(move |request| api::serve(Arc::clone(&client), request))
}

/// Counts connections that were closed to make room, and logs them now and then.
#[derive(Default)]
struct Evictions {
    count: u64,
    told: Option<Instant>,
}

impl Evictions {
    fn add(&mut self) {
        self.count += 1;
        if self.told.is_none_or(|told| told.elapsed() >= TELL_PAUSE) {
            tracing::warn!("closed {} connections of clients that may do nothing, to make room", self.count);
            *self = Self { count: 0, told: Some(Instant::now()) };
        }
    }
}

/// The place of a connection, which is given back when this is dropped.
struct Entry {
    connections: Arc<Connections>,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.slots.give_back(self.number);
    }
}
