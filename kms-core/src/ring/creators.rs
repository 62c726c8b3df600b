//! The creators of the keys in memory. Most keys have the same few, so each is there once.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use crate::sync::Mutex;

/// The most creators that are remembered.
const MOST: usize = 64;

/// The creator of a key: an identity, or a text of an old record. It is one word, since each key has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creator(Arc<String>);

impl Creator {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Creator {
    fn from(text: String) -> Self {
        Self(Arc::new(text))
    }
}

/// The creators that were seen last.
#[derive(Default)]
pub struct Creators(Mutex<VecDeque<Creator>>);

impl Creators {
    /// Returns the same text, which other keys may share.
    pub fn shared(&self, creator: Creator) -> Creator {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = seen.iter().find(|found| **found == creator) {
            return found.clone();
        }
        if seen.len() == MOST {
            seen.pop_front();
        }
        seen.push_back(creator.clone());
        creator
    }
}

#[cfg(test)]
#[cfg(not(feature = "model"))]
mod tests {
    use super::*;

    #[test]
    fn a_creator_that_was_seen_lately_is_there_once() {
        let creators = Creators::default();
        let text = |n: usize| Creator::from(n.to_string());
        let first = creators.shared(text(0));
        for n in 1..MOST {
            assert_eq!(creators.shared(text(n)).as_str(), n.to_string());
        }
        assert!(Arc::ptr_eq(&first.0, &creators.shared(text(0)).0));
        creators.shared(text(MOST));
        assert!(!Arc::ptr_eq(&first.0, &creators.shared(text(0)).0), "it was seen longest ago");
    }
}
