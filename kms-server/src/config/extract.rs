//! From the layers to the schema, and what to say where they do not fit.

use figment::error::{Actual, Kind};

use super::expand::Failure;
use super::layers::{Language, Layers};
use super::node::{KeyPath, Node, Value};
use super::problem::{Problem, Warning};
use super::schema::{Raw, RawKey};
use super::value::Element as _;

/// A value that the schema does not take.
struct Misfit {
    path: KeyPath,
    message: String,
}

/// Reads the layers into the schema.
///
/// A key of the file that the schema does not know is an error, in YAML a warning. `failures` are the references in the
/// file that could not be replaced.
pub fn extract(
    layers: &mut Layers,
    failures: &[Failure],
    warnings: &mut Vec<Warning>,
) -> Result<Raw, Problem> {
    loop {
        let error = match layers.merged().extract() {
            Ok(raw) => return without_misfits(layers, failures).map(|()| raw),
            Err(error) => error,
        };
        let Some(error) = error.into_iter().last() else {
            return Err(layers.problem(&KeyPath::new(), "cannot be read"));
        };
        let misfit = Misfit { message: describe(&error.kind, layers.language), path: error.path };
        let is_unknown = matches!(error.kind, Kind::UnknownField(..));
        let mut unknown = if is_unknown { unknown_in_yaml(layers, &misfit.path) } else { Vec::new() };
        let message = format!("passed over: {}", misfit.message);
        unknown.retain(|path| {
            let warning = Warning::no_effect(layers.problem(path, &message));
            // An element of a list is no key, and stays.
            let is_taken = layers.tree.take(path).is_some();
            warnings.extend(is_taken.then_some(warning));
            is_taken
        });
        if unknown.is_empty() {
            return Err(first_cause(layers, failures, misfit));
        }
    }
}

/// Checks the tree for what serde lets through.
fn without_misfits(layers: &Layers, failures: &[Failure]) -> Result<(), Problem> {
    if let Some(Failure { path, message }) =
        failures.iter().find(|failure| layers.tree.find(&failure.path).is_some())
    {
        return Err(layers.problem(path, message));
    }
    misplaced(layers).map_or(Ok(()), |Misfit { path, message }| Err(layers.problem(&path, message)))
}

/// Creates the problem of a misfit, or of its cause.
///
/// A reference that was not replaced, or a value of another shape, leads to misfits below it.
fn first_cause(layers: &Layers, failures: &[Failure], misfit: Misfit) -> Problem {
    let misfit = date_above(&layers.tree, &misfit).unwrap_or(misfit);
    if let Some(Failure { path, message }) =
        failures.iter().find(|failure| misfit.path.starts_with(&failure.path))
    {
        return layers.problem(path, message);
    }
    let above = misplaced(layers).filter(|Misfit { path, .. }| {
        misfit.path.starts_with(path) && (misfit.path.len() > path.len() || list_at(path).is_some())
    });
    let Misfit { path, message } = above.unwrap_or(misfit);
    layers.problem(&path, message)
}

/// Returns the paths of an unknown key in YAML: its own, and those of the same key in the other policies.
///
/// Each round costs another read of the whole tree. With one policy a round, many policies would take too long.
fn unknown_in_yaml(layers: &Layers, path: &[String]) -> Vec<KeyPath> {
    if layers.language != Language::Yaml {
        return Vec::new();
    }
    let policies = layers.tree.table().and_then(|sections| sections.get("policy")?.table());
    let mut paths = match (path, policies) {
        ([section, _, key], Some(policies)) if section == "policy" => {
            policies.keys().map(|name| vec![section.clone(), name.clone(), key.clone()]).collect()
        }
        _ => vec![path.to_vec()],
    };
    paths.retain(|path| layers.tree.find(path).is_some());
    paths
}

