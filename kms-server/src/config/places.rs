//! Where a key of the configuration was set: the file and line, or the environment variable.

use std::collections::BTreeMap;

use super::problem::Problem;

/// The path of a key: `["tls", "cert"]`; an element of a list is named by its index.
pub type KeyPath = Vec<String>;

/// Knows the line of each key of a file.
pub type Lines = BTreeMap<KeyPath, usize>;

/// Knows where each key was set.
pub struct Places {
    file: String,
    lines: Lines,
    variables: BTreeMap<KeyPath, String>,
}

impl Places {
    /// Puts together the lines of `file` and the environment variables that were taken, by key.
    pub fn new(file: &str, lines: Lines, variables: BTreeMap<KeyPath, String>) -> Self {
        Self { file: file.to_owned(), lines, variables }
    }

    /// Tells where `path` was set, or what is nearest above it.
    pub fn of(&self, path: &[String]) -> String {
        for len in (1..=path.len()).rev() {
            if let Some(variable) = self.variables.get(&path[..len]) {
                return format!("environment variable {variable}");
            }
            if let Some(line) = self.lines.get(&path[..len]) {
                return format!("{}:{line}", self.file);
            }
        }
        self.file.clone()
    }

    /// Makes a problem with the key at `path`.
    pub fn problem(&self, path: &[String], message: impl AsRef<str>) -> Problem {
        Problem::new(self.of(path), dotted(path), message)
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
