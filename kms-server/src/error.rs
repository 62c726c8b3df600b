//! Why a server cannot start.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use kms_core::Error;
use kms_core::store::InvalidSetting;

/// Why a server cannot start: one line for the operator, and the error that caused it.
///
/// `Display` prints the whole line, with what the source says. Two of them are equal if their lines are.
#[derive(Clone, Debug)]
pub struct StartError {
    line: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl StartError {
    /// Creates an error from a line that names the file or key at fault, and what was expected.
    pub fn new(line: impl Into<String>) -> Self {
        Self { line: line.into(), source: None }
    }

    /// Creates an error from such a line and its cause.
    pub fn with_source(line: impl Into<String>, source: impl StdError + Send + Sync + 'static) -> Self {
        Self { line: line.into(), source: Some(Arc::new(source)) }
    }

    /// Creates an error whose line is what `source` displays.
    pub fn of(source: impl StdError + Send + Sync + 'static) -> Self {
        Self::with_source(source.to_string(), source)
    }

    /// Puts another line in the place of this one, and keeps the cause.
    #[must_use]
    pub fn with_line(self, line: impl Into<String>) -> Self {
        Self { line: line.into(), source: self.source }
    }

    /// Creates an error of what `section` of the config describes. Its line names the setting at fault.
    pub(crate) fn of_section(section: &str, error: &Error) -> Self {
        let line = match InvalidSetting::under(error) {
            Some(InvalidSetting { field, why }) => format!("{section}.{field}: {why}"),
            None => error.chain().to_string(),
        };
        Self::with_source(line, error.clone())
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl StdError for StartError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl PartialEq for StartError {
    fn eq(&self, other: &Self) -> bool {
        self.line == other.line
    }
}

impl Eq for StartError {}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        let line = error.chain().to_string();
        Self::with_source(line, error)
    }
}

#[cfg(test)]
mod tests {
    use kms_core::ErrorKind;

    use super::*;

    #[test]
    fn the_line_is_whole_and_the_source_is_kept() {
        let cause = std::io::Error::other("no route");
        let error = StartError::from(Error::with_source(ErrorKind::Unreachable, "read", cause));
        assert_eq!(error.to_string(), "read: key store is not available: no route");
        let source = StdError::source(&error).unwrap();
        assert_eq!(source.downcast_ref::<Error>().unwrap().kind(), ErrorKind::Unreachable);
        assert_eq!(source.source().unwrap().to_string(), "no route");
    }
}
