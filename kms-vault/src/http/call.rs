//! A request to Vault.

use std::time::Duration;

use bytes::Bytes;
use kms_core::{Error, ErrorKind};
use reqwest::Method;
use reqwest::header::HeaderValue;
use rustify::endpoint::Endpoint;
use rustify::enums::RequestMethod;

/// The largest answer with one record or an error, in bytes.
pub const RECORD_LIMIT: usize = 1 << 20;

/// The largest answer with a list of keys, in bytes. At 80 bytes a name it has half a million names.
pub const LIST_LIMIT: usize = 64 << 20;

/// The group of requests that shares a number of connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// All requests of no other group.
    Ordinary,
    /// Listings.
    Listing,
    /// Requests about our token. They have a group of their own, so that reads of keys never keep us from a
    /// login.
    Token,
}

/// A request.
#[derive(Clone)]
pub struct Call {
    /// The HTTP method.
    pub method: Method,
    /// The path under `/v1/`, without percent-encoding.
    pub path: String,
    /// The query, if there is one.
    pub query: Option<&'static str>,
    /// A JSON body.
    pub body: Option<Bytes>,
    /// The longest time for the request. `None` is the configured time.
    pub timeout: Option<Duration>,
    /// The largest answer in bytes.
    pub limit: usize,
    /// The group that shares connections with it.
    pub share: Share,
}

/// The sender of a request: its token, and the namespace of the request.
pub struct Credentials<'a> {
    /// The token for a header. A login has none.
    pub token: Option<&'a HeaderValue>,
    /// The namespace.
    pub namespace: Option<&'a str>,
}

impl Call {
    /// Creates a request to read, on a route that vaultrs does not define.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// Creates a request to write a record, or one on a route that vaultrs does not define.
    pub fn put(path: impl Into<String>, body: Bytes) -> Self {
        Self { body: Some(body), ..Self::new(Method::PUT, path) }
    }

    /// Creates a request with the method and the path that vaultrs defines.
    ///
    /// A body with a secret is made here. vaultrs would write it into a vector that grows, copy it, and wipe
    /// nothing.
    pub fn to(endpoint: &impl Endpoint) -> Self {
        let path = endpoint.path();
        // Some paths of vaultrs begin with a slash, and one with a tab before it. No path of ours does.
        let path = path.trim_start_matches(['\t', '/']);
        match endpoint.method() {
            // The method LIST means the same, but not every proxy lets it pass.
            RequestMethod::LIST => {
                Self { query: Some("list=true"), limit: LIST_LIMIT, share: Share::Listing, ..Self::get(path) }
            }
            method => Self::new(method.into(), path),
        }
    }

    /// Creates the request that vaultrs defines, with its body. The body must hold no secret.
    pub fn with_body_of(endpoint: &impl Endpoint) -> kms_core::Result<Self> {
        let body = endpoint.body().map_err(|error| {
            Error::with_source(ErrorKind::Internal, "write a request to Vault", error.to_string())
        })?;
        // vaultrs makes an empty body of an object without fields. That is no JSON.
        let body = body.map(|body| if body.is_empty() { Bytes::from_static(b"{}") } else { body.into() });
        Ok(Self { body, ..Self::to(endpoint) })
    }

    /// Moves the request to the group of those about our token.
    #[must_use]
    pub fn about_token(self) -> Self {
        Self { share: Share::Token, ..self }
    }

    fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: None,
            body: None,
            timeout: None,
            limit: RECORD_LIMIT,
            share: Share::Ordinary,
        }
    }
}
