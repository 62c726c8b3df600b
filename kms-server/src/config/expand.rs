//! References to environment variables in the texts of a file.

use super::environment::Environment;
use super::layers::{Language, Layers, References};
use super::node::{KeyPath, Value};
use super::problem::Warning;
use super::yaml;

/// A text with a reference that cannot be replaced.
pub struct Failure {
    pub path: KeyPath,
    /// Why it cannot be replaced.
    pub message: String,
}

/// Replaces references to environment variables by the values of the variables.
///
/// In TOML that is each `${NAME}` in a text. In YAML it is each text that is `${NAME}` and nothing else, as in KES; a text
/// with a reference in its middle leads to a warning.
///
/// Returns the references that cannot be replaced. They are no errors yet, since the schema may pass over their keys.
pub fn expand(layers: &mut Layers, environment: &Environment, warnings: &mut Vec<Warning>) -> Vec<Failure> {
    let (mut expanded, mut failures, mut references) = (Vec::new(), Vec::new(), References::new());
    layers.tree.find_map(&mut |path, node| -> Option<()> {
        let text = node.text().filter(|text| text.contains("${"))?;
        let path = path.to_vec();
        let outcome = match layers.language {
            Language::Toml => expand_text(text, environment),
            Language::Yaml => {
                let Some(name) = reference(text) else {
                    let message = "'${' in the middle of a text means itself, as in KES: \
                        only a text that is '${NAME}' and nothing else is replaced";
                    warnings.push(Warning::dubious(layers.problem(&path, message)));
                    return None;
                };
                variable(name, environment).and_then(|value| unless_boolean(value, &path))
            }
        };
        references.insert(path.clone(), names_in(text));
        match outcome {
            Ok(text) => expanded.push((path, text)),
            Err(message) => failures.push(Failure { path, message }),
        }
        None
    });
    layers.references = references;
    for (path, text) in expanded {
        if let Some(node) = layers.tree.find_mut(&path) {
            node.value = Value::Text(text);
        }
    }
    failures
}

/// Refuses the text of a boolean where KES reads `on` as a text, and `true` as a boolean only.
fn unless_boolean(text: &str, path: &[String]) -> Result<String, String> {
    if yaml::is_switch(path) && yaml::is_boolean(text) {
        return Err(format!("the variable is the text '{text}', expected 'on' or 'off'"));
    }
    Ok(text.to_owned())
}

/// Returns the names of all references in a text.
fn names_in(text: &str) -> Vec<String> {
    let parts = text.split("${").skip(1).filter_map(|part| part.split_once('}'));
    parts.map(|(name, _)| name.trim().to_owned()).collect()
}

/// Returns the name in a text that is a reference and nothing else.
pub fn reference(text: &str) -> Option<&str> {
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
