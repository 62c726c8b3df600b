//! Where the settings of a loaded configuration stand, for what goes wrong with them later.

use std::path::{Path, PathBuf};

use super::places::{Places, path};
use super::schema::TOP_LEVEL;
use crate::error::StartError;
use crate::settings::TlsSettings;

/// Knows the place of each setting, and which of them names a file.
#[derive(Debug)]
pub struct Origins {
    /// `None` where there is no config.
    places: Option<Places>,
    files: Vec<(&'static str, PathBuf)>,
}

impl Origins {
    /// Keeps the places of settings that were read.
    pub(super) fn new(places: Places, tls: &TlsSettings) -> Self {
        let TlsSettings { cert, key, .. } = tls;
        // Of one file for both nobody knows which of the two is at fault.
        let files = if cert == key {
            vec![("tls", cert.clone())]
        } else {
            vec![("tls.cert", cert.clone()), ("tls.key", key.clone())]
        };
        Self { places: Some(places), files }
    }

    /// Knows nothing: there is no config.
    pub fn none() -> Self {
        Self { places: None, files: Vec::new() }
    }

    /// Puts in front of an error where the setting at fault stands.
    #[must_use]
    pub fn place(&self, error: &StartError) -> StartError {
        StartError::new(self.tell(&error.to_string()))
    }

    /// Notes that a setting is what `place` says, such as `flag --addr`.
    pub fn set(&mut self, key: &str, place: &str) {
        if let Some(places) = &mut self.places {
            places.overrides.insert(path(key), place.to_owned());
        }
    }

    /// Puts place and key in front of a line that begins with the key of a setting or with a file that one names; any other
    /// stays as it is.
    pub fn tell(&self, line: &str) -> String {
        let Some(places) = &self.places else { return line.to_owned() };
        let of_file = |file: &Path| {
            line.strip_prefix(&*file.to_string_lossy()).is_some_and(|rest| rest.starts_with(": "))
        };
        if let Some((key, _)) = self.files.iter().find(|(_, file)| of_file(file)) {
            return places.problem(&path(key), line).to_string();
        }
        match line.split_once(": ") {
            Some((key, message)) if is_key(key) => places.problem(&path(key), message).to_string(),
            _ => line.to_owned(),
        }
    }
}

/// Tells whether a text is the path of a setting.
fn is_key(text: &str) -> bool {
    let first = text.split('.').next().unwrap_or_default();
    TOP_LEVEL.contains(&first) && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_' | b'.'))
}
