//! The room for heads that come in parts, shared by all connections, so that no number of them can fill the memory.
//!
//! A head that came at once is dropped after its checks. One of which the rest does not come is kept until its time is
//! over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The part of a head that needs no room.
const SMALL: usize = 2 * 1024;

/// The most connections that hold more than that, with 16 kB each at most.
const MAX_HELD: usize = 1024;

/// The most of these that are strangers'.
const MAX_STRANGERS: usize = MAX_HELD / 2;

/// The room of a server.
#[derive(Debug, Default)]
pub struct HeadRoom {
    all: AtomicUsize,
    strangers: AtomicUsize,
}

/// The part of the room that one connection has taken.
#[derive(Debug)]
pub struct Heads {
    room: Arc<HeadRoom>,
    is_known: bool,
    holds: bool,
}

impl Heads {
    /// Takes nothing yet.
    pub fn new(room: Arc<HeadRoom>, is_known: bool) -> Self {
        Self { room, is_known, holds: false }
    }

    /// Takes room for a head of which `len` bytes came, or gives it back. False if there is none.
    pub fn hold(&mut self, len: usize) -> bool {
        if len <= SMALL {
            self.give_back();
        } else if !self.holds {
            self.holds = self.take();
            return self.holds;
        }
        true
    }

    fn take(&self) -> bool {
        let take = |count: &AtomicUsize, most: usize| {
            let more = |held: usize| Some(held + 1).filter(|&held| held <= most);
            count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
        };
        if !take(&self.room.all, MAX_HELD) {
            return false;
        }
        let fits = self.is_known || take(&self.room.strangers, MAX_STRANGERS);
        if !fits {
            self.room.all.fetch_sub(1, Ordering::Relaxed);
        }
        fits
    }

    fn give_back(&mut self) {
        if std::mem::take(&mut self.holds) {
            self.room.all.fetch_sub(1, Ordering::Relaxed);
            if !self.is_known {
                self.room.strangers.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Heads {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_have_half_of_the_room_and_all_is_given_back() {
        let room = Arc::new(HeadRoom::default());
        let mut all = Vec::new();
        let mut begin = |is_known| {
            let mut heads = Heads::new(Arc::clone(&room), is_known);
            let fits = heads.hold(SMALL + 1) && heads.hold(SMALL + 2);
            all.push(heads);
            fits
        };
        assert_eq!((0..600).filter(|_| begin(false)).count(), MAX_STRANGERS);
        assert_eq!((0..600).filter(|_| begin(true)).count(), MAX_HELD - MAX_STRANGERS);
        for heads in &mut all {
            assert!(heads.hold(SMALL));
        }
        drop(all);
        assert_eq!((room.all.load(Ordering::Relaxed), room.strangers.load(Ordering::Relaxed)), (0, 0));
    }
}
