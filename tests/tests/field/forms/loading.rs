//! Loads a config, and returns its settings, its warnings or its error.

use std::path::{Path, PathBuf};

use kms_server::config::{Environment, Loaded, Problem, load, load_text};
use kms_server::settings::Settings;

pub const IDENTITY: &str = "0000000000000000000000000000000000000000000000000000000000000007";
pub const OTHER: &str = "00000000000000000000000000000000000000000000000000000000000000aa";

/// The beginning of every YAML config here.
pub const START: &str = "admin: {identity: disabled}\ntls: {key: k, cert: c}\n";

pub fn environment() -> Environment {
    let variables = [
        ("ADMIN_IDENTITY", OTHER),
        ("APP_IDENTITY", IDENTITY),
        ("MINIO_KES_IDENTITY", IDENTITY),
        ("VAULT_ROLE", "role"),
        ("VAULT_SECRET", "very-secret"),
    ];
    variables.into_iter().collect()
}

pub fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name)
}

#[track_caller]
pub fn good(name: &str) -> Loaded {
    load(&config(name), &environment()).unwrap_or_else(|problem| panic!("{problem}"))
}

/// Reads a config of KES. What can be read can also be converted.
#[track_caller]
pub fn yaml(text: &str) -> Result<Loaded, Problem> {
    let loaded = load_text(text, "kes.yml", &environment())?;
    kms_tests::converted::assert_means_the_same(text, "kes.yml", &environment());
    Ok(loaded)
}

/// Returns the settings and the warnings of a config with these additional lines.
#[track_caller]
pub fn loads(text: &str) -> (Settings, String) {
    let loaded = yaml(&format!("{START}keystore: {{fs: {{path: p}}}}\n{text}"));
    let loaded = loaded.unwrap_or_else(|problem| panic!("{text}: {problem}"));
    let told = warnings(&loaded);
    (loaded.settings, told)
}

pub fn warnings(loaded: &Loaded) -> String {
    let lines: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
