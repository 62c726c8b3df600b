//! The memory for incomplete heads. All connections share its limit, so that no number of them can fill the memory.
//!
//! A head that comes at once is dropped after its checks. An incomplete head is kept until its time limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The size of a head up to which no permit is needed.
const SMALL: usize = 2 * 1024;

/// The most connections with a larger head, of 16 kB each at most.
const MAX_HELD: usize = 1024;

/// The most strangers among these connections.
const MAX_STRANGERS: usize = MAX_HELD / 2;

/// The limit of a server.
#[derive(Debug, Default)]
pub struct HeadRoom {
    all: AtomicUsize,
    strangers: AtomicUsize,
}

/// The permit of one connection.
#[derive(Debug)]
pub struct Heads {
    room: Arc<HeadRoom>,
    is_known: bool,
    holds: bool,
}

impl Heads {
    /// Creates a permit that is not taken yet.
    pub fn new(room: Arc<HeadRoom>, is_known: bool) -> Self {
        Self { room, is_known, holds: false }
    }

    /// Takes or gives back the permit, for a head of which `len` bytes came. Returns false if there is no permit left.
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
