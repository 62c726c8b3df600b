//! The steps from a file, the environment and flags to settings.

use std::fs;
use std::path::Path;

use kms_trust::describe_io_error;

use super::environment::Environment;
use super::flags::Flags;
use super::former::{self, Modern, ROLLBACK};
use super::layers::{Language, Layers, References};
use super::node::{Key as _, Node};
use super::origins::Origins;
use super::problem::{Problem, Warning};
use super::resolve::{self, Context};
use super::schema::Raw;
use super::{encoding, expand, extract, toml, yaml};
use crate::settings::{KeyStoreSettings, Settings};

/// The value of `rollback`: one can go back to KES.
pub(super) const KES: &str = "kes";

/// A configuration that can be used, and what is dubious about it.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub settings: Settings,
    /// What works but is hardly meant so.
    pub warnings: Vec<Warning>,
    /// Where the settings were set.
    pub origins: Origins,
}

/// Reads the file at `path`, with `environment` over it.
///
/// The error is one line that names the file or variable, the key, and what was expected.
pub fn load(path: &Path, environment: &Environment) -> Result<Loaded, Problem> {
    load_with(path, &Flags::default(), environment)
}

/// Does what [`load`] does, with the flags of a command line.
pub fn load_with(path: &Path, flags: &Flags, environment: &Environment) -> Result<Loaded, Problem> {
    let (text, file) = content_of(path)?;
    load_all(&text, &file, flags, environment)
}

/// Reads only the key store of the file at `path`, whatever else the file says or leaves out, and warnings about it.
///
/// So a file for a move needs no section for a server. The error is one line, as that of [`load`].
pub fn load_key_store(
    path: &Path,
    environment: &Environment,
) -> Result<(KeyStoreSettings, Vec<Warning>), Problem> {
    let (text, file) = content_of(path)?;
    let Layered { raw, layers, is_for_kes, mut warnings } =
        layered(&text, &file, &Flags::default(), environment)?;
    let context = Context { layers: &layers, is_for_kes, environment, warnings: &mut warnings };
    let key_store =
        resolve::resolve_key_store(raw, context).map_err(|problem| problem.with_passed_over(&warnings))?;
    Ok((key_store, warnings))
}

/// Reads a file, and returns its text and its name in messages.
pub(super) fn content_of(path: &Path) -> Result<(String, String), Problem> {
    let file = path.display().to_string();
    let content = fs::read(path).map_err(|error| {
        Problem::new(file.as_str(), "", format!("cannot read the config file: {}", describe_io_error(&error)))
    })?;
    Ok((encoding::decode(content, &file)?, file))
}

/// Does what [`load`] does with the content of a file that is called `file` in messages.
pub fn load_text(text: &str, file: &str, environment: &Environment) -> Result<Loaded, Problem> {
    load_all(text, file, &Flags::default(), environment)
}

fn load_all(text: &str, file: &str, flags: &Flags, environment: &Environment) -> Result<Loaded, Problem> {
    let Layered { raw, layers, is_for_kes, warnings } = layered(text, file, flags, environment)?;
    settle(raw, layers, is_for_kes, environment, warnings)
}

/// A file with flags and variables over it, before anybody asked what it means.
pub(super) struct Layered {
    pub raw: Raw,
    pub layers: Layers,
    pub is_for_kes: bool,
    pub warnings: Vec<Warning>,
}

fn layered(text: &str, file: &str, flags: &Flags, environment: &Environment) -> Result<Layered, Problem> {
    let Content { tree, language, ignored } = read(text, file)?;
    let Modern { tree, renamed, is_for_kes } = former::modernise(tree, language, file)?;
    let (overrides, mut warnings) = environment.overrides();
    warnings.extend(ignored);
    let references = References::new();
    let layers = Layers { file: file.to_owned(), language, tree, overrides, renamed, references };
    put_together(layers, is_for_kes, flags, environment, warnings)
}

