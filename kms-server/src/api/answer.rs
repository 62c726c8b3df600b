//! Answers: one buffer of known length with few headers, events without an end, or a backup.

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, TRAILER,
};
use http::{HeaderMap, Response, StatusCode};
use hyper::body::{Body, Buf, Frame, SizeHint};
use serde::Serialize;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::body::BodyPermit;
use super::route::Verb;
use crate::access::expiry::Expiry;
use crate::conn::watch::Watch;
use crate::json;
use crate::telemetry::hub::Reader;
use crate::telemetry::metrics::TEXT_FORMAT;

/// An answer before it is an HTTP response.
pub struct Answer {
    status: StatusCode,
    content_type: Option<HeaderValue>,
    body: Zeroizing<Vec<u8>>,
    expected: Option<Verb>,
    location: Option<&'static str>,
    plain_page: bool,
    close: bool,
    permit: Option<BodyPermit>,
    events: Option<Box<Events>>,
}

impl Answer {
    /// Answers 200 without a body.
    pub fn done() -> Self {
        Self {
            status: StatusCode::OK,
            content_type: None,
            body: Zeroizing::default(),
            expected: None,
            location: None,
            plain_page: false,
            close: false,
            permit: None,
            events: None,
        }
    }

    /// Answers 200 with metrics in Prometheus's text format.
    pub fn metrics(body: Vec<u8>) -> Self {
        Self { content_type: Some(METRICS), body: Zeroizing::new(body), ..Self::done() }
    }

    /// Answers 200 with lines of JSON that end only with their reader's certificate.
    pub fn events(lines: Reader, expiry: Option<Expiry>) -> Self {
        Self { content_type: Some(JSON_LINES), ..Self::flowing(Source::Log(lines), expiry) }
    }

    /// Answers 200 with a backup. It breaks off if no [`Part::End`] comes, or if the client's certificate ends before.
    pub fn backup(parts: mpsc::Receiver<Part>, expiry: Option<Expiry>) -> Self {
        Self { content_type: Some(BYTES), ..Self::flowing(Source::Backup(parts), expiry) }
    }

    fn flowing(source: Source, expiry: Option<Expiry>) -> Self {
        let until = expiry.map(|expiry| Box::pin(expiry.passed()) as _);
        Self { events: Some(Box::new(Events { source, until, watch: None })), ..Self::done() }
    }

    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns whether the answer has no end of its own.
    pub fn is_endless(&self) -> bool {
        self.events.is_some()
    }

    /// Notes in the connection's `watch` that this answer has no end, and later its end.
    pub fn watch(&mut self, watch: &Arc<Watch>, is_http2: bool) {
        if let Some(events) = &mut self.events {
            watch.endless_begins(is_http2);
            events.watch = Some((Arc::clone(watch), is_http2));
        }
    }

    /// Answers 200 with `value` as a line of JSON.
    pub fn json(value: &impl Serialize) -> Self {
        Self::json_line(json::line(value))
    }

    /// Answers 200 with a line of JSON, which may hold a secret.
    pub fn json_line(body: Vec<u8>) -> Self {
        Self { content_type: Some(JSON), body: Zeroizing::new(body), ..Self::done() }
    }

    /// Answers that there is no such route, as Go's HTTP server does.
    pub fn no_such_route() -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            content_type: Some(PLAIN),
            body: Zeroizing::new(b"404 page not found\n".to_vec()),
            plain_page: true,
            ..Self::done()
        }
    }

    /// Redirects a client that omitted the `/` at the end, as Go's HTTP server does.
    pub fn redirect(method: &http::Method, path: &'static str) -> Self {
        let is_read = method == http::Method::GET || method == http::Method::HEAD;
        let page =
            if is_read { format!("<a href=\"{path}\">Temporary Redirect</a>.\n\n") } else { String::new() };
        Self {
            status: StatusCode::TEMPORARY_REDIRECT,
            content_type: is_read.then_some(HTML),
            body: Zeroizing::new(page.into_bytes()),
            location: Some(path),
            ..Self::done()
        }
    }

    /// Closes the connection after this answer.
    #[must_use]
    pub fn and_close(mut self) -> Self {
        self.close = true;
        self
    }

    /// Keeps the permit of a large request until this answer is sent.
    #[must_use]
    pub fn holding(mut self, permit: Option<BodyPermit>) -> Self {
        self.permit = permit;
        self
    }

    /// Returns whether the connection is closed after the answer.
    pub fn closes(&self) -> bool {
        self.close
    }

    /// Converts it into an HTTP response. The response to a `HEAD` request has the length of the body, and no body.
    pub fn into_response(self, to_head: bool, is_http2: bool) -> Response<AnswerBody> {
        let len = self.body.len();
        let body = if to_head || len == 0 {
            None
        } else {
            Some(Chunk { bytes: self.body, sent: 0, _permit: self.permit })
        };
        let events = self.events.filter(|_| !to_head);
        let explicit_length = body.is_none() && events.is_none();
        let is_backup = events.as_ref().is_some_and(|events| matches!(events.source, Source::Backup(_)));
        let mut response = Response::new(AnswerBody { chunk: body, events });
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let Some(content_type) = self.content_type {
            headers.insert(CONTENT_TYPE, content_type);
        }
        if explicit_length {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
        }
        if is_backup {
            headers.insert(TRAILER, HeaderValue::from_static(SUMMARY));
        }
        if let Some(verb) = self.expected {
            headers.insert(HeaderName::from_static("accept"), HeaderValue::from_static(verb.name()));
            headers.insert(ALLOW, HeaderValue::from_static(verb.allow()));
        }
        if let Some(location) = self.location {
            headers.insert(LOCATION, HeaderValue::from_static(location));
        }
        if self.plain_page {
            headers.insert(
                HeaderName::from_static("x-content-type-options"),
                HeaderValue::from_static("nosniff"),
            );
        }
        if self.close && !is_http2 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const JSON_LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");
const METRICS: HeaderValue = HeaderValue::from_static(TEXT_FORMAT);
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A refusal: its status, and the text that clients of KES compare.
#[derive(Debug)]
pub struct Reject {
    status: StatusCode,
    message: Cow<'static, str>,
    expected: Option<Verb>,
    close: bool,
}

impl Reject {
    /// Creates a refusal with `status` and `message`.
    pub fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), expected: None, close: false }
    }

    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Creates a refusal with 400 of what the client sent.
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Creates the refusal of a method that the route does not have.
    pub fn wrong_method(method: &http::Method, expected: Verb) -> Self {
        let message = format!("received method '{method}' expected '{}'", expected.name());
        Self { expected: Some(expected), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, message) }
    }

    /// Creates the refusal of a request that no policy allows.
    pub fn not_authorized() -> Self {
        Self::new(StatusCode::FORBIDDEN, "not authorized: insufficient permissions")
    }

    /// Creates the refusal of a request whose timeout is over.
    pub fn timed_out() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "request timed out")
    }

    /// Closes the connection after this answer.
    #[must_use]
    pub fn and_close(mut self) -> Self {
        self.close = true;
        self
    }
}

