//! Configuration: read from a file and the environment, checked, and brought into the form of [`Settings`].
//!
//! There is one schema (`schema` and `sections`, what may be written) and one result ([`Settings`], what it means).
//! A reader (`toml`, `yaml`) turns a file into a tree of values that know their lines; `forms` brings the names of
//! older releases of KES into those of today; `environment` lies on top of it. Mistakes are a [`Problem`] that names
//! place and key; what is dubious comes back as such, too, beside the settings.

mod aws;
mod duration;
mod encoding;
mod environment;
mod former;
mod kms;
mod log_level;
mod origins;
mod pattern;
mod places;
mod problem;
mod resolve;
mod schema;
mod sections;
mod toml;
mod tree;
mod vault;
mod yaml;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use figment::value::{Dict, Value};
use kms_trust::describe_io_error;

pub use self::duration::parse as parse_duration;
pub use self::environment::Environment;
use self::former::{Language, Modern};
pub use self::origins::Origins;
use self::places::{Lines, Places, path as key_path};
pub use self::problem::{Problem, Warning};
pub use self::resolve::parse_address;
use crate::settings::Settings;

/// A configuration that can be used, and what is dubious about it.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub settings: Settings,
    /// What works but is hardly meant so.
    pub warnings: Vec<Warning>,
    /// Where the settings stand.
    pub origins: Origins,
}

/// What flags of the command line say beside a config file.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// The admin instead of the file's: `--root`.
    pub root: Option<String>,
    /// The server's certificate, where the file names none: `--cert`.
    pub cert: Option<String>,
    /// Its private key, where the file names none: `--key`.
    pub key: Option<String>,
    /// Whether clients' certificates are verified, where the file does not say: `--mtls-auth`.
    pub auth: Option<bool>,
}

/// Reads the file at `path`, with `environment` on top of it.
///
/// The error is one line that names the file or variable, the key, and what was expected.
pub fn load(path: &Path, environment: &Environment) -> Result<Loaded, Problem> {
    load_with(path, &Flags::default(), environment)
}

/// Does what [`load`] does, with the flags of a command line.
pub fn load_with(path: &Path, flags: &Flags, environment: &Environment) -> Result<Loaded, Problem> {
    let file = path.display().to_string();
    let content = fs::read(path).map_err(|error| {
        Problem::new(file.as_str(), "", format!("cannot read the config file: {}", describe_io_error(&error)))
    })?;
    let text = encoding::decode(content, &file)?;
    load_all(&text, &file, flags, environment)
}

/// Does what [`load`] does with the content of a file that is called `file` in messages.
pub fn load_text(text: &str, file: &str, environment: &Environment) -> Result<Loaded, Problem> {
    load_all(text, file, &Flags::default(), environment)
}

fn load_all(text: &str, file: &str, flags: &Flags, environment: &Environment) -> Result<Loaded, Problem> {
    let Content { tree, lines, language, ignored } = read(text, file)?;
    let Modern { tree, lines, written, is_for_kes } = former::modernise(tree, lines, language, file)?;
    let (mut overrides, variables, mut warnings) = environment.overrides();
    warnings.extend(ignored);
    let mut places = Places { file: file.to_owned(), lines, overrides: variables, written };
    flags.add_to(&mut overrides, &tree, &mut places, &mut warnings);
    let tree = tree::expand(tree, language, environment, &places, &mut warnings);
    let raw = tree::extract(tree, &overrides, &places, &mut warnings)?;
    let context = resolve::Context {
        places: &places,
        is_for_kes: is_for_kes
            || (language == Language::Toml
                && flags.root.is_some()
                && !raw.keystore.has_root_key()
                && raw.kms.is_none()),
        environment,
    };
    let settings = resolve::resolve(raw, &context, &mut warnings)
        .map_err(|problem| problem.with_passed_over(&warnings))?;
    let origins = Origins::new(places, &settings.tls);
    Ok(Loaded { settings, warnings, origins })
}

/// What a file holds.
struct Content {
    tree: Dict,
    lines: Lines,
    language: Language,
    /// What of it is passed over.
    ignored: Option<Warning>,
}

/// Reads a file by the language that its name tells; any other is taken for TOML if it can be read as such, else
/// for what it looks like.
fn read(text: &str, file: &str) -> Result<Content, Problem> {
    let as_toml = || {
        let (tree, lines) = toml::read(text, file)?;
        Ok(Content { tree, lines, language: Language::Toml, ignored: None })
    };
    let as_yaml = || {
        let yaml::Document { tree, lines, ignored } = yaml::read(text, file)?;
        Ok(Content { tree, lines, language: Language::Yaml, ignored })
    };
    let extension = Path::new(file).extension().map(std::ffi::OsStr::to_ascii_lowercase);
    match extension.as_ref().and_then(|name| name.to_str()) {
        Some("toml") => as_toml(),
        Some("yaml" | "yml") => as_yaml(),
        _ => as_toml().or_else(|error| if looks_like_toml(text) { Err(error) } else { as_yaml() }),
    }
}

/// Tells whether the first line that says something is one of TOML.
fn looks_like_toml(text: &str) -> bool {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    first.is_some_and(|line| {
        let name_end = line.find(|c: char| !c.is_ascii_alphanumeric() && !"-_.\"'".contains(c));
        line.starts_with('[') || name_end.is_some_and(|end| line[end..].trim_start().starts_with('='))
    })
}

impl Flags {
    fn add_to(&self, overrides: &mut Dict, tree: &Dict, places: &mut Places, warnings: &mut Vec<Warning>) {
        let mut set = |key: &str, flag: &str, value: Value, wins: bool| {
            let (path, place) = (key_path(key), format!("flag {flag}"));
            let set_already = former::find(tree, &path).is_some() || former::find(overrides, &path).is_some();
            if set_already && !wins {
                let message = format!("no effect, {} is in force", places.of(&path));
                warnings.push(Warning::dubious(Problem::new(place, key, message)));
                return;
            }
            former::insert(overrides, &path, value);
            places.overrides.insert(path, place);
        };
        let text = |value: &Option<String>| value.as_deref().map(Value::from);
        if let Some(root) = text(&self.root) {
            set("admin.identity", "--root", root, true);
        }
        if let Some(cert) = text(&self.cert) {
            set("tls.cert", "--cert", cert, false);
        }
        if let Some(key) = text(&self.key) {
            set("tls.key", "--key", key, false);
        }
        if let Some(auth) = self.auth {
            set("tls.auth", "--mtls-auth", Value::from(auth), false);
        }
    }
}

/// Makes settings of flags alone, for a server that keeps its keys in memory and listens where KES does.
pub fn from_flags(flags: &Flags) -> Result<Loaded, Problem> {
    let mut places = Places { file: "command line".to_owned(), ..Places::default() };
    let (mut overrides, mut warnings) = (Dict::new(), Vec::new());
    flags.add_to(&mut overrides, &Dict::new(), &mut places, &mut warnings);
    let memory = Value::Dict(figment::value::Tag::Default, BTreeMap::new());
    former::insert(&mut overrides, &key_path("keystore.memory"), memory);
    let environment = Environment::default();
    let tree = tree::expand(Dict::new(), Language::Toml, &environment, &places, &mut warnings);
    let raw = tree::extract(tree, &overrides, &places, &mut warnings)?;
    let context = resolve::Context { places: &places, is_for_kes: false, environment: &environment };
    let settings = resolve::resolve(raw, &context, &mut warnings)?;
    let origins = Origins::new(places, &settings.tls);
    Ok(Loaded { settings, warnings, origins })
}
