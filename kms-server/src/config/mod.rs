//! Configuration: read from a file and the environment, checked, and brought into the form of [`Settings`].
//!
//! There is one schema (`schema`, what may be written) and one result ([`Settings`], what it means). A reader
//! (`toml`) turns a file into a tree of values that know their lines; `environment` lies on top of it.
//! Mistakes are a [`Problem`] that names place and key; what is dubious comes back as such, too, beside the
//! settings.

mod duration;
mod environment;
mod pattern;
mod places;
mod problem;
mod resolve;
mod schema;
pub mod settings;
mod toml;
mod tree;

use std::fs;
use std::path::Path;

pub use self::duration::parse as parse_duration;
pub use self::environment::Environment;
pub use self::problem::{Problem, Warning};
pub use self::resolve::parse_address;
pub use self::settings::{
    DEFAULT_ROUTE_TIMEOUT, KeyStoreSettings, PolicySettings, RootKeySource, Settings, TlsSettings,
};
use crate::certificate::describe_io_error;

/// A configuration that can be used, and what is dubious about it.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub settings: Settings,
    /// What works but is hardly meant so.
    pub warnings: Vec<Warning>,
}

/// Reads the file at `path`, with `environment` on top of it.
///
/// The error is one line that names the file or variable, the key, and what was expected.
pub fn load(path: &Path, environment: &Environment) -> Result<Loaded, Problem> {
    let file = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| {
        Problem::new(file.as_str(), "", format!("cannot read the config file: {}", describe_io_error(&error)))
    })?;
    load_text(&text, &file, environment)
}

/// Does what [`load`] does with the content of a file that is called `file` in messages.
pub fn load_text(text: &str, file: &str, environment: &Environment) -> Result<Loaded, Problem> {
    let (from_file, lines) = toml::read(text, file)?;
    let (overrides, variables, mut warnings) = environment.overrides();
    let places = places::Places::new(file, lines, variables);
    let from_file = tree::expand(from_file, environment, &places)?;
    let raw = tree::extract([from_file, overrides], &places)?;
    let settings = resolve::resolve(raw, &places, &mut warnings)?;
    Ok(Loaded { settings, warnings })
}
