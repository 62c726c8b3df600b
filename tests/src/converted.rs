//! What `kms config convert` has to keep.

use kms_server::config::{Converted, Environment, convert_text, load_text};

/// Returns why a config cannot be written in our form, for the few that cannot.
pub const NOT_WRITABLE: &str = "TOML has no way to write that";

/// Converts a config that can be loaded, and expects the same settings. Returns what it is converted to.
///
/// # Panics
///
/// The settings differ, or the config cannot be converted.
#[track_caller]
pub fn assert_means_the_same(text: &str, file: &str, environment: &Environment) -> Option<String> {
    let before = load_text(text, file, environment).unwrap_or_else(|problem| panic!("{problem}"));
    let Converted { text: after, unset, .. } = match convert_text(text, file, None, environment) {
        Ok(converted) => converted,
        Err(problem) if problem.to_string().contains(NOT_WRITABLE) => return None,
        Err(problem) => panic!("{problem}\n{text}"),
    };
    assert!(unset.is_empty(), "{unset:?} are not set, and the config can be loaded:\n{text}");
    let loaded = load_text(&after, "converted.toml", environment);
    let loaded = loaded.unwrap_or_else(|problem| panic!("{problem}\n{after}"));
    assert!(loaded.settings == before.settings, "{text}\nbecame\n{after}");
    Some(after)
}
