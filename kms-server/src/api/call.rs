//! A request that passed all checks which need no body and no key.

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
use crate::json::{self, Malformed};

/// What is kept of a route's time for telling the client that the key store did not answer; of a short time, a tenth.
pub const MARGIN: Duration = Duration::from_millis(200);

/// A request that may be served: it passed all checks that need no body and no key.
pub struct Call<'a> {
    pub client: &'a Client,
    pub route: &'a Route,
    pub path: &'a str,
    /// What follows the route's own path: a name or a pattern.
    pub rest: &'a str,
    pub access: &'a AccessRules,
    /// How often these rules had been changed.
    pub access_changes: u32,
    pub routes: &'a Routes,
    /// Who asks, where it is known.
    pub identity: Option<Identity>,
    /// When that client's certificates end.
    pub expiry: Option<Expiry>,
    pub received: Instant,
    pub account: &'a Account<'a>,
}

impl Call<'_> {
    /// Reads the key's name off the path.
    pub fn key_name(&self) -> Result<KeyName, Reject> {
        KeyName::new(self.rest).map_err(|_| {
            let message =
                format!("key name '{}' is empty, too long or contains invalid characters", self.rest);
            Reject::bad_request(message)
        })
    }

    /// Reads a listing's prefix off the path, and the name after which it goes on.
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
        // `_` is no name, but names begin with it.
        let valid = KeyName::is_valid_prefix(prefix) || pattern == "_*" || (prefix == "_" && after.is_some());
        if !valid || after.is_some_and(|last| !KeyName::is_valid(last)) {
            return Err(invalid());
        }
        Ok((prefix, after))
    }

    /// Makes the request as the key management service sees it.
    pub fn request(&self) -> Result<Request, Reject> {
        // A route that anyone may call has nothing to do with keys.
        let identity = self.identity.ok_or_else(|| Reject::bad_request(Refusal::NoCertificate.message()))?;
        let deadline = self.received + self.route.timeout.saturating_sub(self.margin());
        Ok(Request::at(identity, self.received, deadline))
    }

    fn margin(&self) -> Duration {
        MARGIN.min(self.route.timeout / 10)
    }

    /// Returns until when an effect is waited for: a little longer than for it to begin, and less than the route's time.
    pub fn effect_deadline(&self) -> Instant {
        self.received + self.route.timeout.saturating_sub(self.margin() / 2)
    }

    /// Reads the body, and checks again what was allowed before it came.
    pub async fn read(&self, body: &mut Incoming) -> Result<RequestBody, Reject> {
        let room = &self.client.api.room;
        let read = body::read(body, self.route.max_body, room, self.identity).await;
        let body = read.map_err(|why| match why {
            Unreadable::TooLarge | Unreadable::Broken => self.invalid(Malformed).and_close(),
            Unreadable::Busy => {
                Reject::new(StatusCode::SERVICE_UNAVAILABLE, "too many large requests").and_close()
            }
        })?;
        // It may have been long in coming.
        self.authorize_again()?;
        Ok(body)
    }

    /// Reads base64 members of a JSON object.
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

    /// Returns what the log tells of the request when it fails.
    pub fn asked(&self) -> Asked {
        Asked { operation: self.route.operation, identity: self.identity, remote: self.client.remote }
    }

    /// Checks by the rules that are now in force what was allowed before the body came.
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
            Ok(()) if was_proxy => "who speaks for it is no proxy any more".to_owned(),
            Ok(()) => return Ok(()),
        };
        let remote = self.client.remote;
        tracing::warn!(%identity, path = self.path, %remote, "not authorized any more: {denial}");
        Err(Reject::not_authorized())
    }
}

/// Says why nothing is answered any more on a connection that is about to end.
pub fn access_ended(why: AccessEnd) -> Reject {
    let refusal = match why {
        AccessEnd::Expired => Reject::bad_request("tls: client certificate has expired"),
        // On another connection it may be accepted: clients try again.
        AccessEnd::RuleChanged => {
            let message = "the rule for client certificates has changed, connect again";
            Reject::new(StatusCode::SERVICE_UNAVAILABLE, message)
        }
    };
    refusal.and_close()
}

/// What was asked, and by whom.
#[derive(Clone, Copy)]
pub struct Asked {
    operation: Operation,
    pub identity: Option<Identity>,
    pub remote: SocketAddr,
}

impl Asked {
    /// Says what KES says to the client, and all that is known to the log.
    pub fn failed(&self, path: &str, error: &Error) -> Reject {
        let (status, message) = match error.kind() {
            ErrorKind::NotFound => (StatusCode::NOT_FOUND, "key does not exist"),
            ErrorKind::AlreadyExists => (StatusCode::BAD_REQUEST, "key already exists"),
            ErrorKind::NotAuthentic => {
                // What is more to tell than that may be news to the operator: the key is not the one that it was.
                if std::error::Error::source(error).is_some() {
                    let identity = self.identity.map(tracing::field::display);
                    tracing::warn!(identity, path, remote = %self.remote, "ciphertext is not authentic: {}", error.chain());
                }
                (StatusCode::BAD_REQUEST, "decryption failed: ciphertext is not authentic")
            }
            ErrorKind::NoHmacKey => (StatusCode::CONFLICT, "key does not support HMAC"),
            ErrorKind::InvalidInput => (StatusCode::BAD_REQUEST, "invalid request body"),
            ErrorKind::Unsupported => {
                (StatusCode::NOT_IMPLEMENTED, "operation is not supported by the key store")
            }
            // Nobody hears it.
            ErrorKind::Abandoned => return Reject::timed_out(),
            kind => return self.store_failed(kind, path, error),
        };
        Reject::new(status, message)
    }

    fn store_failed(&self, kind: ErrorKind, path: &str, error: &Error) -> Reject {
        let message = match self.operation {
            Operation::Create | Operation::Import => "failed to create key",
            Operation::Delete => "failed to delete key",
            Operation::List => "failed to list keys",
            _ => "failed to read key",
        };
        let identity = self.identity.map(tracing::field::display);
        tracing::error!(identity, path, remote = %self.remote, error = %error.chain(), "{message}");
        match kind {
            ErrorKind::Timeout => Reject::timed_out(),
            ErrorKind::Throttled => Reject::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests"),
            _ => Reject::new(StatusCode::BAD_GATEWAY, message),
        }
    }
}
