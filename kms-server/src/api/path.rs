//! The path of a request, without the head that it came in.

/// The longest path that needs no allocation. Paths with a name of usual length are shorter.
const SHORT: usize = 120;

/// A path that owns its text.
///
/// A slice of the head would keep the whole head in memory, and on HTTP/2 the frames that it was read with.
pub struct OwnPath {
    short: [u8; SHORT],
    len: usize,
    long: Option<Box<str>>,
}

impl OwnPath {
    /// Copies `path`.
    pub fn new(path: &str) -> Self {
        let mut own = Self { short: [0; SHORT], len: path.len(), long: None };
        match own.short.get_mut(..path.len()) {
            Some(short) => short.copy_from_slice(path.as_bytes()),
            None => own.long = Some(path.into()),
        }
        own
    }

    /// Returns the path.
    pub fn as_str(&self) -> &str {
        let short = || self.short.get(..self.len).and_then(|bytes| std::str::from_utf8(bytes).ok());
        self.long.as_deref().or_else(short).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_it_was_made_of() {
        for path in
            ["", "/version", "/v1/key/create/ä", &"x".repeat(120), &"x".repeat(121), &"/".repeat(9000)]
        {
            assert_eq!(OwnPath::new(path).as_str(), path);
        }
    }
}
