//! Who asks: the identity of a client, and the request that it makes.

use std::fmt;
use std::future::pending;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::sync::watch;

/// The identity of a client: SHA-256 of the DER `SubjectPublicKeyInfo` of its certificate.
///
/// It is written as 64 lower-case hex digits, as KES does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity([u8; 32]);

impl Identity {
    /// Computes the identity of a public key, given as the DER of its `SubjectPublicKeyInfo` (RFC 5280).
    pub fn of_public_key(spki_der: &[u8]) -> Self {
        Self(Sha256::digest(spki_der).into())
    }

    /// Reads 64 hex digits, in either case; anything else is `None`.
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

/// One request to a [`Kms`](crate::Kms): who asks, when it came, and until when an answer is of use.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who asks. Reads of the backend are limited by identity, and a created key names its creator.
    pub identity: Identity,
    /// When the request came: what is read from the backend after this is fresh for it.
    pub received: Instant,
    /// When the caller stops waiting for something to begin, or to be read. A create, import or delete that has begun is
    /// followed to its outcome, which may come later.
    pub deadline: Instant,
    /// Closed when the caller has left; `None` where it stays.
    waiter: Option<watch::Receiver<()>>,
}

impl Request {
    /// Makes a request that came just now and may take `timeout`.
    pub fn new(identity: Identity, timeout: Duration) -> Self {
        let received = Instant::now();
        Self::at(identity, received, received + timeout)
    }

    /// Makes a request that came at `received` and may take until `deadline`.
    pub fn at(identity: Identity, received: Instant, deadline: Instant) -> Self {
        Self { identity, received, deadline, waiter: None }
    }

    /// Sets another deadline.
    #[must_use]
    pub fn until(self, deadline: Instant) -> Self {
        Self { deadline, ..self }
    }

    /// Lets the caller leave, by dropping what is returned beside the request.
    ///
    /// What has not begun by then never does, and fails with [`Abandoned`](crate::ErrorKind::Abandoned).
    #[must_use]
    pub fn awaited(self) -> (Self, Waiter) {
        let (sender, receiver) = watch::channel(());
        (Self { waiter: Some(receiver), ..self }, Waiter(sender))
    }

    /// Tells whether the caller has left.
    pub fn is_abandoned(&self) -> bool {
        self.waiter.as_ref().is_some_and(|waiter| waiter.has_changed().is_err())
    }

    /// Waits until the caller leaves, which may be never.
    pub async fn abandoned(&self) {
        match &self.waiter {
            Some(waiter) => while waiter.clone().changed().await.is_ok() {},
            None => pending().await,
        }
    }
}

/// Somebody who waits for the outcome of a [`Request`], for as long as this is not dropped.
#[derive(Debug)]
pub struct Waiter(#[expect(dead_code, reason = "it is there to be dropped")] watch::Sender<()>);
