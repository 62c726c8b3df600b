//! A config in another form, or of an older release of KES, written in our own.

mod comments;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

use self::comments::Comments;
use super::environment::Environment;
use super::expand::reference;
use super::flags::Flags;
use super::former::{self, Modern, ROLLBACK};
use super::layers::{Language, Layers, References};
use super::load::{self, Content, KES, Layered};
use super::node::{Key as _, KeyPath, Node, Place, Value};
use super::problem::Problem;
use crate::settings::Settings;

/// A converted config.
#[derive(Debug)]
pub struct Converted {
    /// The config, in TOML.
    pub text: String,
    /// The variables to which the config refers, and which are not set here. With one of them the result is not compared.
    pub unset: Vec<String>,
    /// Whether secrets stand in it that stood in the file.
    pub has_secrets: bool,
}

/// Converts the file at `path`. Only references to variables are read from `environment`. `root` is the admin of a server that
/// gets it by a flag.
///
/// The result has the same settings as the file, or this fails. References to variables stay references.
pub fn convert(path: &Path, root: Option<&str>, environment: &Environment) -> Result<Converted, Problem> {
    let (text, file) = load::content_of(path)?;
    convert_text(&text, &file, root, environment)
}

/// Does what [`convert`] does with the content of a file that is called `file` in messages.
pub fn convert_text(
    text: &str,
    file: &str,
    root: Option<&str>,
    environment: &Environment,
) -> Result<Converted, Problem> {
    let Content { tree, language, ignored } = load::read(text, file)?;
    let Modern { tree, renamed, is_for_kes } = former::modernise(tree, language, file)?;
    let mut written = tree.clone();
    let missing = unset_variables(&tree, language, environment);
    // What stands in for a variable only shows which keys there are.
    let stand_ins = missing.iter().map(|name| (name.clone(), "1".to_owned()));
    let for_layers = environment.for_file(stand_ins);
    let overrides = Node::empty();
    let references = References::new();
    let layers = Layers { file: file.to_owned(), language, tree, overrides, renamed, references };
    let flags = Flags { root: root.map(str::to_owned), ..Flags::default() };
    let together = load::put_together(layers, is_for_kes, &flags, &for_layers, Vec::from_iter(ignored));
    let Layered { raw, layers, is_for_kes, mut warnings } =
        together.map_err(|problem| with_unset(problem, &missing))?;

    let comments = Comments::of(&layers, is_for_kes);
    retain_known(&mut written, &layers.tree);
    // Nobody misses a variable of a key that is passed over.
    let unset = unset_variables(&written, language, environment);
    if let Some(root) = root {
        let admin = Value::Text(root.to_owned());
        written.insert(&"admin.identity".path(), Node { value: admin, place: Place::Implied });
    }
    if is_for_kes {
        written.insert(&ROLLBACK.path(), Node { value: Value::Text(KES.to_owned()), place: Place::Implied });
    }
    if language == Language::Yaml {
        as_toml(&mut written, &layers)?;
    }

    let mut original = None;
    if unset.is_empty() {
        let loaded = load::settle(raw, layers, is_for_kes, &for_layers, std::mem::take(&mut warnings))?;
        warnings = loaded.warnings;
        original = Some(loaded.settings);
    }
    let head = comments::head(file, &warnings, &unset);
    let has_secrets = comments::has_secrets(&written);
    let text = write::document(&written, &head, &comments.with_secrets(&written));
    if let Some(original) = original {
        compare(&text, file, &original, &for_layers)?;
    }
    Ok(Converted { text, unset, has_secrets })
}

/// Fails unless the converted text has these settings.
fn compare(text: &str, file: &str, original: &Settings, environment: &Environment) -> Result<(), Problem> {
    let name = "the converted config.toml";
    let converted = load::load_text(text, name, environment).map_err(|problem| {
        Problem::new(file, "", format!("cannot be written in our form, since that is refused: {problem}"))
    })?;
    if converted.settings != *original {
        let message = "cannot be written in our form: the settings would differ";
        return Err(Problem::new(file, "", message));
    }
    Ok(())
}

/// Names the variables that are not set, since they may be the reason.
fn with_unset(problem: Problem, unset: &[String]) -> Problem {
    if unset.is_empty() {
        return problem;
    }
    let message =
        format!("{}; for this file these variables have to be set: {}", problem.message, unset.join(", "));
    Problem::new(problem.place, problem.key, message)
}

/// Returns the names of the variables to which a file refers and that are not set.
fn unset_variables(tree: &Node, language: Language, environment: &Environment) -> Vec<String> {
    let mut unset: Vec<String> = Vec::new();
    tree.find_map(&mut |_, node| -> Option<()> {
        let text = node.text()?;
        let names: Vec<&str> = match language {
            Language::Toml => text
                .split("${")
                .skip(1)
                .filter_map(|part| part.split_once('}'))
                .map(|(name, _)| name)
                .collect(),
            Language::Yaml => reference(text).into_iter().collect(),
        };
        for name in names.into_iter().map(str::trim) {
            if environment.get(name).is_none() && !unset.iter().any(|other| other == name) {
                unset.push(name.to_owned());
            }
        }
        None
    });
    unset
}

/// Removes what the schema does not know. `known` is the tree from which that was taken already.
fn retain_known(written: &mut Node, known: &Node) {
    let mut unknown: Vec<KeyPath> = Vec::new();
    written.find_map(&mut |path, _| -> Option<()> {
        if known.find(path).is_none() {
            unknown.push(path.to_vec());
        }
        None
    });
    for path in unknown {
        written.take(&path);
    }
}

/// Brings the texts of YAML into TOML's forms: references, numbers and booleans.
fn as_toml(written: &mut Node, layers: &Layers) -> Result<(), Problem> {
    let mut changed: BTreeMap<KeyPath, Value> = BTreeMap::new();
    let refused = written.find_map(&mut |path, node| {
        let text = node.text()?;
        if let Some(name) = reference(text) {
            changed.insert(path.to_vec(), Value::Text(format!("${{{}}}", name.trim())));
        } else if text.contains("${") {
            let message =
                "'${' in the middle of a text means itself in YAML, and TOML has no way to write that";
            return Some(layers.problem(path, message));
        } else if let Some(value) = plain(path, text) {
            changed.insert(path.to_vec(), value);
        }
        None
    });
    if let Some(problem) = refused {
        return Err(problem);
    }
    for (path, value) in changed {
        if let Some(node) = written.find_mut(&path) {
            node.value = value;
        }
    }
    Ok(())
}

/// Returns a number or a boolean where the key takes one and YAML's reader left a text.
fn plain(path: &[String], text: &str) -> Option<Value> {
    const NUMBERS: [&str; 6] = ["threads", "pool", "port", "max_uses", "deletion_window", "recovery_window"];
    const SWITCHES: [&str; 5] = ["skip_auth", "create", "require", "create_schema", "standby_reads"];
    let name = path.last()?.as_str();
    if NUMBERS.contains(&name) {
        return text.trim().parse().ok().map(Value::Integer);
    }
    match text.to_ascii_lowercase().as_str() {
        "true" if SWITCHES.contains(&name) => Some(Value::Boolean(true)),
        "false" if SWITCHES.contains(&name) => Some(Value::Boolean(false)),
        _ => None,
    }
}
