//! What the checks of all sections share.

use std::path::PathBuf;

use super::super::environment::Environment;
use super::super::layers::Layers;
use super::super::node::Key;
use super::super::problem::{Problem, Warning};

/// What the checks need besides the sections, and the warnings that they collect.
pub struct Context<'a> {
    /// Where each key was set.
    pub layers: &'a Layers,
    /// Whether the file is one for KES: `keystore.fs.path` is a directory of key files in the clear.
    pub is_for_kes: bool,
    /// The environment, which may hold the root key.
    pub environment: &'a Environment,
    /// The warnings so far.
    pub warnings: &'a mut Vec<Warning>,
}

impl Context<'_> {
    /// Creates a problem with a key.
    pub fn problem(&self, key: &(impl Key + ?Sized), message: impl AsRef<str>) -> Problem {
        self.layers.problem(key, message)
    }

    /// Warns of a key whose effect somebody should know of.
    pub fn warn(&mut self, key: &(impl Key + ?Sized), message: impl AsRef<str>) {
        self.warnings.push(Warning::dubious(self.layers.problem(key, message)));
    }

    /// Warns of a key that has no effect.
    pub fn warn_no_effect(&mut self, key: &(impl Key + ?Sized), message: impl AsRef<str>) {
        self.warnings.push(Warning::no_effect(self.layers.problem(key, message)));
    }

    /// Returns the path in `text`. If it is missing, the error says that `what` was expected.
    pub fn required_path(&self, text: Option<&str>, key: &str, what: &str) -> Result<PathBuf, Problem> {
        let path = self.optional_path(text, key)?;
        path.ok_or_else(|| self.problem(key, format!("missing, expected {what}")))
    }

    /// Returns the path in `text`, if there is one. An empty text is an error.
    pub fn optional_path(&self, text: Option<&str>, key: &str) -> Result<Option<PathBuf>, Problem> {
        match text {
            Some("") => Err(self.problem(key, "it is empty, expected a path")),
            text => Ok(text.map(PathBuf::from)),
        }
    }
}

/// Returns the text unless it is empty. The value of a variable may be.
pub fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}
