//! The error for an invalid setting of a backend.

use std::error::Error as StdError;
use std::fmt;

use crate::error::{Error, ErrorKind};

/// An invalid setting of a backend: the source of the [`ErrorKind::InvalidInput`] that the backend's checks return.
///
/// The program that read the settings finds the field here, and can tell the user where it stands in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSetting {
    /// The name of the setting below the section of its backend, such as `approle.id`.
    pub field: String,
    /// The reason why it is invalid.
    pub why: String,
}

impl InvalidSetting {
    /// Creates an error of the operation `doing`, which failed because the setting `field` is invalid.
    pub fn error(doing: impl Into<String>, field: &str, why: impl Into<String>) -> Error {
        let setting = Self { field: field.to_owned(), why: why.into() };
        Error::with_source(ErrorKind::InvalidInput, doing, setting)
    }

    /// Returns the invalid setting under `error`; `None` if the error has another source.
    pub fn under(error: &Error) -> Option<&Self> {
        StdError::source(error)?.downcast_ref()
    }
}

impl fmt::Display for InvalidSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl StdError for InvalidSetting {}
