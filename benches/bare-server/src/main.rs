//! The least that a key server can be, as the yardstick of the figures: mTLS, HTTP/1.1 and HTTP/2, generate and decrypt with the
//! cryptography of an envelope, keys in memory, and nothing else.
//!
//!     bare-server --listen 127.0.0.1:PORT [--workers N]
//!
//! It has no store, no policies, no log, no metrics and no bounds. Every client with a certificate may do everything. Its keys
//! are known to everybody, so it protects nothing. It is no example of style either: what is wrong ends the process.

mod api;
mod keys;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket};

fn main() {
    let workers = argument("--workers").map_or(1, |number| number.parse().unwrap());
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .unwrap()
        .block_on(serve());
}

/// Returns the word after a flag.
fn argument(flag: &str) -> Option<String> {
    std::env::args().skip_while(|word| word != flag).nth(1)
}

async fn serve() {
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls::config()));
    let router = api::router(Arc::new(keys::Keys::new()));
    let listener = listen(argument("--listen").unwrap().parse().unwrap());
    loop {
        let (connection, _) = listener.accept().await.unwrap();
        connection.set_nodelay(true).unwrap();
        let (acceptor, router) = (acceptor.clone(), router.clone());
        tokio::spawn(async move {
            let handshake = tokio::time::timeout(Duration::from_secs(10), acceptor.accept(connection));
            let Ok(Ok(stream)) = handshake.await else { return };
            let (_, session) = stream.get_ref();
            let client = tls::identity(&session.peer_certificates().unwrap()[0]);
            let is_http2 = session.alpn_protocol() == Some(b"h2");
            let stream = TokioIo::new(stream);
            let service = TowerToHyperService::new(router.layer(axum::Extension(client)));
            // A connection that ends with an error has ended: its client knows.
            if is_http2 {
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(256)
                    .serve_connection(stream, service)
                    .await;
            } else {
                let _ = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(Duration::from_secs(30))
                    .pipeline_flush(true)
                    .serve_connection(stream, service)
                    .await;
            }
        });
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(4096).unwrap()
}
