//! Why a server cannot start.

use std::fmt;

use kms_core::Error;
use kms_core::store::InvalidSetting;

/// Why a server cannot start: one line for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError(String);

impl StartError {
    /// Makes one of a line that names the file or key at fault and what was expected.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl StartError {
    /// Takes an error of what `section` of the config describes, and names the setting in it that is at fault.
    pub(crate) fn of_section(section: &str, error: &Error) -> Self {
        Self(match InvalidSetting::under(error) {
            Some(InvalidSetting { field, why }) => format!("{section}.{field}: {why}"),
            None => error.chain().to_string(),
        })
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        Self(error.chain().to_string())
    }
}
