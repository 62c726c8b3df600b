//! Some entries in the order of their names, in one piece of memory.

/// The longest entry that is kept, in bytes. A longer value counts as lost.
///
/// No store has one: values of more than some kilobytes were never taken. So the numbers in a block are small.
pub const MAX_ENTRY_LEN: usize = 64 << 20;

/// The value of an entry. `None` stands for a record that is lost: only its name is known.
pub type Value<'a> = Option<&'a [u8]>;

/// The most entries of a block.
const MOST: usize = 64;

/// The bytes that a block of more than one entry does not exceed.
const MOST_BYTES: usize = 32 << 10;

/// Set in [`At::name`] of an entry whose value is lost.
const LOST: u32 = 1 << 31;

/// Entries whose bytes follow one another: the name of each, and then its value.
#[derive(Default)]
pub struct Block {
    bytes: Vec<u8>,
    at: Vec<At>,
}

/// The place of an entry in its block.
#[derive(Clone, Copy)]
struct At {
    start: u32,
    /// The length of the name.
    name: u32,
}

impl Block {
    pub fn of(name: &str, value: Value<'_>) -> Self {
        let mut block = Self::default();
        block.insert(0, name, value);
        block
    }

    pub fn len(&self) -> usize {
        self.at.len()
    }

    /// Returns the bytes of the first name.
    pub fn first(&self) -> &[u8] {
        self.name_at(self.at[0])
    }

    pub fn name(&self, n: usize) -> &str {
        std::str::from_utf8(self.name_at(self.at[n])).unwrap_or_default()
    }

    fn name_at(&self, At { start, name }: At) -> &[u8] {
        &self.bytes[start as usize..][..(name & !LOST) as usize]
    }

    pub fn value(&self, n: usize) -> Value<'_> {
        let At { start, name } = self.at[n];
        (name & LOST == 0).then(|| &self.bytes[(start + name) as usize..self.end(n)])
    }

    /// Finds a name, or the place where it belongs.
    pub fn find(&self, name: &str) -> Result<usize, usize> {
        let name = name.as_bytes();
        // Names mostly come in order while a store is read.
        let after = match self.at.last() {
            Some(last) if self.name_at(*last) < name => return Err(self.at.len()),
            _ => self.at.partition_point(|at| self.name_at(*at) <= name),
        };
        match after.checked_sub(1) {
            Some(n) if self.name_at(self.at[n]) == name => Ok(n),
            _ => Err(after),
        }
    }

    /// Returns whether a further entry leaves the block small.
    pub fn has_room(&self, name: &str, value: Value<'_>) -> bool {
        let len = self.bytes.len() + name.len() + value.map_or(0, <[u8]>::len);
        self.len() < MOST && len <= MOST_BYTES
    }

    /// Returns whether this block and the one after it should be one.
    pub fn takes(&self, after: &Self) -> bool {
        self.len() + after.len() <= MOST / 2 && self.bytes.len() + after.bytes.len() <= MOST_BYTES / 2
    }

    /// Puts an entry in place `n`.
    pub fn insert(&mut self, n: usize, name: &str, value: Value<'_>) {
        let start = self.at.get(n).map_or(self.bytes.len(), |at| at.start as usize);
        let bytes = [name.as_bytes(), value.unwrap_or_default()];
        let len: usize = bytes.iter().map(|bytes| bytes.len()).sum();
        self.reserve(len);
        let before = self.bytes.len();
        self.bytes.resize(before + len, 0);
        self.bytes.copy_within(start..before, start + len);
        self.bytes[start..][..name.len()].copy_from_slice(bytes[0]);
        self.bytes[start + name.len()..][..bytes[1].len()].copy_from_slice(bytes[1]);
        let lost = if value.is_none() { LOST } else { 0 };
        self.at.insert(n, At { start: number(start), name: number(name.len()) | lost });
        for at in &mut self.at[n + 1..] {
            at.start += number(len);
        }
    }

    pub fn remove(&mut self, n: usize) {
        let (start, end) = (self.at[n].start as usize, self.end(n));
        self.bytes.drain(start..end);
        self.at.remove(n);
        for at in &mut self.at[n..] {
            at.start -= number(end - start);
        }
        if self.bytes.capacity() > 2 * self.bytes.len() {
            self.shrink();
        }
    }

    /// Takes the upper half off.
    pub fn split(&mut self) -> Self {
        let half = self.len() / 2;
        let start = self.at[half].start as usize;
        let bytes = self.bytes[start..].to_vec();
        let mut at = self.at.split_off(half);
        for at in &mut at {
            at.start -= number(start);
        }
        self.bytes.truncate(start);
        self.shrink();
        Self { bytes, at }
    }

    /// Returns a copy that takes no memory beyond its bytes, and becomes empty.
    pub fn take_copy(&mut self) -> Self {
        let copy = Self { bytes: self.bytes.clone(), at: self.at.clone() };
        self.bytes.clear();
        self.at.clear();
        copy
    }

    /// Adds all entries of the block after this one.
    pub fn append(&mut self, after: &Self) {
        let start = number(self.bytes.len());
        self.reserve(after.bytes.len());
        self.bytes.extend_from_slice(&after.bytes);
        self.at.extend(after.at.iter().map(|at| At { start: at.start + start, ..*at }));
    }

    pub fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.at.shrink_to_fit();
    }

    /// Makes room for some bytes and a few more, but not for as many again, as a vector does by itself.
    fn reserve(&mut self, len: usize) {
        if self.bytes.capacity() - self.bytes.len() < len {
            self.bytes.reserve_exact(len + self.bytes.len() / 8);
        }
    }

    /// Returns the bytes that are taken from the allocator.
    #[cfg(test)]
    #[cfg(not(feature = "model"))]
    pub fn taken(&self) -> usize {
        size_of::<Self>() + self.bytes.capacity() + self.at.capacity() * size_of::<At>()
    }

    fn end(&self, n: usize) -> usize {
        self.at.get(n + 1).map_or(self.bytes.len(), |at| at.start as usize)
    }
}

/// Converts a place in a block or a length. Each is far below the largest number, since entries are not longer than
/// [`MAX_ENTRY_LEN`].
fn number(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
