//! libpq's environment variables.

use std::collections::HashMap;
use std::fmt;

/// The environment variables whose names begin with `PG`, and `HOME`. An empty one counts as missing, as with libpq.
#[derive(Clone, Default)]
pub struct Environment(HashMap<String, zeroize::Zeroizing<String>>);

impl Environment {
    /// Reads the variables of this process.
    pub fn of_process() -> Self {
        Self::of(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    /// Takes these variables, for a test.
    pub fn from_pairs(variables: &[(&str, &str)]) -> Self {
        Self::of(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    /// Returns the value of a variable.
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).map(|value| (**value).clone())
    }

    fn of(variables: impl Iterator<Item = (String, String)>) -> Self {
        let ours =
            variables.filter(|(name, value)| (name.starts_with("PG") || name == HOME) && !value.is_empty());
        Self(ours.map(|(name, value)| (name, zeroize::Zeroizing::new(value))).collect())
    }
}

/// The variable with the directory of the default password file.
const HOME: &str = "HOME";

/// Prints the names alone: one of the values is a password.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
