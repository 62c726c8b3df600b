//! A request to Vault.

use std::time::Duration;

use bytes::Bytes;
use kms_core::{Error, ErrorKind};
use reqwest::Method;
use reqwest::header::HeaderValue;
use rustify::endpoint::Endpoint;
use rustify::enums::RequestMethod;

/// The most bytes of an answer that holds one record, or an error.
pub const RECORD_LIMIT: usize = 1 << 20;

/// The most bytes of an answer that lists keys; 80 a name, so for half a million of them.
pub const LIST_LIMIT: usize = 64 << 20;

/// With whom a request shares the connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// With all that have none of the others.
    Ordinary,
    /// With other listings.
    Listing,
    /// With other requests about our token, so that reads of keys never keep us from a login.
    Token,
}

/// One request of ours.
#[derive(Clone)]
pub struct Call {
    /// The HTTP method.
    pub method: Method,
    /// The path under `/v1/`, as it is and not percent-encoded.
    pub path: String,
    /// The query, if there is one.
    pub query: Option<&'static str>,
    /// A JSON body.
    pub body: Option<Bytes>,
    /// How long it may take; the configured time if absent.
    pub timeout: Option<Duration>,
    /// The most bytes that the answer may have.
    pub limit: usize,
    /// With whom it shares the connections.
    pub share: Share,
}

/// Whom a request is from: the token, and the namespace that it is for.
pub struct Credentials<'a> {
    /// The token, for a header; none for a login.
    pub token: Option<&'a HeaderValue>,
    /// The namespace.
    pub namespace: Option<&'a str>,
}

impl Call {
    /// Makes a request to read, on a route that vaultrs does not define.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// Makes a request to write: a record, or on a route that vaultrs does not define.
    pub fn put(path: impl Into<String>, body: Bytes) -> Self {
        Self { body: Some(body), ..Self::new(Method::PUT, path) }
    }

    /// Makes a request of the method and the path that vaultrs defines.
    ///
    /// A body with a secret is ours: vaultrs would write it into a vector that grows, and copy it, and wipe none of them.
    pub fn to(endpoint: &impl Endpoint) -> Self {
        let path = endpoint.path();
        // Some of vaultrs's paths begin with a slash, one of them with a tab before it. No path of ours does.
        let path = path.trim_start_matches(['\t', '/']);
        match endpoint.method() {
            // The method LIST means the same, but not every proxy lets it pass.
            RequestMethod::LIST => {
                Self { query: Some("list=true"), limit: LIST_LIMIT, share: Share::Listing, ..Self::get(path) }
            }
            method => Self::new(method.into(), path),
        }
    }

    /// Makes the request that vaultrs defines, with its body, which must hold no secret.
    pub fn with_body_of(endpoint: &impl Endpoint) -> kms_core::Result<Self> {
        let body = endpoint.body().map_err(|error| {
            Error::with_source(ErrorKind::Internal, "write a request to Vault", error.to_string())
        })?;
        // Of an object without fields vaultrs makes an empty body, which is no JSON.
        let body = body.map(|body| if body.is_empty() { Bytes::from_static(b"{}") } else { body.into() });
        Ok(Self { body, ..Self::to(endpoint) })
    }

    /// Makes it one about our token.
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
