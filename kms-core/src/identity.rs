//! The identity of a caller, and its request.

use std::fmt;
use std::future::pending;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::sync::watch;

/// The deadline of a request whose timeout is too long to add.
const FAR_FUTURE: Duration = Duration::from_secs(30 * 365 * 86_400);

/// The identity of a caller.
///
/// The library uses identities for two things:
///
/// * A new key records the identity of its creator ([`KeyInfo::created_by`](crate::KeyInfo::created_by)).
/// * No identity can use up the concurrent reads of a backend: a key ring makes at most 64 at once, and at most 16 for
///   one identity.
///
/// An identity grants no rights. Whether a caller may do something is decided before the library is called; in the key
/// server, its policies decide.
///
/// A program that embeds the library has one identity, [`of_program`](Self::of_program). A server that serves clients
/// over TLS takes the identity of each from the client's certificate, [`of_public_key`](Self::of_public_key). The text
/// form is 64 lower-case hex digits, as in KES.
///
/// ```
/// use kms_core::Identity;
///
/// let identity = Identity::of_program("invoices");
/// assert_eq!(Identity::from_hex(&identity.to_string()), Some(identity));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity([u8; 32]);

impl Identity {
    /// Returns the identity of a program that embeds the library, from a name that the program chooses.
    ///
    /// The same name is the same identity in every run and on every machine. It is SHA-256 of `program:` and the name, so
    /// it equals the identity of no public key.
    pub fn of_program(name: &str) -> Self {
        Self(Sha256::new().chain_update(b"program:").chain_update(name).finalize().into())
    }

    /// Returns the identity of a TLS client: SHA-256 of its public key.
    ///
    /// `spki_der` is the DER of the `SubjectPublicKeyInfo` in the client's certificate (RFC 5280).
    pub fn of_public_key(spki_der: &[u8]) -> Self {
        Self(Sha256::digest(spki_der).into())
    }

    /// Parses 64 hex digits, in either case; returns `None` for any other text.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// Returns the 32 bytes of the digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The caller, the time and the deadline of one call of a [`Kms`](crate::Kms).
///
/// Only code that passes on the requests of others makes its own, such as a server. A program that embeds the library
/// has a [`Client`](crate::Client), which makes a request for each call.
#[derive(Clone, Debug)]
pub struct Request {
    /// The identity of the caller.
    pub identity: Identity,
    /// The time when the request came. A key that was read from the backend later is fresh for this request.
    pub received: Instant,
    /// The time when the caller stops waiting for a read, or for an operation to begin.
    ///
    /// A create, import or delete that has begun is followed to its outcome, and that may come later.
    pub deadline: Instant,
    /// Closed when the caller has left; `None` if the caller cannot leave.
    waiter: Option<watch::Receiver<()>>,
}

impl Request {
    /// Creates a request that comes now and has its deadline after `timeout`.
    ///
    /// A timeout beyond the range of [`Instant`] counts as 30 years.
    pub fn new(identity: Identity, timeout: Duration) -> Self {
        let received = Instant::now();
        let deadline = received.checked_add(timeout).unwrap_or_else(|| received + FAR_FUTURE);
        Self::at(identity, received, deadline)
    }

    /// Creates a request that came at `received`.
    pub fn at(identity: Identity, received: Instant, deadline: Instant) -> Self {
        Self { identity, received, deadline, waiter: None }
    }

    /// Sets the deadline.
    #[must_use]
    pub fn until(self, deadline: Instant) -> Self {
        Self { deadline, ..self }
    }

    /// Makes it possible for the caller to leave: it does so by dropping the [`Waiter`].
    ///
    /// An operation that has not begun by then never begins, and fails with
    /// [`ErrorKind::Abandoned`](crate::ErrorKind::Abandoned).
    #[must_use]
    pub fn awaited(self) -> (Self, Waiter) {
        let (sender, receiver) = watch::channel(());
        (Self { waiter: Some(receiver), ..self }, Waiter(sender))
    }

    /// Returns `true` if the caller has left.
    pub fn is_abandoned(&self) -> bool {
        self.waiter.as_ref().is_some_and(|waiter| waiter.has_changed().is_err())
    }

    /// Waits until the caller leaves. That may be never.
    pub async fn abandoned(&self) {
        match &self.waiter {
            Some(waiter) => while waiter.clone().changed().await.is_ok() {},
            None => pending().await,
        }
    }
}

/// The caller of a [`Request`] as long as it waits for the outcome: drop it to leave.
#[derive(Debug)]
pub struct Waiter(#[expect(dead_code, reason = "it is there to be dropped")] watch::Sender<()>);
