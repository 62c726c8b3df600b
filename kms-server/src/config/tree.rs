//! The tree of values between the readers and the schema.

use figment::error::{Actual, Kind};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::environment::Environment;
use super::former::Language;
use super::places::{KeyPath, Places};
use super::problem::{Problem, Warning};
use super::schema::{Element as _, Raw, RawKey};
use super::yaml;

/// A tree whose references to environment variables are replaced.
pub struct Expanded {
    tree: Dict,
    language: Language,
    /// The texts that refer to what is not there, and why. It does not matter where the key is passed over.
    failures: Vec<(KeyPath, String)>,
}

/// Puts the values of environment variables in the place of references to them: of each `${NAME}` in a text, in YAML of
/// texts that are nothing else, as KES does.
///
/// What looks like one in the middle of a text in YAML is added to `warnings`.
pub fn expand(
    mut tree: Dict,
    language: Language,
    environment: &Environment,
    places: &Places,
    warnings: &mut Vec<Warning>,
) -> Expanded {
    let mut pass = Expansion { language, environment, failures: Vec::new(), literal: Vec::new() };
    pass.dict(&mut tree, &mut KeyPath::new());
    warnings.extend(pass.literal.iter().map(|path| {
        let message = "'${' in the middle of a text means itself, as in KES: \
            only a text that is '${NAME}' and nothing else is replaced";
        Warning::dubious(places.problem(path, message))
    }));
    Expanded { tree, language, failures: pass.failures }
}

/// Reads what the file says, with `overrides` over it, into the schema.
///
/// A key of the file that the schema does not know is an error, in YAML a warning.
pub fn extract(
    from_file: Expanded,
    overrides: &Dict,
    places: &Places,
    warnings: &mut Vec<Warning>,
) -> Result<Raw, Problem> {
    let Expanded { tree: mut from_file, language, failures } = from_file;
    let lenient = language == Language::Yaml;
    loop {
        let figment = Figment::new().merge(Layer(&from_file)).merge(Layer(overrides));
        let error = match figment.extract() {
            Ok(raw) => {
                let failure = failures.iter().find(|(path, _)| find(&from_file, path).is_some());
                let failure = failure.map(|(path, message)| places.problem(path, message));
                let misplaced =
                    misplaced(&from_file, language).map(|(path, message)| places.problem(&path, message));
                return failure.or(misplaced).map_or(Ok(raw), Err);
            }
            Err(error) => error,
        };
        let Some(error) = error.into_iter().last() else { return Err(places.problem(&[], UNREADABLE)) };
        let mut message = describe(&error.kind, language);
        let mut error = error;
        if let Some(date) = date_at(&from_file, &error.path) {
            let expected = message.split_once("expected ").filter(|_| date.len() == error.path.len());
            message =
                format!("found a date, expected {}", expected.map_or("a table", |(_, expected)| expected));
            error.path.truncate(date.len());
            error.kind = Kind::Message(String::new());
        }
        let is_unknown = matches!(error.kind, Kind::UnknownField(..));
        let mut removed =
            if lenient && is_unknown { with_alike(&error.path, &from_file) } else { Vec::new() };
        removed.retain(|path| remove(&mut from_file, path));
        if removed.is_empty() {
            // What was not replaced, or is of another shape, is what leads to mistakes below it.
            if let Some((path, message)) = failures.iter().find(|(path, _)| error.path.starts_with(path)) {
                return Err(places.problem(path, message));
            }
            let misplaced = misplaced(&from_file, language).filter(|(path, _)| {
                error.path.starts_with(path) && (error.path.len() > path.len() || list_at(path).is_some())
            });
            let (path, message) = misplaced.unwrap_or((error.path, message));
            return Err(places.problem(&path, message));
        }
        let message = format!("passed over: {message}");
        warnings.extend(removed.iter().map(|path| Warning::no_effect(places.problem(path, &message))));
    }
}

