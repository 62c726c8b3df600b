//! The tree of values between the readers and the schema.

use figment::error::{Actual, Kind};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::environment::Environment;
use super::places::{KeyPath, Places};
use super::problem::{Problem, Warning};
use super::schema::Raw;

/// Puts the values of environment variables in the place of `${NAME}` in every text.
pub fn expand(mut tree: Dict, environment: &Environment, places: &Places) -> Result<Dict, Problem> {
    expand_dict(&mut tree, environment, &mut KeyPath::new())
        .map_err(|(path, message)| places.problem(&path, message))?;
    Ok(tree)
}

/// Reads what the file says, with `overrides` over it, into the schema.
///
/// A key of the file that the schema does not know is an error, or a warning if `lenient`.
pub fn extract(
    mut from_file: Dict,
    overrides: &Dict,
    lenient: bool,
    places: &Places,
    warnings: &mut Vec<Warning>,
) -> Result<Raw, Problem> {
    loop {
        let figment = Figment::new().merge(Layer(&from_file)).merge(Layer(overrides));
        let error = match figment.extract() {
            Ok(raw) => return Ok(raw),
            Err(error) => error,
        };
        let Some(error) = error.into_iter().last() else { return Err(places.problem(&[], UNREADABLE)) };
        let message = describe(&error.kind);
        let is_unknown = matches!(error.kind, Kind::UnknownField(..));
        let mut removed =
            if lenient && is_unknown { with_alike(&error.path, &from_file) } else { Vec::new() };
        removed.retain(|path| remove(&mut from_file, path));
        if removed.is_empty() {
            return Err(places.problem(&error.path, message));
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

fn expand_dict(
    dict: &mut Dict,
    environment: &Environment,
    path: &mut KeyPath,
) -> Result<(), (KeyPath, String)> {
    for (name, value) in dict {
        path.push(name.clone());
        expand_value(value, environment, path)?;
        path.pop();
    }
    Ok(())
}

fn expand_value(
    value: &mut Value,
    environment: &Environment,
    path: &mut KeyPath,
) -> Result<(), (KeyPath, String)> {
    match value {
        Value::String(_, text) => {
            *text = expand_text(text, environment).map_err(|message| (path.clone(), message))?;
        }
        Value::Dict(_, dict) => expand_dict(dict, environment, path)?,
        Value::Array(_, values) => {
            for (index, value) in values.iter_mut().enumerate() {
                path.push(index.to_string());
                expand_value(value, environment, path)?;
                path.pop();
            }
        }
        _ => {}
    }
    Ok(())
}

fn expand_text(text: &str, environment: &Environment) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').ok_or("'${' without a closing '}'")?;
        let value =
            environment.get(name).ok_or_else(|| format!("environment variable '{name}' is not set"))?;
        expanded.push_str(before);
        expanded.push_str(value);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// Says what a value was and what was expected, without the value: it may be a secret.
fn describe(kind: &Kind) -> String {
    match kind {
        Kind::UnknownField(_, []) => "unknown key, expected none here".to_owned(),
        Kind::UnknownField(_, expected) => format!("unknown key, expected {}", one_of(expected)),
        Kind::UnknownVariant(_, expected) => format!("unknown value, expected {}", one_of(expected)),
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            format!("found {}, expected {expected}", type_name(actual))
        }
        Kind::MissingField(name) => format!("'{name}' is missing"),
        Kind::Message(message) => message.clone(),
        other => other.to_string(),
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
        for (text, expanded) in [("${A}", "1"), ("x-${A}-${B}", "x-1-two"), ("$A", "$A"), ("", "")] {
            assert_eq!(expand_text(text, &environment).unwrap(), expanded);
        }
        assert!(expand_text("${C}", &environment).unwrap_err().contains("'C' is not set"));
        assert!(expand_text("${A", &environment).is_err());
    }
}
