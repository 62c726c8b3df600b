//! What is wrong with a configuration.

use std::fmt;

use serde::Serialize;

use crate::text::mask::mask;
use crate::text::terminal::escape;

/// One thing that is wrong, or dubious, in one line: where it stands, under which key, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, with its line if that is known, or the environment variable.
    pub place: String,
    /// The path of the key, such as `tls.cert`; empty when it is about the file as a whole.
    pub key: String,
    /// What is wrong and what was expected.
    pub message: String,
}

impl Problem {
    /// Makes a problem at `place` with `key`. Line ends in the message are replaced by blanks, and API keys and private keys
    /// are hidden.
    pub fn new(place: impl Into<String>, key: impl Into<String>, message: impl AsRef<str>) -> Self {
        let message = mask(message.as_ref());
        let words: Vec<_> =
            message.split(['\r', '\n']).map(str::trim).filter(|line| !line.is_empty()).collect();
        // A name in quotes may be any text.
        let key = escape(&mask(&key.into())).into_owned();
        Self { place: place.into(), key, message: words.join(" ") }
    }

    /// Adds what was passed over beside it, or in its section, as unknown: where something is missing, it is mostly that.
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

/// How the warning of an unknown key begins.
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

/// What works but is hardly meant so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What it is about.
    pub problem: Problem,
    /// What is written has no effect at all: a mistake, which `kms check` does not let pass.
    pub has_no_effect: bool,
}

impl Warning {
    /// Warns of what has an effect, but one that somebody should know of.
    pub fn dubious(problem: Problem) -> Self {
        Self { problem, has_no_effect: false }
    }

    /// Warns of what is written in vain.
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
