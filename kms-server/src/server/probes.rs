//! Health and metrics over plain HTTP, for probes without a certificate. Nothing here gives access to keys.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tower_service::Service as _;

use crate::api::{Api, Readiness};
use crate::host::listen::listen;
use crate::telemetry::metrics::TEXT_FORMAT;

/// The most connections at once. The oldest one makes room for another.
const MAX_CONNECTIONS: usize = 64;

/// How long a probe may take to send its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a connection may last in any case.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// A listener for probes.
pub struct Probes {
    listener: TcpListener,
    address: SocketAddr,
}

impl Probes {
    /// Begins to listen.
    pub fn listen(address: SocketAddr) -> std::io::Result<Self> {
        let (listener, address) = listen(address)?;
        Ok(Self { listener: TcpListener::from_std(listener)?, address })
    }

    /// Returns the address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers probes until it is dropped.
    pub async fn serve(self, api: Arc<Api>) {
        let router = Router::new()
            .route("/v1/ready", get(ready))
            .route("/metrics", get(metrics))
            .route("/v1/metrics", get(kes_metrics))
            .with_state(api);
        let mut live = Live::default();
        loop {
            let Ok((tcp, _)) = self.listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let router = router.clone();
            live.make_room();
            let task = tokio::spawn(async move {
                let _ = tokio::time::timeout(CONNECTION_TIMEOUT, serve_one(tcp, router)).await;
            });
            live.0.push_back(task.abort_handle());
        }
    }
}

/// The current connections, oldest first.
#[derive(Default)]
struct Live(VecDeque<AbortHandle>);

impl Live {
    fn make_room(&mut self) {
        if self.0.len() >= MAX_CONNECTIONS {
            self.0.retain(|task| !task.is_finished());
        }
        if self.0.len() >= MAX_CONNECTIONS
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

async fn serve_one(tcp: TcpStream, router: Router) {
    let service = service_fn(move |request| {
        let mut router = router.clone();
        async move { Ok::<_, Infallible>(router.call(request).await.into_response()) }
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(tcp), service)
        .await;
}

/// Answers 200 while keys can be served. The body says what is wrong.
async fn ready(State(api): State<Arc<Api>>) -> impl IntoResponse {
    if api.audit().refuses() {
        return (StatusCode::SERVICE_UNAVAILABLE, "requests cannot be recorded\n".to_owned());
    }
    match api.readiness_in_time().await {
        Some(Readiness { status, amiss }) => {
            (status, amiss.map(|amiss| format!("{amiss}\n")).unwrap_or_default())
        }
        None => (StatusCode::GATEWAY_TIMEOUT, "request timed out\n".to_owned()),
    }
}

async fn metrics(State(api): State<Arc<Api>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, TEXT_FORMAT)], api.metrics_text())
}

async fn kes_metrics(State(api): State<Arc<Api>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, TEXT_FORMAT)], api.metrics().kes_text())
}
