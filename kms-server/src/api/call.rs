//! A request that has passed all checks that need no body and no key.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::StatusCode;
use hyper::body::Incoming;
use kms_core::{Error, ErrorKind, Identity, KeyName, Request};
use zeroize::Zeroizing;

use super::account::Account;
use super::answer::Reject;
use super::body::{self, RequestBody, Unreadable};
use super::caller::Client;
use super::route::{CONTINUES, Operation, Route, Routes};
use crate::access::expiry::Expiry;
use crate::access::identify::Refusal;
use crate::access::policy::AccessRules;
use crate::conn::watch::AccessEnd;
use crate::escrow::NoEscrow;
use crate::json::{self, Malformed};

/// The end of a route's timeout that is reserved for the answer that the key store did not answer. Of a short timeout it is
/// a tenth.
pub const MARGIN: Duration = Duration::from_millis(200);

/// A request that may be served. It has passed all checks that need no body and no key.
pub struct Call<'a> {
    pub client: &'a Client,
    pub route: &'a Route,
    pub path: &'a str,
    /// The rest of the path after the route's own: a name or a pattern.
    pub rest: &'a str,
    pub access: &'a AccessRules,
    /// The number of changes of the access rules up to these.
    pub access_changes: u32,
    pub routes: &'a Routes,
    /// The identity of the client, if it is known.
    pub identity: Option<Identity>,
    /// The expiry of this client's certificates.
    pub expiry: Option<Expiry>,
    pub received: Instant,
    pub account: &'a Account<'a>,
}

impl Call<'_> {
    /// Returns the name of the key, from the path.
    pub fn key_name(&self) -> Result<KeyName, Reject> {
        KeyName::new(self.rest).map_err(|_| {
            let message =
                format!("key name '{}' is empty, too long or contains invalid characters", self.rest);
            Reject::bad_request(message)
        })
    }

    /// Returns the prefix of a listing, and the name after which it continues, from the path.
    pub fn listing(&self) -> Result<(&str, Option<&str>), Reject> {
        let invalid = || {
            let message = format!("listing pattern '{}' is empty, too long or is invalid", self.rest);
            Reject::bad_request(message)
        };
        let (pattern, after) = match self.rest.split_once(CONTINUES) {
            Some((prefix, last)) => (prefix, Some(last)),
            None => (self.rest, None),
        };
        let prefix = pattern.strip_suffix('*').unwrap_or(pattern);
        // `_` is not a name, but names may begin with it.
        let valid = KeyName::is_valid_prefix(prefix) || pattern == "_*" || (prefix == "_" && after.is_some());
        if !valid || after.is_some_and(|last| !KeyName::is_valid(last)) {
            return Err(invalid());
        }
        Ok((prefix, after))
    }

    /// Returns the request for the key management service.
    pub fn request(&self) -> Result<Request, Reject> {
        // A route that is open to everybody has nothing to do with keys.
        let identity = self.identity.ok_or_else(|| Reject::bad_request(Refusal::NoCertificate.message()))?;
        let deadline = self.received + self.route.timeout.saturating_sub(self.margin());
        Ok(Request::at(identity, self.received, deadline))
    }

    fn margin(&self) -> Duration {
        MARGIN.min(self.route.timeout / 10)
    }

    /// Returns how long an effect is waited for: a little longer than it has to begin, and less than the route's timeout.
    pub fn effect_deadline(&self) -> Instant {
        self.received + self.route.timeout.saturating_sub(self.margin() / 2)
    }

    /// Reads the body, and then checks the access rules again.
    pub async fn read(&self, body: &mut Incoming) -> Result<RequestBody, Reject> {
        let room = &self.client.api.room;
        let read = body::read(body, self.route.max_body, room, self.identity).await;
        let body = read.map_err(|why| match why {
            Unreadable::TooLarge | Unreadable::Broken => self.invalid(Malformed).and_close(),
            Unreadable::Busy => {
                Reject::new(StatusCode::SERVICE_UNAVAILABLE, "too many large requests").and_close()
            }
        })?;
        // The body may have taken long.
        self.authorize_again()?;
        Ok(body)
    }

    /// Reads the base64 members of a JSON object.
    pub fn decode<const N: usize>(
        &self,
        body: &[u8],
        names: [&'static str; N],
    ) -> Result<[Zeroizing<Vec<u8>>; N], Reject> {
        let members = json::members(body, names).map_err(|error| self.invalid(error))?;
        let mut decoded = std::array::from_fn(|_| Zeroizing::default());
        for (bytes, member) in decoded.iter_mut().zip(&members) {
            *bytes = member.decode().map_err(|error| self.invalid(error))?;
        }
        Ok(decoded)
    }

    pub fn invalid(&self, _: Malformed) -> Reject {
        Reject::bad_request(match self.route.operation {
            Operation::Import => "invalid import key request body",
            _ => "invalid request body",
        })
    }

    pub fn failed(&self, error: &Error) -> Reject {
        self.asked().failed(self.path, error)
    }

    /// Returns the facts for the log if the request fails.
    pub fn asked(&self) -> Asked {
        Asked { operation: self.route.operation, identity: self.identity, remote: self.client.remote }
    }

    /// Checks by the current rules what earlier rules allowed before the body came.
    fn authorize_again(&self) -> Result<(), Reject> {
        if self.client.watch.access_end() == Some(AccessEnd::Expired) {
            return Err(access_ended(AccessEnd::Expired));
        }
        let api = &self.client.api;
        if api.access_changes.load(Ordering::Acquire) == self.access_changes {
            return Ok(());
        }
        let (access, Some(identity)) = (api.access.load(), self.identity) else { return Ok(()) };
        let peer = self.client.peer.identity.ok();
        let was_proxy = peer != Some(identity) && peer.is_none_or(|peer| access.proxy(&peer).is_none());
        let denial = match access.authorize(&identity, &self.route.target(self.path, self.rest)) {
            Err(denial) => denial.to_string(),
            Ok(_) if was_proxy => "who speaks for it is no proxy any more".to_owned(),
            Ok(_) => return Ok(()),
        };
        let remote = self.client.remote;
        tracing::warn!(%identity, path = self.path, %remote, "not authorized any more: {denial}");
        Err(Reject::not_authorized())
    }
}

