//! Request bodies: read within limits, or got out of the way.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Bytes, Incoming};
use kms_core::Identity;
use zeroize::Zeroizing;

/// A body that comes in one piece needs no permit up to this size.
const SMALL: usize = 16 * 1024;

/// How much of a body that nobody wants is read so that the connection can go on.
const MAX_IGNORED: usize = 64 * 1024;

/// The most bytes of bodies that did not come in one piece, and that all requests together may hold.
const MAX_HELD: usize = 16 * 1024 * 1024;

/// The most of these that the requests of one identity may hold.
const MAX_HELD_BY_ONE: usize = MAX_HELD / 4;

/// A request body, whole.
pub enum RequestBody {
    /// It came in one piece.
    One(Bytes),
    /// It came in several, or empty.
    Joined(Zeroizing<Vec<u8>>, Option<BodyPermit>),
}

impl RequestBody {
    /// Hands out the permit of a body, to be held until the answer is sent.
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

/// Reads a body of at most `limit` bytes, which `who` sends.
pub async fn read(
    body: &mut Incoming,
    limit: usize,
    room: &Arc<BodyRoom>,
    who: Option<Identity>,
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
        if total > joined.capacity() {
            // Room is taken for what came and about as much again, and not for what was only announced.
            let size = total.next_power_of_two().min(most).max(total);
            // Also for a small one: what is kept until the rest comes is bounded, however many requests there are.
            permit.get_or_insert_with(|| BodyPermit::none_yet(room, who)).grow(size)?;
            // By hand: a vector that grows by itself leaves a copy behind that nobody wipes.
            let mut larger = Zeroizing::new(Vec::with_capacity(size));
            larger.extend_from_slice(&joined);
            joined = larger;
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

/// The room for bodies that come in parts, shared by all requests, so that no number of clients can fill the memory, and nobody
/// alone can fill the room.
#[derive(Debug, Default)]
pub struct BodyRoom {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    in_all: usize,
    by: HashMap<Option<Identity>, usize>,
}

impl BodyRoom {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room taken by one body, given back when dropped.
pub struct BodyPermit(Box<Taken>);

/// Boxed: every answer has place for a permit, and few have one.
struct Taken {
    room: Arc<BodyRoom>,
    who: Option<Identity>,
    size: usize,
}

impl BodyPermit {
    fn none_yet(room: &Arc<BodyRoom>, who: Option<Identity>) -> Self {
        Self(Box::new(Taken { room: Arc::clone(room), who, size: 0 }))
    }

    fn grow(&mut self, size: usize) -> Result<(), Unreadable> {
        self.0.grow(size)
    }
}

impl Taken {
    fn grow(&mut self, size: usize) -> Result<(), Unreadable> {
        let more = size.saturating_sub(self.size);
        let mut held = self.room.held();
        let by_one = held.by.get(&self.who).copied().unwrap_or(0) + more;
        let in_all = held.in_all + more;
        if by_one > MAX_HELD_BY_ONE || in_all > MAX_HELD {
            return Err(Unreadable::Busy);
        }
        held.in_all = in_all;
        held.by.insert(self.who, by_one);
        self.size += more;
        Ok(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut held = self.room.held();
        held.in_all -= self.size;
        if let Some(by_one) = held.by.get_mut(&self.who) {
            *by_one -= self.size;
            if *by_one == 0 {
                held.by.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_by_identity_and_given_back() {
        let room = Arc::new(BodyRoom::default());
        let permit = |name: u8| BodyPermit::none_yet(&room, Some(Identity::of_public_key(&[name])));
        let mut held: Vec<_> = (0..4).map(permit).collect();
        for permit in &mut held {
            permit.grow(MAX_HELD_BY_ONE / 2).unwrap();
            permit.grow(MAX_HELD_BY_ONE).unwrap();
            assert_eq!(permit.grow(MAX_HELD_BY_ONE + 1), Err(Unreadable::Busy));
        }
        let mut other = permit(9);
        assert_eq!(other.grow(1), Err(Unreadable::Busy));
        held.pop();
        other.grow(1).unwrap();
        drop((held, other));
        let left = room.held();
        assert!(left.in_all == 0 && left.by.is_empty(), "{left:?}");
    }
}