/// Finds a value that serde takes although its shape is not that of the schema.
///
/// Serde reads a list in the place of a table, by the order of the keys. A text in the place of a list is for variables: it
/// must not stand in YAML.
fn misplaced(layers: &Layers) -> Option<Misfit> {
    let language = layers.language;
    layers.tree.find_map(&mut |path, node| {
        let parts: Vec<_> = path.iter().map(String::as_str).collect();
        // The sections of key stores that are not supported may hold anything.
        if let ["keystore", store, _, ..] = parts.as_slice()
            && !OURS.contains(store)
        {
            return None;
        }
        let found = |found: &str, expected: &str| {
            Some(in_words_of(language, &format!("found {found}, expected {expected}")))
        };
        let message = match (&node.value, list_at(path)) {
            (Value::List(_), None) if parts[0] == "keys" => found("an array", RawKey::EXPECTED_ALONE),
            (Value::List(_), None) => found("an array", "a table"),
            (Value::Text(text), None)
                if language == Language::Yaml && is_word(&parts) && is_boolean(text) =>
            {
                Some(format!("invalid value '{}', expected 'on' or 'off'", text.escape_debug()))
            }
            (Value::Text(_), Some(expected)) if language == Language::Yaml => found("a string", expected),
            _ => None,
        };
        message.map(|message| Misfit { path: path.to_vec(), message })
    })
}

/// The key stores of the schema that are supported.
const OURS: [&str; 4] = ["fs", "memory", "vault", "aws"];

/// Returns whether the key at a path takes words that look like booleans and are none.
fn is_word(path: &[&str]) -> bool {
    matches!(path, ["tls", "auth"] | ["log", "error" | "audit"])
}

/// Returns whether a text is a boolean of YAML that no release of KES takes for one of its words.
fn is_boolean(text: &str) -> bool {
    ["true", "false", "yes", "no", "y", "n"].iter().any(|word| text.trim().eq_ignore_ascii_case(word))
}

/// Returns what the schema expects at a path, if that is a list.
fn list_at(path: &[String]) -> Option<&'static str> {
    let path: Vec<_> = path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["keys"] => Some(RawKey::EXPECTED),
        ["kms"] => Some("a table, or an array of tables"),
        ["policy", _, "allow" | "deny" | "identities" | "paths"]
        | ["tls", "proxy", "identities"]
        | ["backup" | "escrow", "recipients"] => Some(String::EXPECTED),
        _ => None,
    }
}

/// Returns what to say of a misfit that comes from a date of TOML at its path or above it.
fn date_above(tree: &Node, misfit: &Misfit) -> Option<Misfit> {
    let is_date = |path: &[String]| tree.find(path).is_some_and(|node| matches!(node.value, Value::Date(_)));
    let len = (1..=misfit.path.len()).find(|&len| is_date(&misfit.path[..len]))?;
    let expected = misfit.message.split_once("expected ").filter(|_| len == misfit.path.len());
    let expected = expected.map_or("a table", |(_, expected)| expected);
    Some(Misfit { path: misfit.path[..len].to_vec(), message: format!("found a date, expected {expected}") })
}

/// Says what was found and what was expected, without the value: it may be a secret.
fn describe(kind: &Kind, language: Language) -> String {
    match kind {
        Kind::UnknownField(_, []) => "unknown key, expected none here".to_owned(),
        Kind::UnknownField(_, expected) => format!("unknown key, expected {}", one_of(expected)),
        Kind::UnknownVariant(_, expected) => format!("unknown value, expected {}", one_of(expected)),
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            in_words_of(language, &format!("found {}, expected {expected}", type_name(actual)))
        }
        Kind::MissingField(name) => format!("'{name}' is missing"),
        Kind::Message(message) => message.clone(),
        other => other.to_string(),
    }
}

/// Translates the words of TOML in a message into those of the language.
fn in_words_of(language: Language, message: &str) -> String {
    // A map of Rust is a table as well.
    let message = message.replace("expected a map", "expected a table");
    match language {
        Language::Toml => message,
        Language::Yaml => message
            .replace("a table", "a mapping")
            .replace("tables", "mappings")
            .replace("an array", "a list"),
    }
}

fn one_of(expected: &[&str]) -> String {
    match expected {
        [only] => (*only).to_owned(),
        _ => format!("one of {}", expected.join(", ")),
    }
}

fn type_name(actual: &Actual) -> &str {
    match actual {
        Actual::Bool(_) => "a boolean",
        Actual::Unsigned(_) | Actual::Signed(_) => "an integer",
        Actual::Float(_) => "a float",
        Actual::Char(_) | Actual::Str(_) => "a string",
        Actual::Seq => "an array",
        Actual::Map | Actual::NewtypeStruct => "a table",
        Actual::Unit | Actual::Option => "nothing",
        _ => "a value of another type",
    }
}
