//! A set of the names of keys.

use crate::name::KeyName;
use crate::sync::SharedMap;

/// The names of the keys of which something was so at their last read.
pub struct Names(SharedMap<KeyName, ()>);

impl Names {
    /// Creates an empty set.
    pub fn new() -> Self {
        Self(SharedMap::new())
    }

    /// Notes whether it is so of this key.
    pub fn note(&self, name: &KeyName, is_so: bool) {
        let names = self.0.pin();
        if is_so {
            names.get_or_insert_with(name.clone(), || ());
        } else if names.get(name).is_some() {
            names.remove(name);
        }
    }

    /// Returns whether it is so of this key.
    pub fn has(&self, name: &KeyName) -> bool {
        self.0.pin().get(name).is_some()
    }
}