/// Lays flags over a file whose names are those of today, replaces its references, and reads it into the schema.
pub(super) fn put_together(
    mut layers: Layers,
    is_for_kes: bool,
    flags: &Flags,
    environment: &Environment,
    mut warnings: Vec<Warning>,
) -> Result<Layered, Problem> {
    flags.add_to(&mut layers, &mut warnings);
    let failures = expand::expand(&mut layers, environment, &mut warnings);
    let raw = extract::extract(&mut layers, &failures, &mut warnings)?;
    let has_flags_of_kes = layers.language == Language::Toml && flags.root.is_some();
    let keeps_way_back = match raw.rollback.as_deref() {
        None => false,
        Some(KES) => true,
        Some(other) => {
            let message = format!("'{}' is unknown, expected '{KES}', or no such line", other.escape_debug());
            return Err(layers.problem(ROLLBACK, message));
        }
    };
    let is_for_kes =
        is_for_kes || keeps_way_back || has_flags_of_kes && !raw.keystore.has_root_key() && raw.kms.is_none();
    Ok(Layered { raw, layers, is_for_kes, warnings })
}

/// Creates settings from flags alone, for a server that keeps its keys in memory and listens where KES does.
pub fn from_flags(flags: &Flags) -> Result<Loaded, Problem> {
    let (mut overrides, mut warnings) = (Node::empty(), Vec::new());
    overrides.insert(&"keystore.memory".path(), Node::empty());
    let file = "command line".to_owned();
    let tree = Node::empty();
    let (renamed, references) = (Vec::new(), References::new());
    let mut layers = Layers { file, language: Language::Toml, tree, overrides, renamed, references };
    flags.add_to(&mut layers, &mut warnings);
    let raw = extract::extract(&mut layers, &[], &mut warnings)?;
    settle(raw, layers, false, &Environment::default(), warnings)
}

/// Creates the settings of what was put together.
pub(super) fn settle(
    raw: Raw,
    layers: Layers,
    is_for_kes: bool,
    environment: &Environment,
    mut warnings: Vec<Warning>,
) -> Result<Loaded, Problem> {
    let context = Context { layers: &layers, is_for_kes, environment, warnings: &mut warnings };
    let settings = resolve::resolve(raw, context).map_err(|problem| problem.with_passed_over(&warnings))?;
    let origins = Origins::new(layers, &settings.tls);
    Ok(Loaded { settings, warnings, origins })
}

/// What a file holds.
pub(super) struct Content {
    pub tree: Node,
    pub language: Language,
    /// A warning of the part that is passed over.
    pub ignored: Option<Warning>,
}

/// Reads a file in the language of its name's ending. Any other file is read as TOML, and as YAML if that fails and it does
/// not look like TOML.
pub(super) fn read(text: &str, file: &str) -> Result<Content, Problem> {
    let as_toml = || Ok(Content { tree: toml::read(text, file)?, language: Language::Toml, ignored: None });
    let as_yaml = || {
        let yaml::Document { tree, ignored } = yaml::read(text, file)?;
        Ok(Content { tree, language: Language::Yaml, ignored })
    };
    let extension = Path::new(file).extension().map(std::ffi::OsStr::to_ascii_lowercase);
    match extension.as_ref().and_then(|name| name.to_str()) {
        Some("toml") => as_toml(),
        Some("yaml" | "yml") => as_yaml(),
        _ => as_toml().or_else(|error| if looks_like_toml(text) { Err(error) } else { as_yaml() }),
    }
}

/// Returns whether the first line that is neither empty nor a comment is one of TOML.
fn looks_like_toml(text: &str) -> bool {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    first.is_some_and(|line| {
        let name_end = line.find(|c: char| !c.is_ascii_alphanumeric() && !"-_.\"'".contains(c));
        line.starts_with('[') || name_end.is_some_and(|end| line[end..].trim_start().starts_with('='))
    })
}
