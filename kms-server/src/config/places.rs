//! Where a key of the configuration was set: the file and line, or the environment variable.

use std::collections::BTreeMap;

use super::problem::Problem;

/// The path of a key: `["tls", "cert"]`; an element of a list is named by its index.
pub type KeyPath = Vec<String>;

/// Knows the line of each key of a file.
pub type Lines = BTreeMap<KeyPath, usize>;

/// Knows where each key was set.
#[derive(Debug, Default)]
pub struct Places {
    /// What the file is called.
    pub file: String,
    /// The lines of its keys.
    pub lines: Lines,
    /// The keys that are set by something else than the file, and by what.
    pub overrides: BTreeMap<KeyPath, String>,
    /// The keys that the file writes under a former name, and that name.
    pub written: Vec<(KeyPath, KeyPath)>,
}

impl Places {
    /// Tells where `path` was set, or what is nearest above it.
    pub fn of(&self, path: &[String]) -> String {
        for len in (1..=path.len()).rev() {
            if let Some(place) = self.overrides.get(&path[..len]) {
                return place.clone();
            }
            if let Some(line) = self.lines.get(&path[..len]) {
                return format!("{}:{line}", self.file);
            }
        }
        self.file.clone()
    }

    /// Tells whether `path` itself was set.
    pub fn is_set(&self, path: &[String]) -> bool {
        self.overrides.contains_key(path) || self.lines.contains_key(path)
    }

    /// Makes a problem with the key at `path`.
    pub fn problem(&self, path: &[String], message: impl AsRef<str>) -> Problem {
        Problem::new(self.of(path), self.name(path), message)
    }

    /// Names a key as it is written in the file.
    pub fn name(&self, path: &[String]) -> String {
        let mut path = path.to_vec();
        // The last renaming was made first of what is written.
        for (new, old) in self.written.iter().rev() {
            if path.starts_with(new) && !self.overrides.contains_key(&path) {
                path.splice(..new.len(), old.iter().cloned());
            }
        }
        dotted(&path)
    }
}

/// Splits the name of a key that has no dots within its parts.
pub fn path(dotted: &str) -> KeyPath {
    dotted.split('.').map(str::to_owned).collect()
}

/// Writes a path as text, list elements as `identities[0]`.
pub fn dotted(path: &[String]) -> String {
    let part = |(depth, part): (usize, &String)| match depth {
        0 => part.clone(),
        _ if part.bytes().all(|byte| byte.is_ascii_digit()) => format!("[{part}]"),
        _ => format!(".{part}"),
    };
    path.iter().enumerate().map(part).collect()
}