/// Returns a path, and those of the same key in the other policies: where these are many, each of them would have all be
/// read once more.
fn with_alike(path: &[String], tree: &Dict) -> Vec<KeyPath> {
    match (path, tree.get("policy")) {
        ([section, _, key], Some(Value::Dict(_, policies))) if section == "policy" => {
            policies.keys().map(|name| vec![section.clone(), name.clone(), key.clone()]).collect()
        }
        _ => vec![path.to_vec()],
    }
}

const UNREADABLE: &str = "cannot be read";

/// Removes a value from a tree, and tells whether it was there.
fn remove(tree: &mut Dict, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    if rest.is_empty() {
        return tree.remove(first).is_some();
    }
    tree.get_mut(first).is_some_and(|value| remove_below(value, rest))
}

fn remove_below(value: &mut Value, path: &[String]) -> bool {
    match value {
        Value::Dict(_, dict) => remove(dict, path),
        Value::Array(_, values) => path.split_first().is_some_and(|(index, rest)| {
            let element = index.parse().ok().and_then(|index: usize| values.get_mut(index));
            element.is_some_and(|element| remove_below(element, rest))
        }),
        _ => false,
    }
}

struct Layer<'a>(&'a Dict);

impl Provider for Layer<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named("configuration")
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Map::from([(Profile::Default, self.0.clone())]))
    }
}

/// A pass over a tree that replaces references.
struct Expansion<'a> {
    language: Language,
    environment: &'a Environment,
    failures: Vec<(KeyPath, String)>,
    /// Texts of YAML with a reference in their middle.
    literal: Vec<KeyPath>,
}

impl Expansion<'_> {
    fn dict(&mut self, dict: &mut Dict, path: &mut KeyPath) {
        for (name, value) in dict {
            path.push(name.clone());
            self.value(value, path);
            path.pop();
        }
    }

    fn value(&mut self, value: &mut Value, path: &mut KeyPath) {
        match value {
            Value::String(_, text) => {
                let expanded = match self.language {
                    Language::Toml => expand_text(text, self.environment),
                    Language::Yaml => {
                        let Some(name) = reference(text) else {
                            if text.contains("${") {
                                self.literal.push(path.clone());
                            }
                            return;
                        };
                        variable(name, self.environment).map(str::to_owned)
                    }
                };
                match expanded {
                    Ok(expanded)
                        if self.language == Language::Yaml
                            && yaml::is_switch(path)
                            && yaml::is_boolean(&expanded) =>
                    {
                        let message =
                            format!("the variable is the text '{expanded}', expected 'on' or 'off'");
                        self.failures.push((path.clone(), message));
                    }
                    Ok(expanded) => *text = expanded,
                    Err(message) => self.failures.push((path.clone(), message)),
                }
            }
            Value::Dict(_, dict) => self.dict(dict, path),
            Value::Array(_, values) => {
                for (index, value) in values.iter_mut().enumerate() {
                    path.push(index.to_string());
                    self.value(value, path);
                    path.pop();
                }
            }
            _ => {}
        }
    }
}

/// Returns the name in a text that is a reference and nothing else.
fn reference(text: &str) -> Option<&str> {
    text.trim().strip_prefix("${")?.strip_suffix('}')
}

fn variable<'a>(name: &str, environment: &'a Environment) -> Result<&'a str, String> {
    let name = name.trim();
    environment.get(name).ok_or_else(|| format!("environment variable '{}' is not set", name.escape_debug()))
}

fn expand_text(text: &str, environment: &Environment) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').ok_or("'${' without a closing '}'")?;
        expanded.push_str(before);
        expanded.push_str(variable(name, environment)?);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// Finds a value of another shape than the schema's that serde takes: a list in the place of a table, whose values are then
/// taken in order; and in YAML a text in the place of a list, which is for variables.
fn misplaced(tree: &Dict, language: Language) -> Option<(KeyPath, String)> {
    let mut path = KeyPath::new();
    tree.iter().find_map(|(name, value)| {
        path.push(name.clone());
        let found = misplaced_in(value, language, &mut path);
        path.pop();
        found
    })
}

