//! The entries of a store in memory, in order and close together, and changes to them.
//!
//! An entry costs its own bytes and some nine more. The entries lie in blocks of up to 64. So a change moves the
//! bytes of one block, some kilobytes, however many entries there are.

mod block;
#[cfg(test)]
#[cfg(not(feature = "model"))]
mod tests;

use std::ops::Bound;

pub use block::Value;
use block::{Block, MAX_ENTRY_LEN};

/// The entries of a store by name.
#[derive(Default)]
pub struct Entries {
    /// No block is empty. Blocks and the entries in them are in the order of their names.
    blocks: Vec<Block>,
    len: usize,
    lost: usize,
}

/// One change of a batch.
#[derive(Clone, Copy)]
pub enum Change<'a> {
    /// Adds a value under a name that has none.
    Create(&'a str, &'a [u8]),
    /// Puts a value in the place of the one that the name has.
    Replace(&'a str, &'a [u8]),
    /// Removes a name with its value.
    Delete(&'a str),
}

impl Entries {
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the number of entries whose values are lost.
    pub fn lost(&self) -> usize {
        self.lost
    }

    /// Returns the value of a name; `None` where there is no such name.
    pub fn get(&self, name: &str) -> Option<Value<'_>> {
        let block = &self.blocks[self.block_of(name)?];
        block.find(name).ok().map(|n| block.value(n))
    }

    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Adds an entry, or replaces the value of the one with this name.
    pub fn insert(&mut self, name: &str, value: Value<'_>) {
        let value = value.filter(|value| value.len() <= MAX_ENTRY_LEN);
        let Some(mut at) = self.block_of(name) else {
            self.blocks.insert(0, Block::of(name, value));
            self.added(value);
            return;
        };
        match self.blocks[at].find(name) {
            Ok(n) => {
                self.lost -= usize::from(self.blocks[at].value(n).is_none());
                self.len -= 1;
                self.blocks[at].remove(n);
                self.blocks[at].insert(n, name, value);
            }
            Err(n) if self.blocks[at].has_room(name, value) => self.blocks[at].insert(n, name, value),
            // Names that come in order fill each block to the end.
            Err(n) if n == self.blocks[at].len() => self.blocks.insert(at + 1, Block::of(name, value)),
            Err(0) => self.blocks.insert(at, Block::of(name, value)),
            Err(mut n) => {
                let upper = self.blocks[at].split();
                self.blocks.insert(at + 1, upper);
                if n > self.blocks[at].len() {
                    n -= self.blocks[at].len();
                    at += 1;
                }
                self.blocks[at].insert(n, name, value);
            }
        }
        self.added(value);
    }

    /// Removes an entry, and returns the length of its value; that of a lost one is 0.
    pub fn remove(&mut self, name: &str) -> Option<usize> {
        let at = self.block_of(name)?;
        let n = self.blocks[at].find(name).ok()?;
        let value = self.blocks[at].value(n);
        let len = value.map_or(0, <[u8]>::len);
        self.lost -= usize::from(value.is_none());
        self.len -= 1;
        self.blocks[at].remove(n);
        if self.blocks[at].len() == 0 {
            self.blocks.remove(at);
        } else if at > 0 && self.blocks[at - 1].takes(&self.blocks[at]) {
            let upper = self.blocks.remove(at);
            self.blocks[at - 1].append(&upper);
        } else if at + 1 < self.blocks.len() && self.blocks[at].takes(&self.blocks[at + 1]) {
            let upper = self.blocks.remove(at + 1);
            self.blocks[at].append(&upper);
        }
        Some(len)
    }

    /// Returns the entries in the order of their names.
    pub fn iter(&self) -> Iter<'_> {
        Iter { blocks: &self.blocks, n: 0 }
    }

    /// Returns the entries from `start` on, in the order of their names.
    pub fn from(&self, start: Bound<&str>) -> Iter<'_> {
        let (name, is_after) = match start {
            Bound::Unbounded => return self.iter(),
            Bound::Included(name) => (name, false),
            Bound::Excluded(name) => (name, true),
        };
        let Some(block) = self.block_of(name) else { return self.iter() };
        let n = self.blocks[block].find(name).map_or_else(|n| n, |n| n + usize::from(is_after));
        Iter { blocks: &self.blocks[block..], n }
    }

    /// Cuts the entries into parts of so many blocks. Together they are all entries in order.
    pub fn parts(&self, blocks: usize) -> impl Iterator<Item = Iter<'_>> {
        self.blocks.chunks(blocks.max(1)).map(|blocks| Iter { blocks, n: 0 })
    }

    /// Adds entries whose names come after all names here.
    pub fn append(&mut self, mut after: Self) {
        self.blocks.append(&mut after.blocks);
        self.len += after.len;
        self.lost += after.lost;
    }

    /// Gives memory back that was taken for further entries.
    pub fn shrink(&mut self) {
        self.blocks.iter_mut().for_each(Block::shrink);
        self.blocks.shrink_to_fit();
    }

    fn added(&mut self, value: Value<'_>) {
        self.len += 1;
        self.lost += usize::from(value.is_none());
    }

    /// Returns the position of the block that has this name, or would take it. `None` where there are no blocks.
    fn block_of(&self, name: &str) -> Option<usize> {
        let last = self.blocks.len().checked_sub(1)?;
        // Names mostly come in order while a store is read.
        if self.blocks[last].first() <= name.as_bytes() {
            return Some(last);
        }
        Some(self.blocks.partition_point(|block| block.first() <= name.as_bytes()).saturating_sub(1))
    }
}

/// Entries that come in the order of their names, each name once.
#[derive(Default)]
pub struct Builder {
    entries: Entries,
    next: Block,
}

impl Builder {
    /// Adds an entry whose name comes after all names so far.
    pub fn push(&mut self, name: &str, value: Value<'_>) {
        let value = value.filter(|value| value.len() <= MAX_ENTRY_LEN);
        if !self.next.has_room(name, value) {
            self.end_block();
        }
        self.next.insert(self.next.len(), name, value);
        self.entries.added(value);
    }

    pub fn finish(mut self) -> Entries {
        self.end_block();
        self.entries.blocks.shrink_to_fit();
        self.entries
    }

    fn end_block(&mut self) {
        if self.next.len() > 0 {
            self.entries.blocks.push(self.next.take_copy());
        }
    }
}

impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> FromIterator<(N, Option<V>)> for Entries {
    fn from_iter<I: IntoIterator<Item = (N, Option<V>)>>(entries: I) -> Self {
        let mut all = Self::new();
        for (name, value) in entries {
            all.insert(name.as_ref(), value.as_ref().map(AsRef::as_ref));
        }
        all
    }
}

/// Entries in the order of their names.
#[derive(Clone)]
pub struct Iter<'a> {
    blocks: &'a [Block],
    n: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (block, rest) = self.blocks.split_first()?;
            if self.n < block.len() {
                self.n += 1;
                return Some((block.name(self.n - 1), block.value(self.n - 1)));
            }
            (self.blocks, self.n) = (rest, 0);
        }
    }
}
