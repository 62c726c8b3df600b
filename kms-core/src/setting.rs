//! Settings of a backend that cannot be used.

use std::error::Error as StdError;
use std::fmt;

use crate::{Error, ErrorKind};

/// A setting that cannot be used: what lies under an `InvalidInput` of a backend's checks, so that whoever read the settings can
/// tell where this one stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSetting {
    /// Its name below the section of its backend, such as `approle.id`.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

impl InvalidSetting {
    /// Makes the error of doing what is not possible with the setting `field`.
    pub fn error(doing: impl Into<String>, field: &str, why: impl Into<String>) -> Error {
        let setting = Self { field: field.to_owned(), why: why.into() };
        Error::with_source(ErrorKind::InvalidInput, doing, setting)
    }

    /// Finds what lies under an error; `None` if that is about no setting.
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