fn misplaced_in(value: &Value, language: Language, path: &mut KeyPath) -> Option<(KeyPath, String)> {
    let list = list_at(path);
    let told = |found: &str, expected: &str| {
        Some((path.clone(), in_words_of(language, &format!("found {found}, expected {expected}"))))
    };
    match (value, list) {
        (Value::Array(..), None) => {
            told("an array", if path[0] == "keys" { RawKey::EXPECTED_ALONE } else { "a table" })
        }
        (Value::String(_, text), None) if language == Language::Yaml && is_word(path) && is_boolean(text) => {
            let message = format!("invalid value '{}', expected 'on' or 'off'", text.escape_debug());
            Some((path.clone(), message))
        }
        (Value::String(..), Some(expected)) if language == Language::Yaml => told("a string", expected),
        (Value::Array(_, values), Some(_)) => values.iter().enumerate().find_map(|(index, value)| {
            path.push(index.to_string());
            let found = misplaced_in(value, language, path);
            path.pop();
            found
        }),
        // What stands in the section of a key store that we do not have is nobody's concern.
        (Value::Dict(..), _) if matches!(path.as_slice(), [section, store] if section == "keystore" && !OURS.contains(&store.as_str())) => {
            None
        }
        (Value::Dict(_, dict), _) => dict.iter().find_map(|(name, value)| {
            path.push(name.clone());
            let found = misplaced_in(value, language, path);
            path.pop();
            found
        }),
        _ => None,
    }
}

/// The key stores of the schema that are read.
const OURS: [&str; 4] = ["fs", "memory", "vault", "aws"];

/// Tells whether a text stands at a path that looks like a boolean and is none.
fn is_word(path: &[String]) -> bool {
    let path: Vec<_> = path.iter().map(String::as_str).collect();
    matches!(path.as_slice(), ["tls", "auth"] | ["log", "error" | "audit"])
}

/// Tells whether a text is a boolean of YAML that no release of KES takes for one of its words.
fn is_boolean(text: &str) -> bool {
    ["true", "false", "yes", "no", "y", "n"].iter().any(|word| text.trim().eq_ignore_ascii_case(word))
}

/// Says what list stands at a path of the schema, if one does.
fn list_at(path: &[String]) -> Option<&'static str> {
    let path: Vec<_> = path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["keys"] => Some(RawKey::EXPECTED),
        ["policy", _, "allow" | "deny" | "identities" | "paths"] | ["tls", "proxy", "identities"] => {
            Some(String::EXPECTED)
        }
        _ => None,
    }
}

/// The key under which the reader of TOML gives a date.
const DATE: &str = "$__toml_private_datetime";

/// Finds the date of TOML that stands at a path, or above its end.
fn date_at<'a>(tree: &Dict, path: &'a [String]) -> Option<&'a [String]> {
    (1..=path.len())
        .map(|len| &path[..len])
        .find(|path| matches!(find(tree, path), Some(Value::Dict(_, value)) if value.contains_key(DATE)))
}

/// Finds a value of a tree, also below lists.
fn find<'a>(tree: &'a Dict, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(tree.get(first)?, |value, part| match value {
        Value::Dict(_, dict) => dict.get(part),
        Value::Array(_, values) => values.get(part.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Says what a value was and what was expected, without the value: it may be a secret.
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

/// Says what is said in the words of TOML in those of the language.
fn in_words_of(language: Language, message: &str) -> String {
    // What is read into a map of Rust's is a table as well.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_wherever_they_stand() {
        let environment = Environment::from_iter([("A", "1"), ("B", "two")]);
        for (text, expanded) in
            [("${A}", "1"), ("${ A }", "1"), ("x-${A}-${B}", "x-1-two"), ("$A", "$A"), ("", "")]
        {
            assert_eq!(expand_text(text, &environment).unwrap(), expanded);
        }
        assert!(expand_text("${C}", &environment).unwrap_err().contains("'C' is not set"));
        assert!(expand_text("${A", &environment).is_err());
    }
}
