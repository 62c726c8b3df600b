//! Where the settings of a loaded configuration were set, for errors that occur later.

use std::path::{Path, PathBuf};

use super::layers::Layers;
use super::node::{Key as _, Node, Place, Value};
use super::schema::TOP_LEVEL;
use crate::error::StartError;
use crate::settings::TlsSettings;

/// Where a key was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file with the line, or something beside it, such as `environment variable KMS_ADDRESS`.
    pub place: String,
    /// The variables to which the value in the file refers.
    pub references: Vec<String>,
}

/// Knows the place of each setting, and which settings name a file.
#[derive(Debug)]
pub struct Origins {
    /// The places, without the values. `None` where there is no config.
    layers: Option<Layers>,
    files: Vec<(&'static str, PathBuf)>,
}

impl Origins {
    /// Keeps the places of settings that were read.
    pub(super) fn new(mut layers: Layers, tls: &TlsSettings) -> Self {
        layers.tree.forget_values();
        layers.overrides.forget_values();
        let TlsSettings { cert, key, .. } = tls;
        // Where one file holds both, nobody knows which of the two is at fault.
        let files = if cert == key {
            vec![("tls", cert.clone())]
        } else {
            vec![("tls.cert", cert.clone()), ("tls.key", key.clone())]
        };
        Self { layers: Some(layers), files }
    }

    /// Knows nothing: there is no config.
    pub fn none() -> Self {
        Self { layers: None, files: Vec::new() }
    }

    /// Puts the place of the setting at fault in front of an error.
    #[must_use]
    pub fn place(&self, error: StartError) -> StartError {
        let line = self.tell(&error.to_string());
        error.with_line(line)
    }

    /// Notes that `place`, such as `flag --addr`, sets a key.
    pub fn set(&mut self, key: &str, place: &str) {
        if let Some(layers) = &mut self.layers {
            let node = Node { value: Value::Boolean(true), place: Place::Beside(place.to_owned()) };
            layers.overrides.insert(&key.path(), node);
        }
    }

    /// Returns where a key was set; `None` if it has its default.
    pub fn of(&self, key: &[String]) -> Option<Origin> {
        let layers = self.layers.as_ref()?;
        let place = match layers.set_at(key)? {
            Place::Line(line) => format!("{}:{line}", layers.file),
            Place::Beside(name) => name.clone(),
            Place::Implied => return None,
        };
        let is_in_file = matches!(layers.set_at(key), Some(Place::Line(_)));
        // Where something lies over the file, its references have no effect.
        let below = layers.references.iter().filter(|(path, _)| is_in_file && path.starts_with(key));
        let references = below.flat_map(|(_, names)| names.iter().cloned()).collect();
        Some(Origin { place, references })
    }

    /// Puts place and key in front of a line that begins with the key of a setting, or with a file that a setting names.
    /// Returns any other line as it is.
    pub fn tell(&self, line: &str) -> String {
        let Some(layers) = &self.layers else { return line.to_owned() };
        let of_file = |file: &Path| {
            line.strip_prefix(&*file.to_string_lossy()).is_some_and(|rest| rest.starts_with(": "))
        };
        if let Some((key, _)) = self.files.iter().find(|(_, file)| of_file(file)) {
            return layers.problem(*key, line).to_string();
        }
        match line.split_once(": ") {
            Some((key, message)) if is_key(key) => layers.problem(key, message).to_string(),
            _ => line.to_owned(),
        }
    }
}

/// Returns whether a text is the path of a setting.
fn is_key(text: &str) -> bool {
    let first = text.split('.').next().unwrap_or_default();
    TOP_LEVEL.contains(&first)
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.'))
}
