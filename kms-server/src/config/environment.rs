//! Environment variables. Some set keys of the configuration, others are referred to by values.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::node::{KeyPath, Node, Place, Value};
use super::problem::{Problem, Warning};
use super::schema::TOP_LEVEL;

/// The prefix of each variable that sets a key.
const PREFIX: &str = "KMS_";

/// The prefixes of all variables that the program itself looks for.
const OURS: [&str; 4] = [PREFIX, "KES_", "MINIO_KES_", "MINIO_KMS_KES_"];

/// The separator of the parts of a key in the name of a variable.
const SEPARATOR: &str = "__";

/// The variable that filters the log. It sets no key.
const LOG_FILTER: &str = "KMS_LOG";

/// The environment of a process, as data. It has no `Debug`: variables may hold secrets.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Copies the environment of this process.
    ///
    /// A variable of ours that is no Unicode is an error: without it the program would use another server, key or setting.
    /// Any other such variable is left out.
    pub fn of_this_process() -> Result<Self, Problem> {
        Self::of(std::env::vars_os())
    }

    fn of(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Self, Problem> {
        let mut environment = BTreeMap::new();
        for (name, value) in variables {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => drop(environment.insert(name, value)),
                Err(_) if OURS.iter().any(|prefix| name.starts_with(prefix)) => {
                    let place = format!("environment variable {name}");
                    return Err(Problem::new(place, "", "the value is not UTF-8"));
                }
                Err(_) => {}
            }
        }
        Ok(Self(environment))
    }

    /// Returns the value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns the environment without the variables that set keys, and with `more` variables.
    pub(super) fn for_file(&self, more: impl IntoIterator<Item = (String, String)>) -> Self {
        let is_override = |name: &str| {
            let key = name.strip_prefix(PREFIX).map(str::to_ascii_lowercase);
            key.is_some_and(|key| TOP_LEVEL.contains(&key.split(SEPARATOR).next().unwrap_or_default()))
        };
        let mut variables = self.0.clone();
        variables.retain(|name, _| !is_override(name));
        variables.extend(more);
        Self(variables)
    }

    /// Returns the variables whose names begin with `prefix`, and their values.
    pub fn beginning_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let all = self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        all.filter(move |(name, _)| name.starts_with(prefix))
    }

    /// Returns the value of the first variable in `names` that is set and not empty.
    pub fn first_of(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.get(name).filter(|value| !value.is_empty()))
    }

    /// Collects the variables that set keys: `KMS_CACHE__EXPIRY__ANY` sets `cache.expiry.any`.
    ///
    /// Returns their values as a tree, and a warning for each variable that looks like one of them but sets nothing.
    /// `KMS_PORT`, which Kubernetes makes of a service called kms, leads to none.
    pub fn overrides(&self) -> (Node, Vec<Warning>) {
        let (mut tree, mut warnings) = (Node::empty(), Vec::new());
        for (name, value) in self.0.iter().filter(|(name, _)| *name != LOG_FILTER) {
            let Some(key) = name.strip_prefix(PREFIX) else { continue };
            let path: KeyPath = key.to_ascii_lowercase().split(SEPARATOR).map(str::to_owned).collect();
            let place = format!("environment variable {name}");
            if TOP_LEVEL.contains(&path[0].as_str()) {
                tree.insert(&path, Node { value: Value::Text(value.clone()), place: Place::Beside(place) });
            } else if path.len() > 1 {
                let message = format!("no such key, expected one that begins with {}", TOP_LEVEL.join(", "));
                warnings.push(Warning::no_effect(Problem::new(place, path.join("."), message)));
            }
        }
        (tree, warnings)
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<T: IntoIterator<Item = (N, V)>>(variables: T) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::super::node::Key as _;
    use super::*;

    #[test]
    fn a_variable_of_ours_that_is_no_unicode_is_an_error() {
        let told = |name: &str| {
            let variables =
                [(name.into(), OsString::from_vec(b"secret\xff".to_vec())), ("A".into(), "b".into())];
            Environment::of(variables.into_iter()).map_err(|problem| problem.to_string())
        };
        for name in ["MINIO_KES_SERVER", "KES_API_KEY", "MINIO_KMS_KES_CAPATH", "KMS_CACHE__EXPIRY__ANY"] {
            let error = told(name).err().unwrap();
            assert!(error.contains(name) && !error.contains("secret"), "{error}");
        }
        let environment = told("LESS").unwrap();
        assert_eq!((environment.get("LESS"), environment.get("A")), (None, Some("b")));
    }

    #[test]
    fn a_variable_sets_the_key_that_its_name_spells() {
        let environment =
            Environment::from_iter([("KMS_CACHE__EXPIRY__ANY", "1m"), ("KMS_ADDRESS", "x"), ("OTHER", "y")]);
        let (tree, warnings) = environment.overrides();
        let expiry = tree.find(&"cache.expiry.any".path()).unwrap();
        assert_eq!(expiry.text(), Some("1m"));
        let place = "environment variable KMS_CACHE__EXPIRY__ANY".to_owned();
        assert_eq!(expiry.place, Place::Beside(place));
        assert_eq!(tree.table().unwrap().len(), 2);
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
        let (tree, warnings) = environment.overrides();
        assert!(tree.table().unwrap().is_empty());
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].to_string().contains("KMS_CAHCE__EXPIRY__ANY"), "{}", warnings[0]);
    }
}
