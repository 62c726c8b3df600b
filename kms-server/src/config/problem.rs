//! Problems of a configuration, and warnings.

use std::fmt;

use serde::Serialize;

use crate::text::mask::mask;
use crate::text::terminal::escape;

/// A mistake, or something dubious: its place, its key, and what was expected. It is shown as one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, with the line if that is known, or the environment variable or flag.
    pub place: String,
    /// The path of the key, such as `tls.cert`. It is empty if the problem concerns the file as a whole.
    pub key: String,
    /// What is wrong and what was expected.
    pub message: String,
}

impl Problem {
    /// Creates a problem at `place` with `key`.
    ///
    /// Line ends in the message become blanks. API keys and private keys are hidden.
    pub fn new(place: impl Into<String>, key: impl Into<String>, message: impl AsRef<str>) -> Self {
        let message = mask(message.as_ref());
        let words: Vec<_> =
            message.split(['\r', '\n']).map(str::trim).filter(|line| !line.is_empty()).collect();
        // A key in quotes may be any text.
        let key = escape(&mask(&key.into())).into_owned();
        Self { place: place.into(), key, message: words.join(" ") }
    }

    /// Adds the unknown keys that were passed over beside this key or below it.
    ///
    /// Where a key is missing, it is mostly there under a wrong name.
    #[must_use]
    pub fn with_passed_over(mut self, warnings: &[Warning]) -> Self {
        let section = |key: &str| key.rsplit_once('.').map(|(section, _)| section.to_owned());
        let is_near = |key: &str| {
            section(key).is_some_and(|above| above == self.key || Some(above) == section(&self.key))
        };
        let near = warnings
            .iter()
            .map(|warning| &warning.problem)
            .filter(|problem| problem.message.starts_with(PASSED_OVER) && is_near(&problem.key));
        let near: Vec<_> =
            near.map(|Self { place, key, .. }| format!("{key} at {place}, an unknown key")).collect();
        if !near.is_empty() {
            self.message = format!("{}; passed over was {}", self.message, near.join("; and "));
        }
        self
    }
}

/// The beginning of the message of each warning of an unknown key.
pub const PASSED_OVER: &str = "passed over: unknown key";

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

/// A problem that does not prevent the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The problem.
    pub problem: Problem,
    /// Whether the key has no effect at all. That is a mistake, so `kms check` fails.
    pub has_no_effect: bool,
}

impl Warning {
    /// Creates a warning of a key whose effect somebody should know of.
    pub fn dubious(problem: Problem) -> Self {
        Self { problem, has_no_effect: false }
    }

    /// Creates a warning of a key that has no effect.
    pub fn no_effect(problem: Problem) -> Self {
        Self { problem, has_no_effect: true }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line_whatever_the_key_is_called() {
        let told = Problem::new("f.yml:1", "a\n\nb\u{1b}[2J.c", "first\nsecond").to_string();
        assert_eq!(told, "f.yml:1: a\\n\\nb\\u{1b}[2J.c: first second");
    }
}