/// Returns the refusal on a connection that is about to end.
pub fn access_ended(why: AccessEnd) -> Reject {
    let refusal = match why {
        AccessEnd::Expired => Reject::bad_request("tls: client certificate has expired"),
        // Another connection may be accepted, so clients should try again.
        AccessEnd::RuleChanged => {
            let message = "the rule for client certificates has changed, connect again";
            Reject::new(StatusCode::SERVICE_UNAVAILABLE, message)
        }
    };
    refusal.and_close()
}

/// The request and its client, for the log.
#[derive(Clone, Copy)]
pub struct Asked {
    operation: Operation,
    pub identity: Option<Identity>,
    pub remote: SocketAddr,
}

impl Asked {
    /// Returns KES's refusal for the client, and logs everything that is known.
    pub fn failed(&self, path: &str, error: &Error) -> Reject {
        let (status, message) = match error.kind() {
            ErrorKind::NotFound => (StatusCode::NOT_FOUND, "key does not exist"),
            ErrorKind::AlreadyExists => (StatusCode::BAD_REQUEST, "key already exists"),
            ErrorKind::NotAuthentic => {
                // A further cause may be news to the operator: the key was replaced by another one.
                if std::error::Error::source(error).is_some() {
                    let identity = self.identity.map(tracing::field::display);
                    tracing::warn!(identity, path, remote = %self.remote, cause = error.as_dyn(), "ciphertext is not authentic");
                }
                (StatusCode::BAD_REQUEST, "decryption failed: ciphertext is not authentic")
            }
            ErrorKind::NoHmacKey => (StatusCode::CONFLICT, "key does not support HMAC"),
            ErrorKind::Conflict => {
                let identity = self.identity.map(tracing::field::display);
                tracing::warn!(identity, path, remote = %self.remote, cause = error.as_dyn());
                // The source is in words for the client.
                let why = std::error::Error::source(error).map(ToString::to_string);
                return Reject::new(StatusCode::CONFLICT, why.unwrap_or_else(|| error.kind().to_string()));
            }
            ErrorKind::Deleted => {
                let name = path.rsplit('/').next().unwrap_or_default();
                let message = format!("key is deleted; 'kms key restore {name}' brings it back");
                let identity = self.identity.map(tracing::field::display);
                tracing::warn!(identity, path, remote = %self.remote, cause = error.as_dyn());
                return Reject::new(StatusCode::CONFLICT, message);
            }
            ErrorKind::InvalidInput => (StatusCode::BAD_REQUEST, "invalid request body"),
            ErrorKind::Unsupported => {
                if std::error::Error::source(error).is_some() {
                    let identity = self.identity.map(tracing::field::display);
                    tracing::warn!(identity, path, remote = %self.remote, cause = error.as_dyn(), "not supported");
                }
                (StatusCode::NOT_IMPLEMENTED, "operation is not supported by the key store")
            }
            // Nobody receives this answer.
            ErrorKind::Abandoned => return Reject::timed_out(),
            kind => return self.store_failed(kind, path, error),
        };
        Reject::new(status, message)
    }

    fn store_failed(&self, kind: ErrorKind, path: &str, error: &Error) -> Reject {
        let message = match self.operation {
            Operation::Create | Operation::Import => "failed to create key",
            Operation::Delete => "failed to delete key",
            Operation::Rotate => "failed to rotate key",
            Operation::Retire => "failed to retire key version",
            Operation::Enable => "failed to enable key version",
            Operation::Restore => "failed to restore key",
            Operation::Purge => "failed to purge key",
            Operation::List | Operation::Deleted | Operation::Backup => "failed to list keys",
            _ => "failed to read key",
        };
        let identity = self.identity.map(tracing::field::display);
        tracing::error!(identity, path, remote = %self.remote, error = error.as_dyn(), "{message}");
        match kind {
            ErrorKind::Timeout => Reject::timed_out(),
            ErrorKind::Throttled => Reject::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests"),
            ErrorKind::ReadOnly if NoEscrow::is_under(error) => {
                Reject::new(StatusCode::SERVICE_UNAVAILABLE, "the escrow file cannot be written")
            }
            _ => Reject::new(StatusCode::BAD_GATEWAY, message),
        }
    }
}
