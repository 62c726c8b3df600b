//! Reads request bodies within limits, or discards them.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Bytes, Incoming};
use kms_core::Identity;
use zeroize::Zeroizing;

use crate::conn::here;

/// The size up to which a body that comes in one piece needs no permit.
const SMALL: usize = 16 * 1024;

/// The most bytes of an unwanted body that are read to keep the connection usable.
const MAX_IGNORED: usize = 64 * 1024;

/// The most bytes of bodies in several pieces, for all requests together.
const MAX_HELD: usize = 16 * 1024 * 1024;

/// The most of these bytes for the requests of one identity.
const MAX_HELD_BY_ONE: usize = MAX_HELD / 4;

/// A complete request body.
pub enum RequestBody {
    /// A body that came in one piece.
    One(Bytes),
    /// A body that came in several pieces, or an empty one.
    Joined(Zeroizing<Vec<u8>>, Option<BodyPermit>),
}

impl RequestBody {
    /// Takes the permit of a body, which has to be kept until the answer is sent.
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

/// Why a body cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is longer than the limit, or announces to be.
    TooLarge,
    /// The client left, or violated HTTP.
    Broken,
    /// There are too many large bodies already.
    Busy,
}

/// Reads a body of at most `limit` bytes, which is sent by `who`.
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
    // An announced length is an upper bound. A body of unknown length may take the whole limit.
    let most =
        body.size_hint().upper().map_or(limit, |length| usize::try_from(length).unwrap_or(limit).min(limit));
    let mut joined = Zeroizing::new(Vec::new());
    let mut permit = None;
    while let Some(frame) = here::stay(body.frame()).await {
        let Ok(data) = frame.map_err(|_| Unreadable::Broken)?.into_data() else { continue };
        if joined.is_empty() && body.is_end_stream() && data.len() <= limit.min(SMALL) {
            return Ok(RequestBody::One(data));
        }
        let total = joined.len() + data.len();
        if total > limit {
            return Err(Unreadable::TooLarge);
        }
        if total > joined.capacity() {
            // The buffer is sized for the received bytes and about as many again, and not for the announced length.
            let size = total.next_power_of_two().min(most).max(total);
            // Small bodies need a permit too: they are kept until their rest comes, and there may be many.
            permit.get_or_insert_with(|| BodyPermit::none_yet(room, who)).grow(size)?;
            // The buffer grows by hand, because a growing vector leaves an unwiped copy behind.
            let mut larger = Zeroizing::new(Vec::with_capacity(size));
            larger.extend_from_slice(&joined);
            joined = larger;
        }
        joined.extend_from_slice(&data);
    }
    Ok(RequestBody::Joined(joined, permit))
}

/// Reads and discards the rest of a body. Returns whether it came to its end.
///
/// It reads at most 64 KiB, and nothing if the client waits for `100 Continue`.
pub async fn ignore(body: &mut Incoming, expects_continue: bool) -> bool {
    let mut left = MAX_IGNORED;
    while !body.is_end_stream() {
        if expects_continue || body.size_hint().lower() > MAX_IGNORED as u64 {
            return false;
        }
        match here::stay(body.frame()).await {
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

/// The memory for bodies in several pieces, shared by all requests.
///
/// It has a limit for all clients together, and one for each identity, so that nobody alone can use all of it.
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

/// The permit of one body. Dropping it gives the memory back.
pub struct BodyPermit(Box<Taken>);

/// The permit is boxed, because every answer has a field for one, and few have one.
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
