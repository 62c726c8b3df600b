//! Environment variables: those that set keys of the configuration, and those that values refer to.

use std::collections::BTreeMap;

use figment::value::{Dict, Value};

use super::forms;
use super::places::KeyPath;
use super::problem::{Problem, Warning};
use super::schema::TOP_LEVEL;

/// What the name of a variable that sets a key begins with.
const PREFIX: &str = "KMS_";

/// What stands between the parts of a key in the name of a variable.
const SEPARATOR: &str = "__";

/// The variable that says how much is logged; it sets no key.
const LOG_FILTER: &str = "KMS_LOG";

/// The environment of a process, as data. It has no `Debug`: variables may hold secrets.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Takes that of this process; variables that are no Unicode are left out.
    pub fn of_this_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    /// Reads a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Reads the first of several variables that is set and not empty.
    pub fn first_of(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.get(name).filter(|value| !value.is_empty()))
    }

    /// Collects the variables that set keys: `KMS_CACHE__EXPIRY__ANY` sets `cache.expiry.any`.
    ///
    /// Returns their values as a tree, what set which key, and a warning for each that looks like
    /// one but sets nothing. `KMS_PORT`, which Kubernetes makes of a service called kms, is none of them.
    pub fn overrides(&self) -> (Dict, BTreeMap<KeyPath, String>, Vec<Warning>) {
        let (mut tree, mut variables, mut warnings) = (Dict::new(), BTreeMap::new(), Vec::new());
        for (name, value) in &self.0 {
            let Some(key) = name.strip_prefix(PREFIX) else { continue };
            let path: KeyPath = key.to_ascii_lowercase().split(SEPARATOR).map(str::to_owned).collect();
            if name == LOG_FILTER {
                continue;
            }
            if TOP_LEVEL.contains(&path[0].as_str()) {
                forms::insert(&mut tree, &path, Value::from(value.as_str()));
                variables.insert(path, format!("environment variable {name}"));
            } else if path.len() > 1 {
                let place = format!("environment variable {name}");
                let message = format!("no such key, expected one that begins with {}", TOP_LEVEL.join(", "));
                warnings.push(Warning::no_effect(Problem::new(place, path.join("."), message)));
            }
        }
        (tree, variables, warnings)
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<T: IntoIterator<Item = (N, V)>>(variables: T) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_sets_the_key_that_its_name_spells() {
        let environment =
            Environment::from_iter([("KMS_CACHE__EXPIRY__ANY", "1m"), ("KMS_ADDRESS", "x"), ("OTHER", "y")]);
        let (tree, variables, warnings) = environment.overrides();
        let expiry = Value::from(tree).find("cache.expiry.any");
        assert_eq!(expiry.and_then(Value::into_string).as_deref(), Some("1m"));
        assert_eq!(variables.len(), 2);
        assert!(warnings.is_empty());
    }

    #[test]
    fn variables_of_kubernetes_are_passed_over_and_a_misspelt_one_is_told() {
        let environment = Environment::from_iter([
            ("KMS_PORT", "tcp://10.0.0.1:7373"),
            ("KMS_SERVICE_HOST", "10.0.0.1"),
            ("KMS_DEV_DIR", "/x"),
            ("KMS_CAHCE__EXPIRY__ANY", "1m"),
        ]);
        let (tree, _, warnings) = environment.overrides();
        assert!(tree.is_empty());
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].to_string().contains("KMS_CAHCE__EXPIRY__ANY"), "{}", warnings[0]);
    }
}
