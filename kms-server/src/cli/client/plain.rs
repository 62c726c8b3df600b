//! Requests to the listener for probes, over plain HTTP.

use std::fmt;
use std::time::Duration;

use http::header::HOST;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::endpoint::{Endpoint, without_user};
use super::error::ClientError;

/// The default port of a URL.
const HTTP_PORT: u16 = 80;

/// The time limit of a request with its answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes of an answer.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// A listener for probes. It ends each connection after one answer.
pub struct Plain(Endpoint);

impl Plain {
    /// Parses `http://HOST[:PORT]`, which may have the path of the metrics behind it. Returns `None` for what has another scheme.
    pub fn parse(text: &str) -> Option<Result<Self, ClientError>> {
        let rest = text.trim().strip_prefix("http://")?;
        let host = rest.find('/').filter(|at| matches!(&rest[*at..], "/" | "/metrics" | "/v1/metrics"));
        let host = host.map_or(rest, |at| &rest[..at]);
        Some(Endpoint::of_authority(host, HTTP_PORT).map(Self).ok_or_else(|| {
            let listener = without_user(text);
            ClientError::Setup(format!(
                "invalid listener for probes '{}', expected http://HOST[:PORT]",
                listener.escape_debug()
            ))
        }))
    }

    /// Asks for a path. Returns the status and the body of the answer.
    pub async fn get(&self, path: &str) -> Result<(StatusCode, Vec<u8>), ClientError> {
        let Self(server) = self;
        let late = |_| ClientError::answer(server, format!("none within {} s", TIMEOUT.as_secs()));
        timeout(TIMEOUT, self.exchange(path)).await.map_err(late)?
    }

    async fn exchange(&self, path: &str) -> Result<(StatusCode, Vec<u8>), ClientError> {
        let Self(server) = self;
        let invalid = |_| ClientError::Setup(format!("'{path}' is no path"));
        let request = Request::builder().method(Method::GET).uri(path).header(HOST, server.to_string());
        let request = request.body(Empty::<Bytes>::new()).map_err(invalid)?;
        let stream = TcpStream::connect((server.host.as_str(), server.port));
        let stream = stream.await.map_err(|error| ClientError::connect(server, &error))?;
        let broken = |error: hyper::Error| ClientError::answer(server, error);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(broken)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            Ok((status, body.map_err(|error| ClientError::answer(server, error))?.to_bytes().into()))
        };
        tokio::pin!(exchange);
        tokio::select! {
            done = &mut exchange => return done,
            // The answer is there, or the reason why there is none.
            _ = connection => {}
        }
        exchange.await
    }
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_metrics_names_their_listener() {
        for url in ["http://h:7374", " http://h:7374/", "http://h:7374/metrics", "http://h:7374/v1/metrics"] {
            let plain = Plain::parse(url).unwrap().map_err(|error| error.to_string());
            assert_eq!(plain.unwrap().to_string(), "http://h:7374", "{url}");
        }
        assert!(Plain::parse("h:7374").is_none() && Plain::parse("https://h").is_none());
        for url in ["http://h:7374/other", "http://", "http://h:x", "http://user:s3cr3t@a b"] {
            let told = Plain::parse(url).unwrap().err().map(|error| error.to_string()).unwrap();
            assert!(told.ends_with("', expected http://HOST[:PORT]") && !told.contains("s3cr3t"), "{told}");
        }
    }
}
