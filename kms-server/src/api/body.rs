//! Request bodies: read within limits, or got out of the way.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Bytes, Incoming};
use zeroize::Zeroizing;

/// A body up to this size needs no permit.
const SMALL: usize = 16 * 1024;

/// How much of a body that nobody wants is read so that the connection can go on.
const MAX_IGNORED: usize = 64 * 1024;

/// The most bytes of large bodies that all requests together may hold.
const MAX_HELD: usize = 4 * 1024 * 1024;

/// A request body, whole.
pub enum RequestBody {
    /// It came in one piece.
    One(Bytes),
    /// It came in several, or empty.
    Joined(Zeroizing<Vec<u8>>, Option<BodyPermit>),
}

impl RequestBody {
    /// Hands out the permit of a large body, to be held until the answer is sent.
    pub fn take_permit(&mut self) -> Option<BodyPermit> {
        match self {
            Self::One(_) => None,
            Self::Joined(_, permit) => permit.take(),
        }
    }
}

impl Deref for RequestBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::One(bytes) => bytes,
            Self::Joined(bytes, _) => bytes,
        }
    }
}

/// Why there is no body to work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is, or claims to be, longer than the limit.
    TooLarge,
    /// The client went away, or does not speak HTTP properly.
    Broken,
    /// Too many large bodies are held already.
    Busy,
}

/// Reads a body of at most `limit` bytes.
pub async fn read(
    body: &mut Incoming,
    limit: usize,
    room: &Arc<BodyRoom>,
) -> Result<RequestBody, Unreadable> {
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        return Err(Unreadable::TooLarge);
    }
    // What it claims to be it will be at most; a body of unknown length may take all that is allowed.
    let most =
        body.size_hint().upper().map_or(limit, |length| usize::try_from(length).unwrap_or(limit).min(limit));
    let mut joined = Zeroizing::new(Vec::new());
    let mut permit = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Unreadable::Broken)?.into_data() else { continue };
        if joined.is_empty() && body.is_end_stream() && data.len() <= limit.min(SMALL) {
            return Ok(RequestBody::One(data));
        }
        let total = joined.len() + data.len();
        if total > limit {
            return Err(Unreadable::TooLarge);
        }
        if total > SMALL && permit.is_none() {
            permit = Some(room.reserve(most).ok_or(Unreadable::Busy)?);
            let left = most.saturating_sub(joined.len());
            joined.reserve_exact(left);
        }
        joined.extend_from_slice(&data);
    }
    Ok(RequestBody::Joined(joined, permit))
}

/// Reads and forgets what is left of a body, and tells whether it came to its end.
///
/// Not more than 64 KiB, and nothing at all when the client waits to be told to go on.
pub async fn ignore(body: &mut Incoming, expects_continue: bool) -> bool {
    let mut left = MAX_IGNORED;
    while !body.is_end_stream() {
        if expects_continue || body.size_hint().lower() > MAX_IGNORED as u64 {
            return false;
        }
        match body.frame().await {
            None => return true,
            Some(Err(_)) => return false,
            Some(Ok(frame)) => {
                let len = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(len) {
                    Some(rest) => left = rest,
                    None => return false,
                }
            }
        }
    }
    true
}

/// The room for large bodies, shared by all requests, so that no number of clients can fill the memory.
#[derive(Debug, Default)]
pub struct BodyRoom {
    held: AtomicUsize,
}

impl BodyRoom {
    fn reserve(self: &Arc<Self>, size: usize) -> Option<BodyPermit> {
        let fits = |held: usize| Some(held + size).filter(|&held| held <= MAX_HELD);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(BodyPermit { room: Arc::clone(self), size })
    }
}

/// Room taken by one large body, given back when dropped.
pub struct BodyPermit {
    room: Arc<BodyRoom>,
    size: usize,
}

impl Drop for BodyPermit {
    fn drop(&mut self) {
        self.room.held.fetch_sub(self.size, Ordering::Relaxed);
    }
}