/// A body that is only a message.
#[derive(Serialize)]
pub struct Message<'a> {
    pub message: &'a str,
}

impl From<Reject> for Answer {
    fn from(reject: Reject) -> Self {
        let mut body = Vec::with_capacity(reject.message.len() + 16);
        json::push(&mut body, &Message { message: &reject.message });
        // KES ends the line of an error before the closing brace.
        body.pop();
        body.extend_from_slice(b"\n}");
        Self {
            status: reject.status,
            content_type: Some(JSON),
            body: Zeroizing::new(body),
            expected: reject.expected,
            close: reject.close,
            ..Self::done()
        }
    }
}

/// The trailer of a whole backup, with its figures as JSON.
pub const SUMMARY: &str = "kms-backup";

/// A part of a backup.
pub enum Part {
    /// Sealed bytes.
    Bytes(Vec<u8>),
    /// The end of a whole backup, with its figures.
    End(HeaderValue),
}

/// Why a body ends before its end.
#[derive(Clone, Copy, Debug)]
pub struct BrokenOff;

impl fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a backup was broken off")
    }
}

impl std::error::Error for BrokenOff {}

/// The body of an answer: at most one buffer, which is wiped after it was sent, events without an end, or a backup.
pub struct AnswerBody {
    chunk: Option<Chunk>,
    events: Option<Box<Events>>,
}

/// Where the parts of a body come from.
enum Source {
    Log(Reader),
    Backup(mpsc::Receiver<Part>),
}

/// Events or parts of a backup, which are sent as they come.
struct Events {
    source: Source,
    /// Completes when the reader's certificate has ended, if it ends.
    until: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    watch: Option<(Arc<Watch>, bool)>,
}

impl Drop for Events {
    fn drop(&mut self) {
        // The end of a reader that was cut off is noted already.
        let is_cut_off = matches!(&self.source, Source::Log(lines) if lines.is_cut_off());
        if let Some((watch, is_http2)) = &self.watch
            && !(*is_http2 && is_cut_off)
        {
            watch.endless_ends(*is_http2);
        }
    }
}

impl Body for AnswerBody {
    type Data = Chunk;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, BrokenOff>>> {
        if let Some(events) = &mut self.events {
            let is_over = events.until.as_mut().is_some_and(|until| until.as_mut().poll(cx).is_ready());
            let frame = |bytes| Frame::data(Chunk { bytes: Zeroizing::new(bytes), sent: 0, _permit: None });
            let part = match &mut events.source {
                Source::Log(_) if is_over => {
                    self.events = None;
                    return Poll::Ready(None);
                }
                Source::Log(lines) => {
                    return lines.poll_recv(cx).map(|lines| Some(Ok(frame(lines?.to_vec()))));
                }
                Source::Backup(_) if is_over => None,
                Source::Backup(parts) => std::task::ready!(parts.poll_recv(cx)),
            };
            if let Some(Part::Bytes(bytes)) = part {
                return Poll::Ready(Some(Ok(frame(bytes))));
            }
            self.events = None;
            return Poll::Ready(Some(match part {
                Some(Part::End(summary)) => {
                    let trailers = [(HeaderName::from_static(SUMMARY), summary)];
                    Ok(Frame::trailers(HeaderMap::from_iter(trailers)))
                }
                _ => Err(BrokenOff),
            }));
        }
        Poll::Ready(self.chunk.take().map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.chunk.is_none() && self.events.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.events.is_some() {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.chunk.as_ref().map_or(0, |chunk| chunk.remaining() as u64))
    }
}

/// The bytes of an answer. They are wiped when dropped, because they may hold a key.
pub struct Chunk {
    bytes: Zeroizing<Vec<u8>>,
    sent: usize,
    _permit: Option<BodyPermit>,
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.sent
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    fn advance(&mut self, count: usize) {
        self.sent = (self.sent + count).min(self.bytes.len());
    }
}
